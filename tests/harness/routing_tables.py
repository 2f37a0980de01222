"""The tables of docs/routing.md, made of what the code decides. `scripts/routing-docs` writes them.

Each stands in the file between `<!-- name: … -->` and `<!-- end -->`; the words around them are a
person's.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from backends.wire import _IN_STREAM, CODES, SHOULD_RETRY, Priority
from router.capabilities import Capability, Requirement
from router.catalog import Alias, Binding, Catalog, Fact, Kind, Locality, Model, Provider, Source
from router.endpoints import CHAT, ENDPOINTS
from router.errors import Refused, SignalboxError
from router.request import ADMIN, Caller, priority_of
from router.resolver import decide
from tests.harness.endpoints import REQUESTS

FILE: Final = Path(__file__).parents[2] / "docs" / "routing.md"
_CODE: Final = Path(__file__).parents[2]
# What SDKs ask again by themselves, besides server errors.
_RETRIED: Final = frozenset({408, 409, 429})
_SECTION: Final = re.compile(r"(<!-- ([a-z ]+): [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)

Rows = Iterable[Sequence[str]]

# What is read of a request

_IMAGE = {"type": "image_url", "image_url": {"url": "data:…"}}
_TOOLS: Any = [{"type": "function", "function": {"name": "look"}}]
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "lamp", "schema": {}}}


def _says(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


def _input(*content: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(content)}]}


SAMPLES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "/v1/chat/completions": {
        "a part `image_url`": _says(_IMAGE),
        "a part `image` or `input_image`": _says({"type": "image"}),
        "a part without a `type`, but with a field `image_url`": _says({"image_url": {}}),
        "a part `input_audio`, `audio_url` or `audio`": _says({"type": "input_audio"}),
        "a part `file` or `input_file`": _says({"type": "file"}),
        "a part `video_url`, `input_video` or `video`": _says({"type": "video_url"}),
        "`tools`, or `functions`": {"tools": _TOOLS},
        "`tools` with `tool_choice: none`": {"tools": _TOOLS, "tool_choice": "none"},
        "`tool_calls`, or role `tool` or `function`, in the history": {
            "messages": [{"role": "tool"}]
        },
        "`response_format` of type `json_schema`": {"response_format": _SCHEMA},
        "`response_format` of type `json_object`": {"response_format": {"type": "json_object"}},
        "a picture, tools and a schema": {
            **_says(_IMAGE),
            "tools": _TOOLS,
            "response_format": _SCHEMA,
        },
    },
    "/v1/responses": {
        "a part `input_image`, at any depth": _input({"type": "input_image"}),
        "a part `computer_screenshot`": _input({"type": "computer_screenshot"}),
        "a part `input_audio`": _input({"type": "input_audio"}),
        "a part `input_file`": _input({"type": "input_file"}),
        "`tools`": {"tools": _TOOLS},
        "an item `…_call` or `…_call_output`": {"input": [{"type": "function_call_output"}]},
        "`text.format` of type `json_schema` or `json_object`": {"text": {"format": _SCHEMA}},
    },
    "/v1/messages": {
        "a block `image`, in a tool's result too": _says({"type": "image"}),
        "a block `document`": _says({"type": "document"}),
        "a block `document` whose source is `text` or `content`": _says(
            {"type": "document", "source": {"type": "text"}}
        ),
        "`tools`": {"tools": _TOOLS},
        "a block `tool_use` or `tool_result`": _says({"type": "tool_result"}),
        "`output_config.format` of type `json_schema`": {"output_config": {"format": _SCHEMA}},
    },
}


def needs() -> Rows:
    """Tell what each endpoint makes of what stands in a request."""
    yield "endpoint", "what stands in the request", "needs"
    for path, endpoint in ENDPOINTS.items():
        same = [each.path for each in ENDPOINTS.values() if each.needs is endpoint.needs]
        if path != same[0]:
            continue
        for what, body in {"nothing of the below": {}, **SAMPLES.get(path, {})}.items():
            requirement = endpoint.requirement({**REQUESTS[path], **body}, max_images=9)
            yield (
                ", ".join(f"`{each}`" for each in same),
                what if path in SAMPLES else "anything",
                ", ".join(f"`{need}`" for need in requirement.needs),
            )


# A small catalog

_BUILTIN = Provider("builtin", Kind.BUILTIN, "http://127.0.0.1:60316/v1", Locality.LOCAL)
_BOX = Provider("box", Kind.OPENAI, "http://127.0.0.1:8080/v1", Locality.LOCAL)
_OLLAMA = Provider("ollama", Kind.OLLAMA, "http://127.0.0.1:11434/v1", Locality.LOCAL)
_CLOUD = Provider("cloud", Kind.OPENAI, "https://cloud.example/v1", Locality.REMOTE)
_SMALL = Model("builtin", "small")
_WRITER = Model("box", "writer")
_EYES = Model("box", "eyes")
_BIG = Model("cloud", "big")
_LISTED = Model("cloud", "listed", listed=True)
# An Ollama that has not been heard yet.
_UNHEARD = Model("ollama", "unheard")
_GONE = "gone/model"


def _catalog(
    bindings: dict[str, Sequence[str]],
    *,
    facts: dict[str, Fact] | None = None,
    local_only: bool = False,
    allow_remote_fallback: bool = False,
) -> Catalog:
    eyes = replace(_EYES, facts=facts or {})
    models = (_SMALL, _WRITER, eyes, _BIG, _LISTED, _UNHEARD)
    return Catalog(
        providers={each.name: each for each in (_BUILTIN, _BOX, _OLLAMA, _CLOUD)},
        models={model.name: model for model in models},
        bindings={
            Capability(name): Binding(
                Capability(name), tuple(bound), allow_remote_fallback=allow_remote_fallback
            )
            for name, bound in bindings.items()
        },
        aliases={"gpt-4o": Alias("auto"), "claude-*": Alias("text")},
        local_only=local_only,
    )


def _outcome(requirement: Requirement, catalog: Catalog) -> str:
    decision = decide(requirement, catalog)
    if decision.error is not None:
        return f"{decision.error.status} `{decision.error.code}`"
    return ", then ".join(f"`{route.model.name}`" for route in decision.routes)


_WITH: Final[dict[str, dict[str, Any]]] = {
    "a picture": _says(_IMAGE),
    "tools": {"tools": _TOOLS},
    "a schema": {"response_format": _SCHEMA},
    "sound": _says({"type": "input_audio"}),
}


def _chat(body: dict[str, Any], model: str | None = None) -> Requirement:
    return CHAT.requirement({"messages": [], **body, "model": model}, max_images=9)


def names() -> Rows:
    """Tell whom each form of a name leads to."""
    catalog = _catalog({"text": ["box/writer"], "vision": ["box/eyes", "cloud/big"]})
    yield "`model`", "a request of text alone", "a request with a picture"
    for name in (
        None,
        "auto",
        "vision",
        "text",
        "tool_use",
        "gpt-4o",
        "claude-opus",
        "cloud/big",
        "cloud/not-listed",
        "big",
        "listed",
        "cloud/listed",
        "builtin/small",
        "nobody",
    ):
        shown = "*absent*" if name is None else f"`{name}`"
        asked = (_chat(body, name) for body in ({}, _WITH["a picture"]))
        yield shown, *(_outcome(requirement, catalog) for requirement in asked)


def order() -> Rows:
    """Tell which binding serves a request that has several needs."""
    bindings = {"vision": ["box/eyes"], "tool_use": ["cloud/big"], "text": ["box/writer"]}
    no_tools = {"tool_use": Fact(value=False, source=Source.PROVIDER)}
    yield "a request with", "is tried", "bound", "goes to"
    for told, bound, known in (
        (["a schema"], ("text",), {}),
        (["tools"], ("tool_use", "text"), {}),
        (["a picture", "tools"], ("vision", "tool_use", "text"), {}),
        (["a picture", "tools"], ("vision", "tool_use", "text"), no_tools),
        (["a picture", "tools"], ("tool_use", "text"), {}),
        (["a picture", "tools"], ("text",), {}),
    ):
        requirement = _chat({name: part for what in told for name, part in _WITH[what].items()})
        yield (
            " and ".join(told),
            ", then ".join(f"`{need}`" for need in requirement.needs),
            ", ".join(f"`{name}: {bindings[name][0]}`" for name in bound)
            + ("; `box/eyes` cannot call tools, says its provider" if known else ""),
            _outcome(requirement, _catalog({name: bindings[name] for name in bound}, facts=known)),
        )


_FACTS: Final = {
    "unknown": None,
    "true, says the provider": Fact(value=True, source=Source.PROVIDER),
    "false, says the provider": Fact(value=False, source=Source.PROVIDER),
    "false, a probe showed": Fact(value=False, source=Source.PROBE),
    "true, says you": Fact(value=True, source=Source.USER),
    "false, says you": Fact(value=False, source=Source.USER),
}


def facts() -> Rows:
    """Tell what each fact of a model does to requests, by how the model came to be asked."""
    yield "a request with", "`box/eyes` can do it", "bound to it", "bound to `text`", "named"
    alike: dict[tuple[str, ...], list[str]] = {}
    for (what, body), (told, fact) in itertools.product(_WITH.items(), _FACTS.items()):
        need = _chat(body).needs[-1]
        known = {} if fact is None else {need: fact}
        to_text = _catalog({"text": ["box/eyes"]}, facts=known)
        # Sound is no lever: nothing can be bound to it.
        to_it = need in set(Capability) and _catalog({need: ["box/eyes"]}, facts=known)
        outcomes = (
            _outcome(_chat(body), to_it) if to_it else "",
            _outcome(_chat(body, "text"), to_text),
            _outcome(_chat(body, "box/eyes"), to_text),
        )
        alike.setdefault((told, *outcomes), []).append(what)
    for row, whats in alike.items():
        yield ", ".join(whats), *row


def locality() -> Rows:
    """Tell which models of a binding may be tried, by where their prompts end up."""
    yield "`text` is bound to", "as it stands", "`allow_remote_fallback: true`", "`local_only`"
    for told, bound in (
        ("local, remote", ("box/writer", "cloud/big")),
        ("remote, local", ("cloud/big", "box/writer")),
        ("remote", ("cloud/big",)),
        ("not heard yet, remote", ("ollama/unheard", "cloud/big")),
        ("of a removed provider, remote", (_GONE, "cloud/big")),
        ("of a removed provider, local", (_GONE, "box/writer")),
    ):
        catalogs = (
            _catalog({"text": bound}),
            _catalog({"text": bound}, allow_remote_fallback=True),
            _catalog({"text": bound}, allow_remote_fallback=True, local_only=True),
        )
        yield told, *(_outcome(_chat({}), catalog) for catalog in catalogs)


_KEY = Caller(priority=Priority.HIGH)
_ANYBODY = Caller()


def priorities() -> Rows:
    """Tell the priority that a request gets of each of its wishes."""
    yield "the request", "its key or alias says", "priority"
    for told, wish, tier, caller in (
        ("`?priority=high`, or `x-priority: high`", "high", None, _ANYBODY),
        ("the same with `1`", "1", None, _ANYBODY),
        ("the same with `low` or `10`", "10", None, _KEY),
        ("the same with `system`", "system", None, _ANYBODY),
        ("the same with `system` and the admin key", "system", None, ADMIN),
        ("the same with anything else", "urgent", None, _ANYBODY),
        ('`"service_tier": "priority"`', None, "priority", _ANYBODY),
        ('`"service_tier": "flex"`', None, "flex", _KEY),
        ('`"service_tier": "auto"`', None, "auto", _KEY),
        ("nothing", None, None, _KEY),
        ("nothing", None, None, _ANYBODY),
    ):
        fields = {} if tier is None else {"service_tier": tier}
        try:
            found = priority_of(wish, fields, Priority.LOW, caller)
            given = f"{found.name.lower()} ({found.value})"
        except Refused as refusal:
            given = f"{refusal.status} `{refusal.code}`"
        yield told, "high" if caller is _KEY else "", given


# What a person does about each code; the message of an error says more.
ADVICE: Final = {
    "invalid_json": "send one valid JSON object, in UTF-8",
    "json_too_deep": "nest less, or raise `limits.depth`",
    "too_many_values": "send less at a time, or raise `limits.values`",
    "invalid_request": "the message names the field and what is due there",
    "invalid_priority": "`high`, `low`, or their numbers",
    "capability_mismatch": "the message tells what each model lacks: assign one that can",
    "context_length_exceeded": "send less, or ask for a shorter answer",
    "unsupported_parameter": "leave it out; the message names it",
    "invalid_image": "send the whole picture as PNG, JPEG, WebP or GIF, not too large",
    "too_many_images": "send fewer at a time, or raise `limits.images`",
    "image_not_found": "look at the path and `images.local_roots`, or at what the address has",
    "image_url_not_allowed": "send the picture itself, as a `data:` URI",
    "file_url_not_allowed": "send the sound, film or file itself, in base64 or as a `data:` URI",
    "invalid_configuration": "mend the place in `router.yaml` that is named; nothing was changed",
    "invalid_api_key": "send one of `server.api_keys`, or for the control plane the admin key",
    "host_not_allowed": "use 127.0.0.1, or list the name in `server.allowed_hosts`",
    "origin_not_allowed": "list the page's origin in `server.allowed_origins`",
    "priority_not_allowed": "ask with the admin key, or with another priority",
    "remote_not_allowed": "assign a local model, or lift what the message names",
    "not_found": "look at the path; a `base_url` ends in `/v1`",
    "model_not_found": "`GET /v1/models` lists what there is",
    "capability_not_assigned": "`signalbox capabilities assign CAPABILITY PROVIDER/MODEL`",
    "model_not_downloaded": "`signalbox models pull MODEL`",
    "method_not_allowed": "the header `allow` names the methods",
    "request_timeout": "send the whole request sooner",
    "backend_not_assigned": "assign the builtin model to a capability first",
    "request_cancelled": "somebody ended it through `/admin/requests`",
    "conflict": "the message names what stands against it",
    "download_not_available": "the message names what is missing",
    "body_too_large": "send less, or raise `limits.body_mb`",
    "unsupported_media_type": "send `application/json` (forms: `multipart/form-data`), unpacked",
    "queue_full": "ask again after `retry-after`",
    "spend_limit_reached": "tomorrow (UTC), or raise the provider's `spend_limit`",
    "headers_too_large": "send fewer headers, or raise `limits.header_kb`",
    "internal_error": "a defect of ours: the log has it under the request's id",
    "generation_failed": "ask again; the log of the backend tells why",
    "upstream_unreachable": "start the provider, look at its `base_url`",
    "upstream_reset": "ask again; the provider closed the connection",
    "upstream_protocol_error": "look at `base_url`: what is there does not keep to HTTP",
    "upstream_invalid_response": "the provider answered with an error or nonsense; see its log",
    "upstream_response_too_large": "ask for less, stream, or raise `limits.response_mb`",
    "provider_auth_error": "look at the provider's `api_key`",
    "download_failed": "ask again: it goes on where it can; the message tells why",
    "provider_unavailable": "ask again after `retry-after`: the provider is left alone for a while",
    "queue_timeout": "ask again after `retry-after`, or raise `timeouts.queue_s`",
    "backend_port_in_use": "end the program that is named, or change the provider's `port`",
    "backend_start_timeout": "ask again; or raise `timeouts.start_s`",
    "backend_failed": "the message has its last words; assign it again to try anew",
    "model_load_failed": "the message tells why: often a smaller model",
    "shutting_down": "ask again when the router is back",
    "store_unavailable": "ask again; requests are served meanwhile",
    "upstream_timeout": "ask again, or raise `timeouts.first_byte_s`",
    "disk_full": "free the space that is named",
    "upstream_truncated": "ask again: what came is not whole",
    "upstream_idle_timeout": "ask again, or raise `timeouts.idle_s`",
    "upstream_total_timeout": "ask for less, or raise `timeouts.total_s`",
    "upstream_invalid_frame": "the provider broke its own protocol: see its log",
}


def codes_in_use() -> set[str]:
    """Return the codes that some module raises."""
    modules = itertools.chain(*((_CODE / name).rglob("*.py") for name in ("router", "backends")))
    text = "".join(each.read_text("utf-8") for each in modules if each.name != "wire.py")
    return {code for code in CODES if f'"{code}"' in text}


def errors() -> Rows:
    """Tell every code that a client may see: its status, whether to ask again, what to do."""
    yield "status", "`code`", "an SDK asks again", "what to do"
    used = codes_in_use()
    for code in CODES:
        if code in used:
            error = SignalboxError(code, "")
            forbidden = (SHOULD_RETRY.encode(), b"false") in error.headers()
            again = (error.status in _RETRIED or error.status >= 500) and not forbidden
            in_stream = code in _IN_STREAM
            yield (
                "in a stream" if in_stream else str(error.status),
                f"`{code}`",
                "yes" if again and not in_stream else "",
                ADVICE[code],
            )


TABLES: Final = {
    "needs": needs,
    "names": names,
    "order": order,
    "facts": facts,
    "locality": locality,
    "priorities": priorities,
    "errors": errors,
}


def _lines(rows: Rows) -> Iterator[str]:
    head, *others = rows
    for row in (head, ["---"] * len(head), *others):
        yield f"| {' | '.join(row)} |\n"


def written(text: str) -> str:
    """Return the file with its tables as the code has them; KeyError for one that is not ours."""

    def table(found: re.Match[str]) -> str:
        return found[1] + "".join(_lines(TABLES[found[2]]())) + found[3]

    return _SECTION.sub(table, text)


def shown_in(text: str) -> list[str]:
    """Return the names of the tables that a text has a place for."""
    return [found[2] for found in _SECTION.finditer(text)]


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text("utf-8")), "utf-8")
