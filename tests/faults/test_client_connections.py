"""What clients do to their connections: too slow, gone too soon, too much at once, never read."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from router.app import Router
from tests.harness.children import Gate, Yard, is_gone
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import fake_builtin, served

CHAT = "/v1/chat/completions"
HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = {**HELLO, "stream": True}
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"
PHASES = ("before the first byte", "mid-stream", "non-streaming")


def _one(upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    """Return settings that bind text to the scripted provider alone."""
    return {
        "providers": {"fm": openai_provider(upstream.url)},
        "capabilities": {"text": ["fm/model-1"]},
        **more,
    }


def _lane(router: Router) -> Any:
    admission = router.reaches["fm"].admission
    assert admission is not None
    return admission.lane


async def _until(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


async def _settled(number: Callable[[], int]) -> int:
    """Return a number once it has not grown for a fifth of a second."""
    last, same = number(), 0
    async with asyncio.timeout(20):
        while same < 10:
            await asyncio.sleep(0.02)
            same = same + 1 if number() == last else 0
            last = number()
    return last


def _refusal(answer: bytes) -> tuple[int, str]:
    """Return status and code of an answer that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert b"\r\ncontent-type: application/json" in head.lower()
    return int(head.split(b" ", 2)[1]), json.loads(body)["error"]["code"]


async def _clients(stack: AsyncExitStack, port: int, count: int) -> list[RawClient]:
    return [await stack.enter_async_context(RawClient(port)) for _ in range(count)]


# Slow and silent clients


async def test_row_22_a_slow_header_is_cut_off(tmp_path: Path) -> None:
    """A head that comes byte by byte is ended at its deadline, while others are served."""
    timeouts = {"header_s": 0.3}
    async with AsyncExitStack() as stack, running_router(tmp_path, timeouts=timeouts) as signalbox:
        loop, since = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        slow = await _clients(stack, signalbox.port, 50)
        for client in slow:
            await client.send(MODELS + b"x: ")
        answers = asyncio.gather(*(client.dribble(0.05) for client in slow))
        assert (await signalbox.client.get("/v1/models")).status_code == 200
        assert not answers.done()
        async with asyncio.timeout(2):
            refusals = {_refusal(answer) for answer in await answers}
        assert loop.time() - since >= 0.3
    assert refusals == {(408, "request_timeout")}


