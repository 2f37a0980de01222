"""Pictures, requests that name one, and a network in which an address of this machine is public."""

import base64
import io
import json
import ssl
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from router.images.address import is_public
from router.images.network import Network
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

# Another of its own than 127.0.0.1; where there is no second one, that of IPv6.
PUBLIC = "127.0.0.2" if sys.platform == "linux" else "::1"
SHOWN = "picture.example"
FETCHES = {"remote_fetch": True}


@cache
def picture(kind: str = "PNG", width: int = 6, height: int = 4, frames: int = 1) -> bytes:
    """Return a picture as a file, of a format as Pillow names it."""
    images = [
        Image.new("RGB", (width, height), (20 * at % 256, 30, 90 + at % 99)) for at in range(frames)
    ]
    file = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(file, kind, **more)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG that says to be so large, in few bytes whatever it says."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def uri_of(data: bytes, media_type: str = "image/png") -> str:
    """Return bytes as a `data:` URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def shows(*urls: str, **more: Any) -> dict[str, Any]:
    """Return a chat request that names these pictures."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content = [{"type": "text", "text": "what is this?"}, *parts]
    return {"messages": [{"role": "user", "content": content}], **more}


def shown(conversation: Conversation) -> list[str]:
    """Return what a provider of the chat protocol was shown."""
    content = conversation.json["messages"][0]["content"]
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def seen_by(fm: ScriptedUpstream, images: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return settings in which `vision` is served by one scripted provider."""
    return {
        "providers": {"fm": openai_provider(fm.url, **more)},
        "capabilities": {"vision": ["fm/eyes"]},
        "images": images or {},
    }


def serves(data: bytes, status: int = 200, **headers: str) -> Script:
    """Return the script of a server that has one picture, or something else."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(data, status, "image/png", **headers)

    return script


def leads_to(location: str) -> Script:
    """Return the script of a server that redirects."""
    return serves(b"", 302, location=location)


def web(script: Script, **more: Any) -> ScriptedUpstream:
    """Return a server of the small network's public side."""
    return ScriptedUpstream(script, host=PUBLIC, **more)


def small_network(
    resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None, **more: Any
) -> Network:
    """Return a network in which one address of this machine is public.

    `picture.example` leads there, unless `resolve` says otherwise.
    """

    async def by_default(host: str) -> Sequence[str]:
        if host != SHOWN:
            raise OSError(f"nobody knows {host}")
        return [PUBLIC]

    return Network(
        resolve or by_default,
        lambda address: address == ip_address(PUBLIC) or is_public(address),
        **{"own": list, **more},
    )


class Fetching(NamedTuple):
    """A router that fetches for one provider, `fm`, out of a small network in which `outer` is."""

    fm: ScriptedUpstream
    outer: ScriptedUpstream
    signalbox: RunningRouter


@asynccontextmanager
async def fetching(
    folder: Path,
    script: Script,
    network: Network | None = None,
    images: dict[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
    **sections: Any,
) -> AsyncIterator[Fetching]:
    """Run a router whose pictures come from a server that answers by `script`."""
    async with ScriptedUpstream() as fm, web(script, tls=tls) as outer:
        settings = {**seen_by(fm, FETCHES if images is None else images), **sections}
        async with running_router(
            folder, network=network or small_network(), **settings
        ) as signalbox:
            yield Fetching(fm, outer, signalbox)


def body_of(fields: dict[str, Any]) -> bytes:
    """Return a request's body."""
    return json.dumps(fields).encode()
