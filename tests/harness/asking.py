"""Requests whose every line a test decides, and the answers decoded."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider
from tests.harness.scripted_upstream import ScriptedUpstream

CHAT = "/v1/chat/completions"
HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
JSON_TYPE = "content-type: application/json"
# A guard against hanging: uvloop hears of no signal by which pytest would end a test.
_ANSWER_S = 60


def one_provider(upstream: ScriptedUpstream, **sections: Any) -> dict[str, Any]:
    """Return settings that bind text to a scripted provider alone."""
    return {
        "providers": {"fm": openai_provider(upstream.url)},
        "capabilities": {"text": ["fm/model-1"]},
        **sections,
    }


@dataclass(frozen=True)
class Told:
    """A whole answer; `content` is its body, decoded where there is one, and no stream."""

    status: int
    headers: dict[str, str]
    content: Any

    @property
    def code(self) -> str | None:
        """The code of the error that this is; None when it is none."""
        return self.content["error"]["code"] if self.status >= 400 else None


async def ask(
    port: int,
    *lines: str,
    method: str = "GET",
    path: str = "/v1/models",
    body: bytes = b"",
    host: str | None = "127.0.0.1",
) -> Told:
    """Send a request of exactly these header lines, a Host and the body's length before them."""
    told = [f"host: {host}"] if host is not None else []
    if body:
        told.append(f"content-length: {len(body)}")
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *told, *lines])
    return await send(port, f"{head}\r\n\r\n".encode("latin-1") + body, has_body=method != "HEAD")


async def post(port: int, body: bytes, path: str = CHAT) -> Told:
    """Post bytes as JSON."""
    return await ask(port, JSON_TYPE, method="POST", path=path, body=body)


async def send(port: int, data: bytes, *, has_body: bool = True) -> Told:
    """Send bytes as they are; return the first answer to them."""
    async with asyncio.timeout(_ANSWER_S), RawClient(port) as client:
        await client.send(data)
        return await answer(client, has_body=has_body)


async def answer(client: RawClient, *, has_body: bool = True) -> Told:
    """Read one answer of a connection."""
    status, headers = await client.head()
    body = await client.body(headers) if has_body and status != 204 else b""
    is_json = body and headers.get("content-type") != "text/event-stream"
    return Told(status, headers, json.loads(body) if is_json else None)


def assert_error(told: Told, status: int, code: str) -> None:
    """Check that an answer is this error in OpenAI's shape, and bears an id."""
    assert (told.status, told.code) == (status, code)
    error = told.content["error"]
    assert set(told.content) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert told.headers["content-type"] == "application/json"
    assert told.headers["x-signalbox-error"] == "1"
    assert told.headers["x-request-id"]
