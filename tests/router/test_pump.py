"""What happens between an event's arrival and its way out; streams as such are in tests/faults."""

import asyncio
from contextlib import suppress

from router.answer import OpenStream, open_answer
from router.deadline import Deadlines, Sweeper
from router.pump import pump
from router.request import Message
from router.upstream import UpstreamRequest
from router.upstream.plain import PlainUpstream
from tests.harness.one_provider import DELTA
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream


async def test_who_is_cancelled_as_a_client_becomes_slow_leaves_no_wait_behind() -> None:
    """The wait for the client is dropped in silence when there is nobody to wait any more."""
    sent: list[Message] = []
    more = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await more.wait()
        await conversation.event(DELTA)
        await conversation.left()

    class Client:
        """Takes the head and the first event at once, and the second never."""

        def __call__(self, message: Message) -> asyncio.Future[None]:
            sent.append(message)
            future = asyncio.get_running_loop().create_future()
            if len(sent) <= 2:
                future.set_result(None)
            else:
                # Between the arrival and the worker's next turn.
                asyncio.get_running_loop().call_soon(worker.cancel)
            return future

    async def work() -> None:
        request = UpstreamRequest("POST", f"{fm.url}/chat/completions", (), b"{}")
        async with upstream.exchange(request) as answer:
            stream = await open_answer(answer, "fm", stream=True, size=1)
            assert isinstance(stream, OpenStream)
            more.set()
            await pump(stream, Client(), (), Deadlines(5, 5, 5), Sweeper())

    async with ScriptedUpstream(script) as fm:
        upstream = PlainUpstream("fm", connect_s=1)
        worker = asyncio.create_task(work())
        with suppress(asyncio.CancelledError):
            await worker
        await upstream.aclose()
    assert len(sent) == 3
    assert upstream.active == 0
