"""What only aiohttp's exchange does: TLS with its verdicts, proxies, a watch over the pool."""

import asyncio
import datetime as dt
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from router.errors import RouteFailed
from router.upstream import Upstream, UpstreamRequest, trust
from router.upstream.trust import CaFileError
from tests.harness.authority import Authority, over_tls
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}


async def _ask(upstream: Upstream, url: str) -> bytes:
    request = UpstreamRequest("POST", f"{url}/chat", ((b"x-team", b"a"),), b"{}")
    pieces = []
    async with asyncio.timeout(3), upstream.exchange(request) as answer:
        while piece := await answer.read():
            pieces.append(piece)
    return b"".join(pieces)


async def _refused(url: str, **options: Any) -> RouteFailed:
    upstream = over_tls("fm", 0.5, **options)
    try:
        with pytest.raises(RouteFailed) as caught:
            await _ask(upstream, url)
        assert upstream.active == 0
    finally:
        await upstream.aclose()
    assert not caught.value.may_have_run
    return caught.value


# Certificates


async def test_an_unknown_authority_is_named_with_what_to_do(authority: Authority) -> None:
    """A certificate that nobody here vouches for says which setting would."""
    async with ScriptedUpstream(tls=authority.server()) as fm:
        error = await _refused(fm.url)
    assert error.code == "upstream_unreachable"
    assert "ca_file" in error.message
    assert fm.seen == []


async def test_a_certificate_for_another_host_is_not_a_missing_authority(
    authority: Authority,
) -> None:
    """A name that does not fit is no matter of trust: the text does not lead astray."""
    async with ScriptedUpstream(tls=authority.server("elsewhere.example")) as fm:
        error = await _refused(fm.url, ca_file=authority.file)
    assert error.code == "upstream_unreachable"
    assert "another host" in error.message
    assert "ca_file" not in error.message


