"""Requests that two HTTP parsers could read differently, or that have no end: refused and closed.

Each is followed on its connection by a request in good order. It must never run: whoever stands in
front of us may have taken it for a part of the first.
"""

import asyncio
import contextlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

HELLO = b'{"model":"text","messages":[{"role":"user","content":"hello"}]}'
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
)
GET = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"
LENGTH = b"content-length: %d\r\n" % len(HELLO)
NEXT = POST + LENGTH + b"\r\n" + HELLO
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(HELLO), HELLO)
BODY = CHUNK + b"0\r\n\r\n"
KB = 1 << 10


def _one(upstream: ScriptedUpstream) -> dict[str, Any]:
    return {
        "providers": {"fm": openai_provider(upstream.url)},
        "capabilities": {"text": ["fm/m"]},
    }


async def _refusal(port: int, request: bytes, then: bytes = NEXT) -> tuple[int, Any]:
    """Return the status and error of the only answer to a request and to the one after it."""
    async with asyncio.timeout(5), RawClient(port) as client:
        await client.send(request + then)
        status, headers = await client.head()
        body = await client.body(headers)
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"]
        assert await client.rest() == b""
    return status, json.loads(body)["error"]


_MISREAD = {
    "a length and chunks": POST + LENGTH + CHUNKED + b"\r\n" + BODY,
    "chunks and a length": POST + CHUNKED + LENGTH + b"\r\n" + BODY,
    "two lengths that differ": POST + LENGTH + b"content-length: 5\r\n\r\n" + HELLO,
    "two lengths that agree": POST + LENGTH * 2 + b"\r\n" + HELLO,
    "a list of lengths": POST + b"content-length: 5, 5\r\n\r\n" + b"{   }",
    "a length with a sign": POST + b"content-length: +5\r\n\r\n" + b"{   }",
    "a negative length": POST + b"content-length: -5\r\n\r\n",
    "a hexadecimal length": POST + b"content-length: 0x5\r\n\r\n" + b"{   }",
    "a length that is empty": POST + b"content-length:\r\n\r\n",
    "two lengths in one": POST + b"content-length: 5 5\r\n\r\n{   }",
    "a folded length": POST + b"content-length:\r\n 5\r\n\r\n{   }",
    "a length in digits that are not ours": POST + b"content-length: \xd9\xa5\r\n\r\n{   }",
    "a length of nothing and chunks": POST + CHUNKED + b"content-length: 0\r\n\r\n" + BODY,
    "a coding after an odd blank": POST + b"transfer-encoding:\x0bchunked\r\n\r\n" + BODY,
    "a length beyond all numbers": POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n",
    "a coding that looks like chunked": POST + b"transfer-encoding: xchunked\r\n\r\n" + BODY,
    "a coding that ends in chunked": POST + b"transfer-encoding: gzip, chunked\r\n\r\n" + BODY,
    "a coding that begins with chunked": POST + b"transfer-encoding: chunked, gzip\r\n\r\n" + BODY,
    "identity and chunked": POST + b"transfer-encoding: identity\r\n" + CHUNKED + b"\r\n" + BODY,
    "identity alone": POST + b"transfer-encoding: identity\r\n\r\n",
    "chunked twice": POST + CHUNKED * 2 + b"\r\n" + BODY,
    "a coding in quotes": POST + b'transfer-encoding: "chunked"\r\n\r\n' + BODY,
    "chunks in HTTP/1.0": POST.replace(b"/1.1", b"/1.0") + CHUNKED + b"\r\n" + BODY,
    "a chunk without its end of line": POST + CHUNKED + b"\r\n2\r\n{}0\r\n\r\n",
    "a chunk longer than its size": POST + CHUNKED + b"\r\n1\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a sign": POST + CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a prefix": POST + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk size that is empty": POST + CHUNKED + b"\r\n\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond all numbers": POST + CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n{}",
    "a chunk that ends in LF": POST + CHUNKED + b"\r\n2\r\n{}\n0\r\n\r\n",
    "a chunk size that ends in LF": POST + CHUNKED + b"\r\n2\n{}\r\n0\r\n\r\n",
    "lines that end in LF": GET.replace(b"\r\n", b"\n") + b"\n",
    "a header that ends in LF": GET + b"x-a: b\nx-c: d\r\n\r\n",
    "a header that ends in CR": GET + b"x-a: b\rx-c: d\r\n\r\n",
    "a folded header": GET + b"x-a: b\r\n c\r\n\r\n",
    "a folded first header": b"GET /v1/models HTTP/1.1\r\n host: 127.0.0.1\r\n\r\n",
    "a space before a colon": GET + b"x-a : b\r\n\r\n",
    "a space within a length's name": POST + b"content-length : 5\r\n\r\n{   }",
    "a header without a name": GET + b": b\r\n\r\n",
    "a header without a colon": GET + b"x-a\r\n\r\n",
    "NUL in a header's value": GET + b"x-a: b\x00c\r\n\r\n",
    "NUL in a header's name": GET + b"x-\x00a: b\r\n\r\n",
    "a control character in a target": b"GET /v1/mo\x01dels HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "NUL in a target": b"GET /v1/models\x00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "bytes in a target": b"GET /v1/mod\xffels HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a header with an odd name": GET + b"x(a): b\r\n\r\n",
    "a method with an odd character": b"GE{T /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a method in small letters": b"get /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a version in small letters": b"GET /v1/models http/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a space in a target": b"GET /v1/mo dels HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "two Hosts": GET + b"host: evil.com\r\n\r\n",
    "two Hosts that agree": GET + b"host: 127.0.0.1\r\n\r\n",
    "no Host": b"GET /v1/models HTTP/1.1\r\naccept: */*\r\n\r\n",
    "a target on another host": b"GET http://evil.com/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a target that is no path": b"GET v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "a tunnel": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\n\r\n",
    "a method that is none": b"BREW /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "a version that is none": GET.replace(b"HTTP/1.1", b"HTTP/1.7") + b"\r\n",
    "HTTP/2 without an upgrade": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 64,
}


