"""What every Upstream must do, whoever carries the bytes: each implementation, on the wire."""

import asyncio
import gzip
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from router.errors import RouteFailed
from router.upstream import Answer, Upstream, UpstreamRequest
from router.upstream.plain import PlainUpstream
from tests.harness.authority import Authority, over_tls
from tests.harness.invariants import open_fds
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

_CONNECT_S = 20
# Nothing here takes as long; what hangs is to fail, not to stop the run.
_LIMIT_S = 20


@dataclass(frozen=True)
class Wire:
    """One implementation over one scheme: makes it, and the scripted provider at its other end."""

    name: str
    make: Callable[..., Upstream]
    authority: Authority | None

    def upstream(self, **options: Any) -> Upstream:
        """Return an upstream that trusts the tests' authority where it speaks TLS."""
        if self.authority is not None:
            options["ca_file"] = self.authority.file
        return self.make("fm", **{"connect_s": _CONNECT_S, **options})

    def provider(self, script: Script, **options: Any) -> ScriptedUpstream:
        """Return a scripted provider for this scheme."""
        tls = self.authority.server() if self.authority is not None else None
        return ScriptedUpstream(script, tls=tls, **options)

    @property
    def scheme(self) -> str:
        """The scheme of its addresses."""
        return "http" if self.authority is None else "https"


# Every implementation with every scheme it carries.
_IMPLEMENTATIONS: dict[str, tuple[Callable[..., Upstream], str]] = {
    "plain-http": (PlainUpstream, "http"),
    "aiohttp-http": (over_tls, "http"),
    "aiohttp-https": (over_tls, "https"),
}


@pytest.fixture(params=_IMPLEMENTATIONS)
def wire(request: pytest.FixtureRequest, authority: Authority, small_platform: None) -> Wire:
    """Return one implementation over one scheme."""
    make, scheme = _IMPLEMENTATIONS[request.param]
    return Wire(request.param, make, authority if scheme == "https" else None)


def _request(url: str, body: bytes = b"{}") -> UpstreamRequest:
    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer sk-1")]
    return UpstreamRequest("POST", url + "/chat", tuple(headers), body)


async def _whole(answer: Answer) -> bytes:
    pieces = []
    async with asyncio.timeout(_LIMIT_S):
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


async def _fetch(upstream: Upstream, url: str) -> tuple[int, bytes]:
    async with asyncio.timeout(_LIMIT_S), upstream.exchange(_request(url)) as answer:
        return answer.status, await _whole(answer)


async def _fails(wire: Wire, script: Script, **options: Any) -> RouteFailed:
    """Return the failure of one exchange with a provider that does as scripted."""
    async with wire.provider(script, **options) as fm:
        upstream = wire.upstream()
        try:
            with pytest.raises(RouteFailed) as caught:
                await _fetch(upstream, fm.url)
            assert upstream.active == 0
        finally:
            await upstream.aclose()
        assert len(fm.seen) <= 1
    return caught.value


def _says(*pieces: bytes, close: bool = False, reset: bool = False) -> Script:
    """Return a script that sends these bytes and then stays, closes or resets."""

    async def script(conversation: Conversation) -> None:
        for piece in pieces:
            await conversation.send(piece)
        if reset:
            conversation.reset()
        elif close:
            conversation.close()

    return script


# What arrives