async def test_row_22_the_next_header_has_the_same_deadline(tmp_path: Path) -> None:
    """A connection that had its answer waits long for a next head, but not long for half of one."""
    async with (
        running_router(tmp_path, timeouts={"header_s": 0.2}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(MODELS + b"\r\n")
        _, headers = await client.head()
        await client.body(headers)
        await client.send(MODELS)
        async with asyncio.timeout(2):
            assert _refusal(await client.dribble(0.03)) == (408, "request_timeout")


async def test_row_22_a_header_that_came_with_the_request_before_has_the_deadline_too(
    tmp_path: Path,
) -> None:
    """Half a head that was there before the last answer is not waited for any longer."""
    async with (
        running_router(tmp_path, timeouts={"header_s": 0.2}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(MODELS + b"\r\n" + MODELS)
        _, headers = await client.head()
        await client.body(headers)
        async with asyncio.timeout(2):
            await client.rest()


async def test_row_23_a_slow_body_is_cut_off_and_holds_no_place(tmp_path: Path) -> None:
    """A body that dribbles in is a 408 at its deadline; others have the provider meanwhile."""
    lanes = {"fm": {"concurrency": 1, "queue": 0, "reserve_high": 0}}
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, timeouts={"body_s": 0.3}, **_one(fm, lanes=lanes)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(f"{HEAD}content-length: 1048576\r\n\r\n".encode())
        answer = asyncio.create_task(client.dribble(0.05))
        assert (await signalbox.chat(HELLO)).status_code == 200
        assert not answer.done()
        lane = _lane(signalbox.router)
        assert (lane.running, lane.waiting) == (0, 0)
        async with asyncio.timeout(2):
            assert _refusal(await answer) == (408, "request_timeout")
    assert len(fm.seen) == 1


async def test_row_24_a_silent_connection_is_closed(tmp_path: Path) -> None:
    """Whoever connects and says nothing is gone at the head's deadline, without a word."""
    async with (
        AsyncExitStack() as stack,
        running_router(tmp_path, timeouts={"header_s": 0.2}) as signalbox,
    ):
        silent = await _clients(stack, signalbox.port, 100)
        assert (await signalbox.client.get("/v1/models")).status_code == 200
        async with asyncio.timeout(2):
            assert set(await asyncio.gather(*(client.rest() for client in silent))) == {b""}


# Clients that leave


@asynccontextmanager
async def _asked(
    folder: Path, phase: str, script_after: Callable[[Conversation], Awaitable[None]]
) -> AsyncIterator[tuple[RunningRouter, RawClient]]:
    """Have a client wait in this phase of its request, for what `script_after` does not send."""
    arrived = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if phase == "mid-stream":
            await conversation.begin_stream()
            await conversation.event(DELTA)
        arrived.set()
        await script_after(conversation)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(folder, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post(CHAT, HELLO if phase == "non-streaming" else STREAMED)
        await arrived.wait()
        if phase == "mid-stream":
            await client.head()
            await client.chunk()
        yield signalbox, client


async def _provider_is_left(folder: Path, phase: str, leave: Callable[[RawClient], None]) -> None:
    """Check that the provider sees its connection close within a second of the client's leaving."""
    gone = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.left()
        gone.set()

    async with _asked(folder, phase, script) as (signalbox, client):
        reach = signalbox.router.reaches["fm"]
        assert reach.upstream.active == 1
        leave(client)
        async with asyncio.timeout(1):
            await gone.wait()
        await _until(lambda: reach.upstream.active == 0, 1)
        await _until(lambda: not len(signalbox.router.in_flight), 1)


@pytest.mark.parametrize("leave", [RawClient.reset, RawClient.half_close])
async def test_row_25_a_client_that_leaves_the_queue_is_never_sent_upstream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, leave: Callable[[RawClient], None]
) -> None:
    """A waiting request whose client has gone gives its place up and costs the provider nothing."""
    busy, free = asyncio.Event(), asyncio.Event()
    caplog.set_level("INFO")

    async def script(conversation: Conversation) -> None:
        busy.set()
        await free.wait()
        await conversation.answer()

    lanes = {"fm": {"concurrency": 1, "queue": 5, "reserve_high": 0}}
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm, lanes=lanes)) as signalbox,
        RawClient(signalbox.port) as leaver,
    ):
        lane = _lane(signalbox.router)
        first = asyncio.create_task(signalbox.chat(HELLO))
        await busy.wait()
        await leaver.post(CHAT, {**HELLO, "user": "leaver"}, x_request_id="the-leaver")
        await _until(lambda: lane.waiting == 1)
        leave(leaver)
        await _until(lambda: lane.waiting == 0)
        free.set()
        assert (await first).status_code == 200
        assert (await signalbox.chat(HELLO)).status_code == 200
    assert [conversation.json.get("user") for conversation in fm.seen] == [None, None]
    assert "the-leaver: the client left" in caplog.text


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Lend a folder for a fake child; its journal tells which children did what."""
    made = Yard(tmp_path)
    yield made
    made.close()


@asynccontextmanager
async def _cold_start(
    yard: Yard, start: str
) -> AsyncIterator[tuple[RunningRouter, list[RawClient], Gate]]:
    """Have two clients wait for a child that is not ready before its gate is opened."""
    gate = yard.gate("ready")
    habits = ("--ready-gate", str(gate.path), "--journal", str(yard.folder / "fake.journal"))
    alone = ("--alone", str(yard.folder / "fake.alone"))
    settings = fake_builtin(yard.folder, *habits, *alone, start=start)
    async with AsyncExitStack() as stack, running_router(yard.folder, **settings) as signalbox:
        clients = await _clients(stack, signalbox.port, 2)
        for client in clients:
            await client.post(CHAT, HELLO)
        flights = signalbox.router.in_flight
        await _until(lambda: [flight.state for flight in flights] == ["starting"] * 2)
        await _until(lambda: len(yard.journal("start")) == 1, 10)
        yield signalbox, clients, gate


async def _leave_all(signalbox: RunningRouter, clients: list[RawClient]) -> None:
    for client in clients:
        client.reset()
    await _until(lambda: len(signalbox.router.in_flight) == 0)


async def test_row_26_a_start_that_the_map_wants_goes_on_when_its_clients_leave(
    yard: Yard,
) -> None:
    """Whoever comes next meets the child that was being started for those who left."""
    async with _cold_start(yard, "eager") as (signalbox, clients, gate):
        await _leave_all(signalbox, clients)
        later = asyncio.create_task(signalbox.chat(HELLO))
        await _until(lambda: len(signalbox.router.in_flight) == 1)
        gate.open()
        # The fake child speaks HTTP but no JSON.
        assert (await later).json()["error"]["code"] == "upstream_invalid_response"
        status = signalbox.router.processes.status("builtin")
        assert (status.state, status.generation, status.leases) == ("ready", 1, 0)
        assert yard.journal("start") == yard.journal("request") == [status.pid]
    assert is_gone(yard.journal("start")[0])


async def test_row_26_a_start_on_demand_goes_on_for_those_who_stay(yard: Yard) -> None:
    """One client's leaving ends its own waiting alone."""
    async with _cold_start(yard, "on_demand") as (signalbox, (leaver, stayer), gate):
        leaver.reset()
        await _until(lambda: len(signalbox.router.in_flight) == 1)
        gate.open()
        assert (await stayer.head())[0] == 502
        status = signalbox.router.processes.status("builtin")
        assert (status.state, status.generation, status.leases) == ("ready", 1, 0)
        assert yard.journal("start") == yard.journal("request") == [status.pid]
    assert is_gone(yard.journal("start")[0])


async def test_row_26_a_start_on_demand_ends_when_nobody_waits_for_it(yard: Yard) -> None:
    """Its child is ended before the next one, which the next client has started."""
    async with _cold_start(yard, "on_demand") as (signalbox, clients, gate):
        await _leave_all(signalbox, clients)
        await signalbox.router.processes.wait_for("builtin", "gone")
        assert is_gone(yard.journal("start")[0])
        gate.open()
        assert (await signalbox.chat(HELLO)).status_code == 502
        status = signalbox.router.processes.status("builtin")
        assert (status.state, status.generation, status.leases) == ("ready", 2, 0)
        assert yard.journal("request") == yard.journal("start")[1:] == [status.pid]
        assert yard.journal("overlap") == []
    assert is_gone(yard.journal("start")[1])


async def test_row_27_a_client_that_leaves_before_the_first_byte_frees_the_provider(
    tmp_path: Path,
) -> None:
    """The provider's connection closes although it has not begun to answer."""
    await _provider_is_left(tmp_path, "before the first byte", RawClient.reset)


async def test_row_28_a_client_that_leaves_an_idle_stream_frees_the_provider(
    tmp_path: Path,
) -> None:
    """The provider's connection closes although no event comes that could not be sent on."""
    await _provider_is_left(tmp_path, "mid-stream", RawClient.reset)


async def test_row_29_a_client_that_leaves_while_it_does_not_read_frees_the_provider(
    tmp_path: Path,
) -> None:
    """A send that waits for the client ends with it."""
    sent, gone = 0, asyncio.Event()

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.begin_stream()
        try:
            while True:
                await conversation.event(DELTA * 500)
                sent += 1
        finally:
            gone.set()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port, receive_buffer=2048) as client,
    ):
        await client.post(CHAT, STREAMED)
        await client.head()
        client.stop_reading()
        await _settled(lambda: sent)
        assert not gone.is_set()
        client.reset()
        async with asyncio.timeout(1):
            await gone.wait()