@pytest.mark.parametrize("request_", _MISREAD.values(), ids=_MISREAD)
async def test_row_20_what_two_parsers_could_read_differently_ends_the_connection(
    tmp_path: Path, request_: bytes
) -> None:
    """It is refused with 400, and what follows it on the connection is not run."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        status, error = await _refusal(signalbox.port, request_)
    assert (status, error["type"], error["code"]) == (
        400,
        "invalid_request_error",
        "invalid_request",
    )
    assert fm.seen == []


_ENDLESS = {
    "an extension of a chunk": b"\r\n2;" + b"x" * (100 * KB),
    "extensions of many chunks": b"\r\n" + (b"1;" + b"x" * 200 + b"\r\n \r\n") * 500,
    "a trailer": b"\r\n" + CHUNK + b"0\r\nx-a: " + b"x" * (100 * KB),
    "trailers": b"\r\n" + CHUNK + b"0\r\n" + b"x-a: bcdefgh\r\n" * 8000,
}


@pytest.mark.parametrize("body", _ENDLESS.values(), ids=_ENDLESS)
async def test_row_20_framing_that_outweighs_its_body_is_cut_off(
    tmp_path: Path, body: bytes
) -> None:
    """Extensions and trailers are no body: there is a bound to them before they end."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        status, error = await _refusal(signalbox.port, POST + CHUNKED + body, then=b"")
    assert (status, error["code"]) == (400, "invalid_request")
    assert fm.seen == []


async def test_row_20_many_small_chunks_are_still_a_body(tmp_path: Path) -> None:
    """A client that sends byte by byte in chunks is slow, and honest; so is a short trailer."""
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in HELLO + b" " * 9000)
    body = chunks + b"0\r\nx-trailer: a\r\n\r\n"
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(POST + CHUNKED + b"\r\n" + body)
        status, headers = await client.head()
        await client.body(headers)
    assert status == 200
    assert len(fm.seen) == 1