async def test_an_exchange_carries_both_sides_as_they_are(wire: Wire) -> None:
    """Method, target, headers and body arrive; status, headers and body come back."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 418 Teapot\r\nX-One: a b \r\nX-TWO:\r\ncontent-length: 2\r\n\r\nok"
        )

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        async with upstream.exchange(_request(fm.url, b'{"a": 1}')) as answer:
            assert upstream.active == 1
            assert answer.status == 418
            headers = dict(answer.headers)
            assert (headers[b"x-one"], headers[b"x-two"]) == (b"a b", b"")
            assert (b"x-one", b"a b") in answer.headers
            assert await _whole(answer) == b"ok"
            assert await answer.read() == b""
        assert upstream.active == 0
        await upstream.aclose()
    assert fm.seen[0].target == "/v1/chat"
    assert fm.seen[0].body == b'{"a": 1}'
    assert fm.seen[0].headers == {
        "host": f"127.0.0.1:{fm.port}",
        "content-type": "application/json",
        "authorization": "Bearer sk-1",
        "content-length": "8",
    }


_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        _CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-trailer: a\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["content-length", "chunked", "after 103", "after 100"],
)
async def test_a_body_is_whole_however_it_is_framed_and_cut(wire: Wire, answer: bytes) -> None:
    """Whatever the framing, and were each byte a packet of its own, the body is the same."""

    async def dribble(conversation: Conversation) -> None:
        for position in range(len(answer)):
            await conversation.send(answer[position : position + 1])
            await asyncio.sleep(0)

    for script in (_says(answer), dribble):
        async with wire.provider(script) as fm:
            upstream = wire.upstream()
            assert await _fetch(upstream, fm.url) == (200, b"hello")
            assert await _fetch(upstream, fm.url) == (200, b"hello")
            await upstream.aclose()
        assert fm.connections == 1


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_may_end_with_its_connection(wire: Wire, version: bytes) -> None:
    """Without a length or chunks the body is what comes before the end; nothing is reused."""
    script = _says(b"HTTP/" + version + b" 200 OK\r\n\r\nhel", b"lo", close=True)
    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        assert await _fetch(upstream, fm.url) == (200, b"hello")
        assert await _fetch(upstream, fm.url) == (200, b"hello")
        await upstream.aclose()
    assert fm.connections == 2


@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 304 Not\r\n\r\n"])
async def test_a_status_without_a_body_has_none(wire: Wire, head: bytes) -> None:
    """After 204 and 304 nothing is waited for."""
    async with wire.provider(_says(head)) as fm:
        upstream = wire.upstream()
        status, body = await _fetch(upstream, fm.url)
        assert (status in {204, 304}, body) == (True, b"")
        await upstream.aclose()


async def test_a_piece_is_there_before_the_next_is_sent(wire: Wire) -> None:
    """The head is there before the body begins, and each piece before the next one is sent."""
    read = asyncio.Semaphore(0)

    async def script(conversation: Conversation) -> None:
        await conversation.send(_CHUNKED)
        for piece in (b"one", b"two", b"three"):
            await read.acquire()
            await conversation.event(piece)
        await read.acquire()
        await conversation.end_stream()

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        async with asyncio.timeout(_LIMIT_S), upstream.exchange(_request(fm.url)) as answer:
            for piece in (b"one", b"two", b"three", b""):
                read.release()
                assert await answer.read() == piece
        await upstream.aclose()


async def test_a_reader_that_stops_makes_the_writer_stop(wire: Wire) -> None:
    """What nobody reads is not taken off the wire; once it is read, the wire flows on."""
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.send(_CHUNKED)
        while True:
            await conversation.event(b"x" * 65536)
            sent += 65536

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        async with upstream.exchange(_request(fm.url)) as answer:
            await answer.read()
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.05)
            # The kernel's buffers on both sides hold a few of these.
            assert sent < 32 << 20
            taken = 0
            async with asyncio.timeout(_LIMIT_S):
                while taken <= before:
                    taken += len(await answer.read())
        await upstream.aclose()


async def test_nothing_is_followed_inflated_or_added(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redirects, encodings and cookies are somebody else's business; proxy variables nobody's."""
    squeezed = gzip.compress(b"x" * 100_000)

    async with ScriptedUpstream() as stranger:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{stranger.port}")

        async def script(conversation: Conversation) -> None:
            more = {"location": f"{stranger.url}/", "content_encoding": "gzip", "set_cookie": "a=b"}
            await conversation.answer(squeezed, 307, **more)

        async with wire.provider(script) as fm:
            upstream = wire.upstream()
            assert await _fetch(upstream, fm.url) == (307, squeezed)
            assert await _fetch(upstream, fm.url) == (307, squeezed)
            await upstream.aclose()
        assert stranger.connections == 0
    assert "cookie" not in fm.seen[1].headers