async def test_row_30_a_client_that_leaves_a_plain_call_frees_the_provider(tmp_path: Path) -> None:
    """An answer that is not streamed is not waited for when nobody wants it any more."""
    await _provider_is_left(tmp_path, "non-streaming", RawClient.reset)


@pytest.mark.parametrize("leaves_first", [True, False])
@pytest.mark.parametrize("phase", PHASES)
async def test_row_31_a_client_that_leaves_as_the_router_stops_leaves_nothing_held(
    tmp_path: Path, phase: str, leaves_first: bool
) -> None:
    """However often and in whatever order a request is cancelled, its connection is given back."""
    async with _asked(tmp_path, phase, Conversation.left) as (signalbox, client):
        tasks = signalbox.server.server_state.tasks
        for number in range(12):
            if number == (0 if leaves_first else 1):
                client.reset()
            for task in list(tasks):
                task.cancel()
            await asyncio.sleep(0)
        await _until(lambda: signalbox.router.reaches["fm"].upstream.active == 0)
        await _until(lambda: not tasks and not len(signalbox.router.in_flight))


async def test_row_32_a_stream_that_nobody_reads_holds_its_provider_back(tmp_path: Path) -> None:
    """Each such stream costs the router less than 1 MiB of memory, however long it would be."""
    event = DELTA.replace(b'"x"', b'"%s"' % (b"x" * 16384))
    sent, streams = 0, 16

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.begin_stream()
        while True:
            await conversation.event(event)
            sent += len(event)

    async with (
        AsyncExitStack() as stack,
        ScriptedUpstream(script) as fm,
        served(tmp_path, **_one(fm)) as router,
    ):
        process = psutil.Process(router.process.pid)

        async def resident_with(more: int) -> int:
            for _ in range(more):
                client = RawClient(router.port, receive_buffer=2048)
                await stack.enter_async_context(client)
                await client.post(CHAT, STREAMED)
                assert (await client.head())[0] == 200
                client.stop_reading()
            await _settled(lambda: sent)
            return process.memory_info().rss

        # The first ones load what the others find.
        before = await resident_with(2)
        after = await resident_with(streams)
        # What is on its way fills the kernel's buffers, which are no memory of ours.
        assert sent < (2 + streams) * (16 << 20)
        assert (after - before) / streams < 1 << 20
        await stack.aclose()


