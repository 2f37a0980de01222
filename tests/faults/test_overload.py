"""More than there is room for: connections, descriptors, and work that holds the event loop."""

import asyncio
import json
import os
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.harness.children import until
from tests.harness.pictures import png_of, uri_of
from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider
from tests.harness.served import Served, free_port, served

HEALTH = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


async def _ping(client: RawClient) -> int:
    await client.send(HEALTH)
    status, headers = await client.head()
    await client.body(headers)
    return status


async def test_row_83_five_hundred_idle_connections_do_not_shut_the_door(tmp_path: Path) -> None:
    """Kept-alive connections that ask nothing count as nothing: the next client is answered."""
    async with served(tmp_path) as router, AsyncExitStack() as clients:
        for _ in range(500):
            client = await clients.enter_async_context(RawClient(router.port))
            assert await _ping(client) == 200
        newcomer = await clients.enter_async_context(RawClient(router.port))
        assert await _ping(newcomer) == 200
        assert (await router.client.get("/v1/models")).status_code == 200


async def test_row_84_without_descriptors_newcomers_wait_instead_of_being_dropped(
    tmp_path: Path,
) -> None:
    """At 64 descriptors some are served and the rest wait, quietly, until others leave."""
    async with (
        served(tmp_path, limits_of_shell="ulimit -n 64") as router,
        AsyncExitStack() as staying,
    ):
        process = psutil.Process(router.process.pid)
        clients = [await staying.enter_async_context(RawClient(router.port)) for _ in range(40)]
        answers = [asyncio.create_task(_ping(client)) for client in clients]
        await until(lambda: "new ones wait until others close" in router.log())
        await until(lambda: sum(answer.done() for answer in answers) >= 8)
        spent_s = sum(process.cpu_times()[:2])
        done, waiting = await asyncio.wait(answers, timeout=0.5)
        # Nothing spins while they wait, nobody is turned away, and descriptors are left to use.
        assert sum(process.cpu_times()[:2]) - spent_s < 0.1
        assert {answer.result() for answer in done} == {200}
        assert waiting
        assert process.num_fds() <= 48
        for client, answer in zip(clients, answers, strict=True):
            # Each one that leaves makes room for another.
            assert await answer == 200
            client.reset()
        assert await asyncio.wait_for(_health(router), 2) == 200
        log = router.log()
    assert log.count("new ones wait until others close") == 1
    assert "Too many open files" not in log
    assert "Traceback" not in log


async def test_row_84_a_resting_intake_hears_a_stop(tmp_path: Path) -> None:
    """The stop of a router whose every place is taken is as quick as any."""
    async with (
        served(tmp_path, limits_of_shell="ulimit -n 64") as router,
        AsyncExitStack() as staying,
    ):
        for _ in range(30):
            await staying.enter_async_context(RawClient(router.port))
        await until(lambda: "new ones wait until others close" in router.log())


async def test_row_84_who_waits_is_served_as_soon_as_one_place_is_free(tmp_path: Path) -> None:
    """With eight places, the ninth client waits for one of them to be left, again and again."""
    async with (
        served(tmp_path, limits_of_shell="ulimit -n 48") as router,
        AsyncExitStack() as staying,
    ):
        clients = [await staying.enter_async_context(RawClient(router.port)) for _ in range(8)]
        for client in clients:
            assert await _ping(client) == 200
        for client in clients:
            newcomer = await staying.enter_async_context(RawClient(router.port))
            waiting = asyncio.create_task(_ping(newcomer))
            assert not (await asyncio.wait({waiting}, timeout=0.05))[0]
            client.reset()
            assert await asyncio.wait_for(waiting, 2) == 200


@pytest.mark.parametrize(
    ("commands", "expected"),
    [("ulimit -Sn 256; ulimit -Hn 4096", 4096), ("ulimit -n 128", 128)],
)
async def test_row_84_the_soft_limit_is_raised_to_the_hard_one(
    tmp_path: Path, commands: str, expected: int
) -> None:
    """What a shell gives by default is for programs that call select(): we take what we may."""
    async with served(tmp_path, limits_of_shell=commands) as router:
        process = psutil.Process(router.process.pid)
        assert process.rlimit(psutil.RLIMIT_NOFILE)[0] == expected


async def test_row_85_a_huge_body_holds_others_up_for_a_few_decodes_of_it(tmp_path: Path) -> None:
    """While 20 MiB are understood and sent on, a ping waits for at most six decodes of them more.

    More than while as much is only read, that is. The decoder holds the interpreter's lock for as
    long as it runs, so that a thread of its own would help nobody: what counts is how many times
    the bytes are gone through.
    """
    picture = uri_of(png_of(9, 9) + os.urandom(15 << 20))
    part = {"type": "image_url", "image_url": {"url": picture}}
    body = json.dumps({"model": "text", "messages": [{"role": "user", "content": [part]}]}).encode()
    decode_s = min(_seconds_of_a_decode(body) for _ in range(5))
    settings = {
        "providers": {"nobody": openai_provider(f"http://127.0.0.1:{free_port()}/v1")},
        "capabilities": {"vision": ["nobody/m"], "text": ["nobody/m"]},
    }
    understood, only_read = [], []
    async with served(tmp_path, **settings) as router, RawClient(router.port) as client:
        for _ in range(5):
            understood.append(await _slowest_ping(client, router.port, body, b" 502 "))
            # Not JSON, at its first byte.
            only_read.append(await _slowest_ping(client, router.port, b"x" + body[1:], b" 400 "))
    # The least of each: a busy machine adds to any.
    assert min(understood) < min(only_read) + 6 * decode_s


async def _slowest_ping(client: RawClient, port: int, body: bytes, answer: bytes) -> float:
    """Return the seconds that the slowest ping took while a body was posted."""
    post = asyncio.create_task(asyncio.to_thread(_post, port, body))
    slowest_s = 0.0
    while not post.done():
        since = time.perf_counter()
        assert await _ping(client) == 200
        slowest_s = max(slowest_s, time.perf_counter() - since)
    assert answer in await post
    return slowest_s


def _seconds_of_a_decode(body: bytes) -> float:
    since = time.perf_counter()
    msgspec.json.decode(body)
    return time.perf_counter() - since


def _post(port: int, body: bytes) -> bytes:
    """Post a chat request from a thread; return the status line."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        connection.sendall(body)
        return connection.recv(64)


async def _health(router: Served) -> int:
    return (await router.client.get("/health")).status_code