async def test_localhost_is_the_ipv4_loopback_alone(wire: Wire) -> None:
    """Whoever listens on ::1 under the same port is never asked."""
    async with (
        wire.provider(_says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")) as fm,
        wire.provider(_says(), host="::1", port=fm.port) as stranger,
    ):
        url = f"{wire.scheme}://localhost:{fm.port}/v1"
        upstream = wire.upstream(keep_alive=False)
        for _ in range(3):
            assert await _fetch(upstream, url) == (200, b"ok")
        await upstream.aclose()
    assert stranger.connections == 0


# What is refused


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\x00c\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 102_400 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(100))
        + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"x-%d: a\r\n" % n for n in range(10_000))
        + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 1000 + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
    ids=[
        "another protocol",
        "binary",
        "no status",
        "no colon",
        "NUL in a value",
        "signed length",
        "two lengths",
        "length and chunks",
        "header of 100 KiB",
        "100 headers of 1 KiB",
        "10,000 headers",
        "1,000 interim answers",
        "upgrade",
    ],
)
@pytest.mark.parametrize("then", ["stay", "close"])
async def test_what_is_not_http_is_a_protocol_error(wire: Wire, answer: bytes, then: str) -> None:
    """A head that no HTTP/1.1 server may send, or without measure, ends the exchange at once.

    Somebody took the request, so it is not sent elsewhere.
    """
    error = await _fails(wire, _says(answer, close=then == "close"))
    assert (error.code, error.may_have_run) == ("upstream_protocol_error", True)


async def test_interim_answers_that_come_one_by_one_are_counted_too(wire: Wire) -> None:
    """A provider that only ever says 103 is cut off, however slowly it does so."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.send(b"HTTP/1.1 103 Early\r\n\r\n")
            await asyncio.sleep(0)

    async with asyncio.timeout(_LIMIT_S):
        error = await _fails(wire, script)
    assert error.code == "upstream_protocol_error"


@pytest.mark.parametrize(
    "chunk", [b"zz\r\nhi\r\n", b"2\r\nhi!\r\n", b"-1\r\n", b"f" * 20 + b"\r\n"]
)
async def test_a_chunk_that_is_none_is_a_protocol_error(wire: Wire, chunk: bytes) -> None:
    """Broken chunks are told as such; the provider has been at work by then."""
    read = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.send(_CHUNKED + b"2\r\nok\r\n")
        await read.wait()
        await conversation.send(chunk)

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        async with upstream.exchange(_request(fm.url)) as answer:
            assert await answer.read() == b"ok"
            read.set()
            with pytest.raises(RouteFailed) as caught:
                await _whole(answer)
        await upstream.aclose()
    assert (caught.value.code, caught.value.may_have_run) == ("upstream_protocol_error", True)


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"HTTP/1.1 200 OK\r\ncont",),
        (b"HTTP/1.1 103 Early\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello",),
        (_CHUNKED + b"5\r\nhello\r\n",),
        (_CHUNKED + b"5\r\nhel",),
        (_CHUNKED + b"5\r\nhello\r\n0\r\n",),
    ],
    ids=["nothing", "half a head", "interim", "length", "no last chunk", "half a chunk", "no end"],
)
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_answer_that_breaks_off_is_a_reset(
    wire: Wire, pieces: tuple[bytes, ...], how: str
) -> None:
    """However the connection ends before the answer does, the request may have run."""
    script = _says(*pieces, close=how == "end", reset=how == "reset")
    error = await _fails(wire, script)
    assert (error.code, error.may_have_run) == ("upstream_reset", True)


async def test_a_reset_within_a_body_without_length_is_not_its_end(wire: Wire) -> None:
    """Where the end of the connection is the end of the body, a reset is none."""
    read = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await read.wait()
        conversation.reset()

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        async with upstream.exchange(_request(fm.url)) as answer:
            assert await answer.read() == b"hello"
            read.set()
            with pytest.raises(RouteFailed) as caught:
                await answer.read()
        assert (caught.value.code, caught.value.may_have_run) == ("upstream_reset", True)
        await upstream.aclose()


# Reaching


async def test_a_closed_port_is_unreachable(wire: Wire) -> None:
    """A refused connection has cost the provider nothing."""
    async with wire.provider(_says()) as fm:
        pass
    upstream = wire.upstream()
    with pytest.raises(RouteFailed) as caught:
        await _fetch(upstream, fm.url)
    assert (caught.value.code, caught.value.may_have_run) == ("upstream_unreachable", False)
    assert upstream.active == 0
    await upstream.aclose()


async def test_a_connection_that_hangs_is_a_timeout(wire: Wire) -> None:
    """A host that takes no connection is given up after `connect_s`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        try:
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(listener.getsockname())
            upstream = wire.upstream(connect_s=0.3)
            with pytest.raises(RouteFailed) as caught:
                await _fetch(upstream, f"{wire.scheme}://127.0.0.1:{listener.getsockname()[1]}")
            assert upstream.active == 0
            await upstream.aclose()
        finally:
            for each in crowd:
                each.close()
    assert (caught.value.code, caught.value.may_have_run) == ("upstream_timeout", False)