async def test_a_certificate_whose_day_has_passed_says_so(authority: Authority) -> None:
    """An expired certificate is named as such."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    authority.issuer.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    async with ScriptedUpstream(tls=context) as fm:
        error = await _refused(fm.url, ca_file=authority.file)
    assert "expired" in error.message


@pytest.mark.skipif(sys.platform != "linux", reason="sets the platform's authorities by a variable")
async def test_an_authority_of_ones_own_comes_besides_the_platforms(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ca_file` adds to the platform's trust and takes none away."""
    mine = trustme.CA()
    mine.cert_pem.write_to_path(str(tmp_path / "mine.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    upstream = over_tls("fm", 1, ca_file=tmp_path / "mine.pem")
    private = Authority(tmp_path / "mine.pem", mine)
    async with (
        ScriptedUpstream(tls=authority.server()) as public,
        ScriptedUpstream(tls=private.server()) as own,
    ):
        for fm in (public, own):
            assert await _ask(upstream, fm.url) == CHAT
        await upstream.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="sets the platform's authorities by a variable")
@pytest.mark.parametrize("place", ["the platform's", "another"])
async def test_no_handshake_reads_the_authorities_again(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """They are read once, wherever they are: reading takes longer than all else of a handshake."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority.file.read_bytes())
    if place == "another":
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
        monkeypatch.setattr(trust, "_BUNDLES", (str(tmp_path / "none"), str(bundle)))
    else:
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    upstream = over_tls("fm", 1)
    bundle.unlink()
    async with ScriptedUpstream(tls=authority.server()) as fm:
        assert await _ask(upstream, fm.url) == CHAT
        await upstream.aclose()


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), (b"", "no certificate"), (b"-----BEGIN", "no certificate")],
)
async def test_a_file_of_authorities_that_is_none_is_refused(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    """A missing file, an empty one and one without certificates are named."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CaFileError, match=told) as caught:
        over_tls("fm", 1, ca_file=file)
    assert str(file) in str(caught.value)


async def test_plain_http_at_an_https_address_says_so() -> None:
    """A server that speaks no TLS is told apart from one that is not there."""

    async def script(conversation: Conversation) -> None:
        await conversation.asked()
        await conversation.answer(b"plain HTTP", 400)

    async with ScriptedUpstream(script, reads=False) as fm:
        error = await _refused(fm.url.replace("http://", "https://"))
    assert error.code == "upstream_unreachable"
    assert "TLS" in error.message


async def test_a_handshake_that_hangs_is_a_timeout() -> None:
    """The deadline for connecting covers TLS."""

    async def script(conversation: Conversation) -> None:
        await conversation.left()

    async with ScriptedUpstream(script, reads=False) as fm:
        error = await _refused(fm.url.replace("http://", "https://"))
    assert error.code == "upstream_timeout"


# Proxies


class _Proxy:
    """A proxy for both ways of going through one; remembers what it was asked."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._status = status

    async def script(self, conversation: Conversation) -> None:
        """Answer one request, or become the tunnel that it asks for."""
        self.asked.append((conversation.target, conversation.headers))
        if self._status != 200:
            await conversation.answer(b"no", self._status)
            return
        if "://" in conversation.target:
            await conversation.answer(CHAT)
            return
        host, port = conversation.target.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await conversation.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(conversation._reader, writer))
                both.create_task(_copy(reader, conversation._writer))
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_tls_goes_through_a_proxy_in_a_tunnel(authority: Authority) -> None:
    """The proxy learns where to, and of the request nothing; the tunnel is used again."""
    proxy = _Proxy()
    async with (
        ScriptedUpstream(tls=authority.server()) as fm,
        ScriptedUpstream(proxy.script) as relay,
    ):
        address = relay.url.removesuffix("/v1")
        upstream = over_tls("fm", 1, proxy=address, ca_file=authority.file)
        for _ in range(2):
            assert await _ask(upstream, fm.url) == CHAT
        await upstream.aclose()
    assert [target for target, _ in proxy.asked] == [f"127.0.0.1:{fm.port}"]
    assert "x-team" not in proxy.asked[0][1]
    assert fm.connections == 1


async def test_plain_http_goes_through_a_proxy_by_its_whole_address() -> None:
    """Without TLS the proxy is asked for the whole URL."""
    proxy = _Proxy()
    async with ScriptedUpstream() as fm, ScriptedUpstream(proxy.script) as relay:
        upstream = over_tls("fm", 1, proxy=relay.url.removesuffix("/v1"))
        assert await _ask(upstream, fm.url) == CHAT
        await upstream.aclose()
    assert proxy.asked[0][0] == f"{fm.url}/chat"
    assert fm.connections == 0


@pytest.mark.parametrize("trouble", ["refuses", "down"])
async def test_a_proxy_that_does_not_help_is_named(trouble: str) -> None:
    """The provider is not blamed for its proxy."""
    proxy = _Proxy(status=407)
    async with ScriptedUpstream(proxy.script) as relay:
        address = relay.url.removesuffix("/v1")
        if trouble == "refuses":
            error = await _refused("https://127.0.0.1:9/v1", proxy=address)
    if trouble == "down":
        error = await _refused("https://127.0.0.1:9/v1", proxy=address)
    assert error.code == "upstream_unreachable"
    assert "proxy" in error.message


# The pool


async def test_a_connection_that_meets_itself_is_nobody() -> None:
    """Where the kernel gives us the very port that we call, there is no provider behind it."""
    upstream = over_tls("fm", 1)

    def from_where_it_leads(info: Any) -> socket.socket:
        made = socket.socket(info[0], info[1], info[2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind(info[4])
        return made

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    upstream.session.connector._socket_factory = from_where_it_leads  # type: ignore[union-attr]
    with pytest.raises(RouteFailed) as caught:
        await _ask(upstream, f"http://127.0.0.1:{port}/v1")
    assert (caught.value.code, caught.value.may_have_run) == ("upstream_unreachable", False)
    await upstream.aclose()


async def test_localhost_is_not_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system's first word for localhost is ::1, the provider is on 127.0.0.1 still."""

    async def asks(resolver: Any, host: str, port: int = 0, family: Any = 0) -> Any:
        raise AssertionError("the system was asked")

    # The one place that differs from machine to machine.
    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", asks)
    async with ScriptedUpstream() as fm:
        upstream = over_tls("fm", 1)
        assert await _ask(upstream, f"http://localhost:{fm.port}/v1") == CHAT
        await upstream.aclose()


# In a router


async def test_a_router_reaches_providers_over_tls_and_through_proxies(
    tmp_path: Path, authority: Authority
) -> None:
    """`ca_file` and `proxy` of a provider are kept, together and each alone."""
    proxy = _Proxy()
    async with (
        ScriptedUpstream(tls=authority.server()) as fm,
        ScriptedUpstream() as plain,
        ScriptedUpstream(proxy.script) as relay,
        ScriptedUpstream(_Proxy(status=407).script) as strict,
    ):
        address, ca_file = relay.url.removesuffix("/v1"), str(authority.file)
        async with running_router(
            tmp_path,
            providers={
                "own": openai_provider(fm.url, ca_file=ca_file),
                "tunnel": openai_provider(fm.url, ca_file=ca_file, proxy=address),
                "relayed": openai_provider(plain.url, proxy=address),
                "stranger": openai_provider(fm.url),
                "refused": openai_provider(plain.url, proxy=strict.url.removesuffix("/v1")),
            },
        ) as signalbox:
            for name in ("own", "tunnel", "relayed"):
                response = await signalbox.chat({**HELLO, "model": f"{name}/m"})
                assert (response.status_code, response.content) == (200, CHAT), name
            for name, hint in (("stranger", "ca_file"), ("refused", "proxy")):
                refused = await signalbox.chat({**HELLO, "model": f"{name}/m"})
                error = refused.json()["error"]
                assert (refused.status_code, error["code"]) == (502, "upstream_unreachable")
                assert hint in error["message"]
    assert len(fm.seen) == 2
    assert len(proxy.asked) == 2