async def test_row_32_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    """An answer that is not taken for the time of timeouts.send_stall_s is given up."""
    gone = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        try:
            while True:
                await conversation.event(DELTA * 500)
        finally:
            gone.set()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, timeouts={"send_stall_s": 0.2}, **_one(fm)) as signalbox,
        RawClient(signalbox.port, receive_buffer=2048) as client,
    ):
        await client.post(CHAT, STREAMED)
        await client.head()
        client.stop_reading()
        async with asyncio.timeout(5):
            await gone.wait()


async def test_row_32_a_client_that_leaves_the_end_unread_is_cut_off(tmp_path: Path) -> None:
    """The last bytes of an answer, too few to hold anybody back, keep no connection open."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        (connection,) = signalbox.server.server_state.connections
        while not connection.transport.get_write_buffer_size():
            await conversation.event(DELTA * 100)
            # Turns of the loop in which the router passes it on.
            await asyncio.sleep(0.002)
        await conversation.event(b"data: [DONE]\n\n")
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, timeouts={"send_stall_s": 0.2}, **_one(fm)) as signalbox,
        RawClient(signalbox.port, receive_buffer=2048) as client,
    ):
        await client.post(CHAT, STREAMED, connection="close")
        client.stop_reading()
        await _until(lambda: len(signalbox.router.in_flight) == 1)
        await _until(lambda: not len(signalbox.router.in_flight), 10)
        await _until(lambda: not signalbox.server.server_state.connections, 4)


async def test_row_32_a_client_that_reads_slowly_is_not_cut_off(tmp_path: Path) -> None:
    """Whoever takes something now and then has all the time that the answer has."""
    count = 400

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for _ in range(count):
            await conversation.event(DELTA * 500)
        await conversation.event(b"data: [DONE]\n\n")
        await conversation.end_stream()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, timeouts={"send_stall_s": 0.3}, **_one(fm)) as signalbox,
        RawClient(signalbox.port, receive_buffer=65536) as client,
    ):
        await client.post(CHAT, STREAMED)
        _, headers = await client.head()
        taken, loop = 0, asyncio.get_running_loop()
        since = loop.time()
        while chunk := await client.chunk():
            taken += len(chunk)
            if loop.time() - since < 0.9:
                await asyncio.sleep(0.01)
    assert headers["transfer-encoding"] == "chunked"
    assert taken >= count * 500 * len(DELTA)


@pytest.mark.parametrize("phase", PHASES)
async def test_row_33_a_half_closed_connection_is_a_closed_one(tmp_path: Path, phase: str) -> None:
    """A client that says it will send nothing more is taken to have left, whatever it waits for."""
    await _provider_is_left(tmp_path, phase, RawClient.half_close)


# Several requests on one connection


def _post(body: bytes, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in more)
    return f"{HEAD}{lines}content-length: {len(body)}\r\n\r\n".encode() + body


async def test_row_34_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """Each answer waits for those before it, bad as those may be, and none is mixed up."""
    first = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if conversation.json["user"] == "first":
            await first.wait()
        await conversation.answer(
            b'{"choices":[],"user":"%s"}' % conversation.json["user"].encode()
        )

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        bodies = [json.dumps({**HELLO, "user": user}).encode() for user in ("first", "second")]
        bodies.insert(1, b"{")
        await client.send(b"".join(_post(body) for body in bodies) + MODELS + b"\r\n")
        await _until(lambda: len(fm.seen) > 0)
        first.set()
        told = []
        for _ in range(4):
            status, headers = await client.head()
            told.append((status, json.loads(await client.body(headers))))
    assert [status for status, _ in told] == [200, 400, 200, 200]
    assert [body.get("user") for _, body in told] == ["first", None, "second", None]
    assert told[3][1]["object"] == "list"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (_post(b"{"), 400),
        (_post(json.dumps({**HELLO, "model": "none"}).encode()), 404),
        (b"GET /nothing HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 404),
        (b"DELETE /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 405),
    ],
)
async def test_row_34_a_connection_is_used_again_after_a_refusal(
    tmp_path: Path, request_bytes: bytes, status: int
) -> None:
    """A refused request that was read to its end costs its client no new connection."""
    body = json.dumps(HELLO).encode()
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        for _ in range(2):
            await client.send(request_bytes)
            refused, headers = await client.head()
            assert refused == status
            assert "error" in json.loads(await client.body(headers))
            await client.send(_post(body))
            answered, headers = await client.head()
            assert answered == 200
            await client.body(headers)
    assert [conversation.json["model"] for conversation in fm.seen] == ["model-1"] * 2


async def test_row_34_an_unread_body_is_never_taken_for_a_request(tmp_path: Path) -> None:
    """After a body that was refused unread the connection is closed, whatever is in it."""
    inner = _post(json.dumps(HELLO).encode())
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, limits={"body_mb": 1}, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(f"{HEAD}content-length: 2000000\r\n\r\n".encode() + inner * 3)
        assert _refusal(await client.rest()) == (413, "body_too_large")
        assert (await signalbox.chat(HELLO)).status_code == 200
    assert len(fm.seen) == 1


async def test_row_35_an_oversized_body_is_refused_instead_of_asked_for(tmp_path: Path) -> None:
    """A client that asks before it sends hears 413, and never 100 Continue."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, limits={"body_mb": 1}, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(f"{HEAD}expect: 100-continue\r\ncontent-length: 2000000\r\n\r\n".encode())
        answer = await client.rest()
        assert _refusal(answer) == (413, "body_too_large")
    assert b"100 Continue" not in answer
    assert fm.seen == []


async def test_row_35_a_body_that_fits_is_asked_for_once(tmp_path: Path) -> None:
    """100 Continue comes before the body is sent, and the answer after it."""
    body = json.dumps(HELLO).encode()
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_one(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(
            f"{HEAD}expect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        )
        assert await client.head() == (100, {})
        assert fm.seen == []
        await client.send(body)
        status, headers = await client.head()
        assert status == 200
        await client.body(headers)
    assert len(fm.seen) == 1