# Connections


_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (_OK, 1),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", 3),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", 3),
        (_OK + _OK.replace(b"ok", b"no"), 3),
    ],
    ids=["kept", "close", "HTTP/1.0", "an answer too many"],
)
async def test_a_connection_is_reused_only_where_nothing_speaks_against_it(
    wire: Wire, answer: bytes, connections: int
) -> None:
    """A kept connection carries the next exchange; a closing or a talkative one does not."""
    async with wire.provider(_says(answer)) as fm:
        upstream = wire.upstream()
        for _ in range(3):
            assert await _fetch(upstream, fm.url) == (200, b"ok")
        await upstream.aclose()
    assert fm.connections == connections


async def test_bytes_after_the_end_belong_to_no_answer(wire: Wire) -> None:
    """What follows an answer is never the next one's; it may cost the answer it came with."""
    async with wire.provider(_says(_OK + b"x")) as fm:
        upstream = wire.upstream()
        for _ in range(3):
            try:
                assert await _fetch(upstream, fm.url) == (200, b"ok")
            except RouteFailed as error:
                assert error.code == "upstream_protocol_error"  # noqa: PT017 either is right
        await upstream.aclose()
    assert fm.connections == 3


async def test_connections_are_not_kept_where_nobody_wants_them(wire: Wire) -> None:
    """With `keep_alive` off every exchange has a connection of its own."""
    async with wire.provider(_says(_OK)) as fm:
        upstream = wire.upstream(keep_alive=False)
        for _ in range(2):
            assert await _fetch(upstream, fm.url) == (200, b"ok")
        await upstream.aclose()
    assert fm.connections == 2


@pytest.mark.parametrize("news", [b"", b"x" * 99, _OK.replace(b"ok", b"no")])
@pytest.mark.parametrize("known", [True, False])
async def test_an_idle_connection_with_news_is_not_used_again(
    wire: Wire, news: bytes, known: bool
) -> None:
    """Closed or talkative while idle: dropped, even if that happened a moment ago.

    Where it is not `known`, the event loop has had no turn to notice.
    """
    async with wire.provider(_says(_OK)) as fm:
        upstream = wire.upstream()
        assert await _fetch(upstream, fm.url) == (200, b"ok")
        if news:
            with fm.seen[0].kernel_socket as raw:
                raw.send(news)
        else:
            fm.seen[0].hang_up()
        if known:
            await asyncio.sleep(0.02)
        assert await _fetch(upstream, fm.url) == (200, b"ok")
        await upstream.aclose()
    assert fm.connections == 2


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_request_is_not_sent_twice(wire: Wire, how: str) -> None:
    """A reused connection that dies without a byte may have carried the request all the same."""

    async def script(conversation: Conversation) -> None:
        if len(fm.seen) == 1:
            await conversation.send(_OK)
        elif how == "end":
            conversation.close()
        else:
            conversation.reset()

    async with wire.provider(script) as fm:
        upstream = wire.upstream()
        assert await _fetch(upstream, fm.url) == (200, b"ok")
        with pytest.raises(RouteFailed) as caught:
            await _fetch(upstream, fm.url)
        await upstream.aclose()
    assert (caught.value.code, caught.value.may_have_run) == ("upstream_reset", True)
    assert (len(fm.seen), fm.connections) == (2, 1)


