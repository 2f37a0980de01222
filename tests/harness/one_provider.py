"""A router in front of one scripted provider, and the words they usually exchange."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.harness.authority import Authority
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = {**HELLO, "stream": True}
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def scripted(tls: Authority | None, script: Script) -> ScriptedUpstream:
    """Return a provider that does as scripted, over TLS where there is an authority."""
    return ScriptedUpstream(script, tls=tls.server() if tls else None)


def settings_of(fm: ScriptedUpstream, tls: Authority | None, **more: Any) -> dict[str, Any]:
    """Return the settings of such a provider."""
    return openai_provider(fm.url, **({"ca_file": str(tls.file)} if tls else {}), **more)


@asynccontextmanager
async def one_provider(
    folder: Path, tls: Authority | None, script: Script, **sections: Any
) -> AsyncIterator[tuple[ScriptedUpstream, RunningRouter]]:
    """Run a router whose `text` is served by the script alone; `fm` holds the provider's keys."""
    more = sections.pop("fm", {})
    async with (
        scripted(tls, script) as fm,
        running_router(
            folder,
            providers={"fm": settings_of(fm, tls, **more)},
            capabilities={"text": ["fm/model-1"]},
            **sections,
        ) as signalbox,
    ):
        yield fm, signalbox


@asynccontextmanager
async def two_providers(
    folder: Path, tls: Authority | None, script: Script, other: Script, **sections: Any
) -> AsyncIterator[tuple[ScriptedUpstream, ScriptedUpstream, RunningRouter]]:
    """Run a router that serves `text` by the first provider and falls back to the second."""
    async with (
        scripted(tls, script) as fm,
        scripted(tls, other) as next_fm,
        running_router(
            folder,
            providers={"fm": settings_of(fm, tls), "other": settings_of(next_fm, tls)},
            capabilities={"text": ["fm/model-1", "other/model-2"]},
            **sections,
        ) as signalbox,
    ):
        yield fm, next_fm, signalbox


def streams(*pieces: bytes) -> Script:
    """Return the script of a provider that streams these pieces and ends as HTTP wants it."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for piece in pieces:
            await conversation.event(piece)
        await conversation.end_stream()

    return script


async def streamed(signalbox: RunningRouter, body: Any = None) -> bytes:
    """Return the body of a stream that began well and was framed to its end."""
    async with RawClient(signalbox.port) as client:
        await client.post("/v1/chat/completions", body or STREAMED)
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        return await client.body(headers)


def error_of(body: bytes) -> Any:
    """Return the error object of an answer's body."""
    return json.loads(body)["error"]


def last_error(body: bytes) -> Any:
    """Return the error object of a stream's last event."""
    return error_of(body[body.rindex(b"data: ") + 6 :])
