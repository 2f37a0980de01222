"""Our own client for plain HTTP: what it does between choosing a connection and using it."""

import asyncio

import pytest

from router.upstream import UpstreamRequest
from router.upstream.plain import PlainUpstream
from tests.harness.scripted_upstream import CHAT, ScriptedUpstream


async def _ask(upstream: PlainUpstream, url: str) -> bytes:
    request = UpstreamRequest("POST", f"{url}/chat", (), b"{}")
    async with asyncio.timeout(3), upstream.exchange(request) as answer:
        return await answer.read()


@pytest.mark.parametrize("how", ["end", "words"])
async def test_a_kept_connection_that_ends_before_its_use_is_replaced(how: str) -> None:
    """Nothing was sent over it yet, so that another one may carry the request."""
    async with ScriptedUpstream() as fm:
        upstream = PlainUpstream("fm", connect_s=1)
        assert await _ask(upstream, fm.url) == CHAT
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(_ask(upstream, fm.url))
            # One step, in which the connection is chosen; what was asked goes out after the next.
            await asyncio.sleep(0)
            if how == "end":
                fm.seen[0].hang_up()
            else:
                with fm.seen[0].kernel_socket as raw:
                    raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno")
        assert asked.result() == CHAT
        assert (fm.connections, len(fm.seen), upstream.active) == (2, 2, 0)
        await upstream.aclose()