async def test_an_answer_before_the_request_was_read_arrives_and_ends_the_connection(
    wire: Wire,
) -> None:
    """A provider may refuse a large body unread; half a request never precedes the next one."""
    answered = 0

    async def script(conversation: Conversation) -> None:
        nonlocal answered
        answered += 1
        await conversation.asked()
        await conversation.send(b"HTTP/1.1 413 Large\r\ncontent-length: 2\r\n\r\nno")
        await conversation.left()

    async with wire.provider(script, reads=False) as fm:
        upstream = wire.upstream()
        for _ in range(2):
            async with upstream.exchange(_request(fm.url, b"x" * (32 << 20))) as answer:
                assert (answer.status, await _whole(answer)) == (413, b"no")
        assert upstream.active == 0
        await upstream.aclose()
    assert (answered, fm.connections) == (2, 2)


# Leaving


@pytest.mark.parametrize("where", ["head", "body", "request"])
async def test_leaving_early_closes_the_connection_at_once(wire: Wire, where: str) -> None:
    """A provider learns within a moment that nobody waits any more, whatever is under way."""
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if where == "body":
            await conversation.send(_CHUNKED + b"5\r\nhello\r\n")
        arrived.set()
        if where == "request":
            await cancelled.wait()
        await conversation.left()
        gone.set()

    cancelled = asyncio.Event()
    async with wire.provider(script, reads=where != "request") as fm:
        upstream = wire.upstream()

        async def work() -> None:
            body = b"x" * (32 << 20) if where == "request" else b"{}"
            async with upstream.exchange(_request(fm.url, body)) as answer:
                await _whole(answer)

        task = asyncio.create_task(work())
        async with asyncio.timeout(_LIMIT_S):
            await arrived.wait()
        await asyncio.sleep(0.02)
        assert upstream.active == 1
        held = _sockets()
        task.cancel()
        await asyncio.wait([task])
        assert (task.cancelled(), upstream.active) == (True, 0)
        # Not even what is left of the request is waited for, which this provider does not read.
        async with asyncio.timeout(1):
            while _sockets() == held:
                await asyncio.sleep(0.001)
        cancelled.set()
        async with asyncio.timeout(1):
            await gone.wait()
        await upstream.aclose()


async def test_a_cancellation_anywhere_leaves_nothing(wire: Wire) -> None:
    """Cancelled at its first turn of the event loop, its second, and so on: all is given back."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(_CHUNKED + b"5\r\nhello\r\n")
        await conversation.send(b"0\r\n\r\n")

    async with wire.provider(script) as fm:
        upstream = wire.upstream(keep_alive=False)
        await _fetch(upstream, fm.url)
        cancelled = 0
        for turns in range(200):
            task = asyncio.create_task(_fetch(upstream, fm.url))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            assert upstream.active == 0
            if done:
                break
            cancelled += task.cancelled()
        else:
            pytest.fail("the exchange took more turns than were tried")
        assert cancelled > 3
        await _given_back(fm)
        await upstream.aclose()


async def _given_back(fm: ScriptedUpstream) -> None:
    """Return when the process holds no descriptor of a connection to the provider any more."""
    async with asyncio.timeout(2):
        while fm.open_connections:
            await asyncio.sleep(0.005)
    # The listener, and what the event loop keeps for itself.
    assert _sockets() <= 4


def _sockets() -> int:
    return sum(stat.S_ISSOCK(_mode(fd)) for fd in open_fds())


def _mode(fd: int) -> int:
    try:
        return os.fstat(fd).st_mode
    except OSError:  # the descriptor by which the listing was read
        return 0


async def test_closing_closes_what_is_idle(wire: Wire) -> None:
    """A closed upstream holds no connection."""
    async with wire.provider(_says(_OK)) as fm:
        upstream = wire.upstream()
        await _fetch(upstream, fm.url)
        assert fm.open_connections == 1
        await upstream.aclose()
        async with asyncio.timeout(1):
            while fm.open_connections:
                await asyncio.sleep(0.001)


async def test_its_repr_tells_its_state_and_no_secret(wire: Wire) -> None:
    """A log may show an exchange and an upstream."""
    async with wire.provider(_says(_OK)) as fm:
        upstream = wire.upstream()
        exchange = upstream.exchange(_request(fm.url))
        async with exchange as answer:
            assert "active=1" in repr(upstream)
            for each in (upstream, exchange, answer):
                assert "sk-1" not in repr(each)
        await upstream.aclose()
