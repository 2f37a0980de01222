"""`ask` and `explain`: one request, answered or only decided."""

import base64
import json
from pathlib import Path
from typing import Any

from backends.wire import PRIORITY, Priority
from router.cli.call import Call
from router.cli.failure import UsageFailure
from router.cli.output import Output
from router.cli.router_client import RouterClient

_CHAT = "/v1/chat/completions"
_MESSAGES = "/v1/messages"
# A picture is known by its first bytes; its name may say anything.
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_CANDIDATE_ROW = ("model", "kept", "why", "facts")
_ROUTE_ROW = ("provider", "model", "capability", "locality", "shims")


def ask(call: Call, client: RouterClient, output: Output) -> None:
    """Print a model's answer as it comes; with `--json` the whole answer at its end."""
    body = _request(call)
    # A person is waiting.
    headers = {PRIORITY: str(int(Priority.HIGH))}
    if output.as_json:
        output.document(client.call("POST", _CHAT, body, headers=headers, patient=True))
        return
    with client.stream(_CHAT, {**body, "stream": True}, headers) as chunks:
        try:
            for chunk in chunks:
                output.piece(_text_of(chunk))
        finally:
            # However it ends: what comes next on the terminal begins a line.
            output.line()


def explain(call: Call, client: RouterClient, output: Output) -> None:
    """Print who would serve a request, and why."""
    options = call.options
    body = _asking(call) if options.body is None else _read_body(options.body)
    question = {
        "path": options.path,
        "body": body,
        "local_only": options.local_only,
        "priority": options.priority,
    }
    decision = client.call("POST", "/admin/explain", question)
    if output.as_json:
        output.document(decision)
        return
    output.line(f"needs: {', '.join(decision['needs'])}")
    if decision["candidates"]:
        output.line()
        output.table(_CANDIDATE_ROW, decision["candidates"])
    if decision["routes"]:
        output.line()
        output.table(_ROUTE_ROW, decision["routes"])
    if (error := decision.get("error")) is not None:
        output.line()
        output.line(f"refused: {error['message']} ({error['code']})")


def _asking(call: Call) -> dict[str, Any]:
    """Return a request that asks the endpoint of `--path` what was asked."""
    options = call.options
    if options.path == _CHAT:
        return _request(call)
    if options.image:
        raise UsageFailure(f"--image is for {_CHAT}; for other endpoints use --body FILE")
    if options.path.startswith(_MESSAGES):
        return _request(call)
    return {"model": options.model, "input": options.prompt}


def _request(call: Call) -> dict[str, Any]:
    options = call.options
    content: str | list[dict[str, Any]] = options.prompt
    if options.image:
        pictures = [
            {"type": "image_url", "image_url": {"url": uri(each)}} for each in options.image
        ]
        content = [*pictures, {"type": "text", "text": options.prompt}]
    return {"model": options.model, "messages": [{"role": "user", "content": content}]}


def uri(picture: Path) -> str:
    """Return a picture as a data: URI; UsageFailure for what is not one."""
    try:
        raw = picture.read_bytes()
    except OSError as error:
        raise UsageFailure(f"{picture}: {error.strerror}") from error
    kind = next((kind for start, kind in _KINDS if raw.startswith(start)), None)
    if kind is None:
        raise UsageFailure(f"{picture}: not a PNG, JPEG, GIF or WebP picture")
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _read_body(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageFailure(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageFailure(f"{path}: not JSON ({error})") from error
    if not isinstance(body, dict):
        raise UsageFailure(f"{path}: a request is a JSON object")
    return body


def _text_of(chunk: Any) -> str:
    """Return the text that a chunk adds to the first choice."""
    try:
        return chunk["choices"][0]["delta"]["content"] or ""
    except (KeyError, IndexError, TypeError):
        return ""  # usage, a role, reasoning: nothing to show