async def test_row_20_a_target_in_absolute_form_is_the_path_it_names(tmp_path: Path) -> None:
    """A client that takes us for its proxy and names us as its aim gets its answer."""
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        await client.send(b"GET http://127.0.0.1:1/v1/models HTTP/1.1\r\nhost: 127.0.0.1:1\r\n\r\n")
        status, headers = await client.head()
        await client.body(headers)
    assert status == 200


_HEADS = {
    "one header": (GET + b"x-a: " + b"x" * (80 * KB) + b"\r\n\r\n", 431, "headers_too_large"),
    "one name": (GET + b"x" * (80 * KB) + b": a\r\n\r\n", 431, "headers_too_large"),
    "a thousand headers": (
        GET + b"".join(b"x-%d: a\r\n" % number for number in range(1000)) + b"\r\n",
        431,
        "headers_too_large",
    ),
    "a header without end": (GET + b"x-a: " + b"x" * (80 * KB), 431, "headers_too_large"),
    "a URL": (
        b"GET /v1/models?" + b"x" * (64 * KB) + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        400,
        "invalid_request",
    ),
    "a URL without end": (b"GET /" + b"x" * (64 * KB), 400, "invalid_request"),
}


@pytest.mark.parametrize(("head", "status", "code"), _HEADS.values(), ids=_HEADS)
async def test_row_13_a_head_that_is_too_large_ends_the_connection(
    tmp_path: Path, head: bytes, status: int, code: str
) -> None:
    """It is refused when its bound is crossed, be it whole or not, and nothing after it is run."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        got, error = await _refusal(signalbox.port, head)
    assert (got, error["code"]) == (status, code)
    assert fm.seen == []


async def test_row_13_a_head_is_no_smaller_for_coming_with_another_request(tmp_path: Path) -> None:
    """What comes in one packet with the request before is bounded like any other."""
    more = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 8 * KB) for number in range(10))
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        await client.send(GET + b"\r\n" + GET + more + b"\r\n")
        statuses = []
        for _ in range(2):
            status, headers = await client.head()
            await client.body(headers)
            statuses.append(status)
    assert statuses == [200, 431]


async def test_row_13_the_heads_of_real_clients_pass(tmp_path: Path) -> None:
    """A long key, a cookie and sixty headers are within the bounds."""
    more = b"".join(b"x-%d: %b\r\n" % (number, b"a" * 100) for number in range(60))
    head = GET + b"authorization: Bearer " + b"k" * (4 * KB) + b"\r\n" + more + b"\r\n"
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        await client.send(head)
        status, headers = await client.head()
        await client.body(headers)
    assert status == 200


async def test_row_13_a_head_that_never_ends_is_not_gathered(tmp_path: Path) -> None:
    """A client that sends headers for ever is cut off at the limit, and little is held for it."""
    line = b"x-more: " + b"x" * 1014 + b"\r\n"
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        told = asyncio.create_task(client.head())
        await client.send(GET)
        tracemalloc.start()
        with contextlib.suppress(ConnectionError):
            for _ in range(4000):
                if told.done():
                    break
                await client.send(line)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        async with asyncio.timeout(5):
            status, _ = await told
        assert status == 431
        assert peak < 1_000_000


async def test_row_20_a_good_request_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Where a packet ends says nothing: head and chunks are put together."""
    data = POST + CHUNKED + b"\r\n" + BODY
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        for cut in range(1, len(data)):
            await client.send(data[:cut])
            # The other end is in this loop: it takes what came before the rest is sent.
            for _ in range(3):
                await asyncio.sleep(0)
            await client.send(data[cut:])
            status, headers = await client.head()
            await client.body(headers)
            assert status == 200
        assert len(fm.seen) == len(data) - 1
