import asyncio
import gc
import threading
import weakref

import pytest

from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Admitted, Begun, Event, Failed, Finished, Progress, Text
from backends.mlx_backend.inbox import ClientGone, Deadlines, Inbox

STOP = Finished("stop", 9, 2, 4)
# A read that no deadline ends, where one should, is a failure and no hanging test.
GUARD_S = 5
WHY = ChatError("generation_failed", "why")


async def test_events_come_through_in_order_from_another_thread() -> None:
    """What the MLX thread posts is read on the loop; what says nothing is not shown."""
    inbox = Inbox(Deadlines(), Delivery())
    begun = Begun(9, 4, thinking=False)
    said: list[Event] = [Admitted(), Progress(), begun, Text("a"), Progress(), Text("b"), STOP]
    sink = inbox.sink(3)

    def say() -> None:
        for event in said:
            sink(event)

    thread = threading.Thread(target=say)
    thread.start()
    read: list[tuple[int, Event]] = []
    while len(read) < 5:
        read += await inbox.read()
    thread.join()
    assert read == [(3, one) for one in said if not isinstance(one, Progress)]


async def test_a_failure_is_raised() -> None:
    """A generation that fails raises its own error."""
    inbox = Inbox(Deadlines(), Delivery())
    inbox.sink(0)(Failed(WHY))
    with pytest.raises(ChatError, match="why"):
        await inbox.read()


async def test_a_client_that_has_gone() -> None:
    """Nothing more is read for a client that has closed its connection."""
    inbox = Inbox(Deadlines(), Delivery())
    inbox.client_gone()
    with pytest.raises(ClientGone):
        await inbox.read()


async def test_a_step_that_hangs_passes_the_token_deadline() -> None:
    """A row that makes no step in time fails, although the thread cannot be interrupted."""
    inbox = Inbox(Deadlines(token_s=0.02), Delivery())
    inbox.sink(0)(Admitted())
    await inbox.read()
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(ChatError, match=r"0\.02 s without a step") as failure:
            await inbox.read()
    assert failure.value.code == "generation_failed"


async def test_a_step_in_time_moves_the_deadline_and_does_not_end_it() -> None:
    """A row that goes on for a while and then hangs fails, so long after its last step."""
    inbox = Inbox(Deadlines(token_s=0.04), Delivery())
    sink, loop = inbox.sink(0), asyncio.get_running_loop()
    sink(Admitted())
    await inbox.read()
    begun = loop.time()
    loop.call_later(0.025, sink, Progress())
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(ChatError, match=r"0\.04 s without a step"):
            await inbox.read()
    assert loop.time() - begun >= 0.06


async def test_a_choice_that_hangs_is_not_saved_by_another_one() -> None:
    """Each choice has a token deadline of its own."""
    inbox = Inbox(Deadlines(token_s=0.05), Delivery())
    hanging, alive = inbox.sink(0), inbox.sink(1)
    hanging(Admitted())
    alive(Admitted())
    stop = asyncio.Event()

    async def drip() -> None:
        while not stop.is_set():
            alive(Progress())
            await asyncio.sleep(0.005)

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        group.create_task(drip())
        assert await inbox.read() == [(0, Admitted()), (1, Admitted())]
        with pytest.raises(ChatError, match=r"0\.05 s without a step"):
            await inbox.read()
        stop.set()


async def test_a_choice_that_has_ended_has_no_deadline() -> None:
    """What is complete cannot be late, while another choice still waits in the queue."""
    inbox = Inbox(Deadlines(token_s=0.01, total_s=0.01), Delivery())
    for event in (Admitted(), STOP):
        inbox.sink(0)(event)
        await inbox.read()
    reading = asyncio.create_task(inbox.read())
    await asyncio.sleep(0.04)
    assert not reading.done()
    inbox.sink(1)(Text("a"))
    assert await reading == [(1, Text("a"))]


async def test_a_generation_that_drips_passes_the_total_deadline() -> None:
    """Steps in time do not save a generation that takes too long in all."""
    inbox = Inbox(Deadlines(token_s=5, total_s=0.05), Delivery())
    sink = inbox.sink(0)
    sink(Admitted())
    await inbox.read()
    stop = asyncio.Event()

    async def drip() -> None:
        while not stop.is_set():
            sink(Progress())
            await asyncio.sleep(0.005)

    async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
        group.create_task(drip())
        with pytest.raises(ChatError, match=r"0\.05 s in all"):
            await inbox.read()
        stop.set()


async def test_the_queue_has_no_deadline() -> None:
    """Waiting for a row is not counted: the deadlines run from the admission."""
    inbox = Inbox(Deadlines(token_s=0.01, total_s=0.01), Delivery())
    reading = asyncio.create_task(inbox.read())
    await asyncio.sleep(0.04)
    assert not reading.done()
    inbox.sink(0)(Text("a"))
    assert await reading == [(0, Text("a"))]


async def test_what_waits_is_read_at_once_and_a_failure_after_it() -> None:
    """What came before a failure is not lost; what comes after it counts for nothing."""
    inbox = Inbox(Deadlines(), Delivery())
    for event in (Text("a"), Text("b"), Failed(WHY), Text("c")):
        inbox.sink(0)(event)
    assert await inbox.read() == [(0, Text("a")), (0, Text("b"))]
    with pytest.raises(ChatError, match="why"):
        await inbox.read()


async def test_nothing_is_read_for_a_client_that_has_gone() -> None:
    """What is still unread when the client goes is not worked on."""
    inbox = Inbox(Deadlines(), Delivery())
    inbox.sink(0)(Text("a"))
    await asyncio.sleep(0)
    inbox.client_gone()
    with pytest.raises(ClientGone):
        await inbox.read()


async def test_a_client_that_is_slow_passes_no_deadline() -> None:
    """What came in time is read however late that is, and so is what follows it."""
    inbox = Inbox(Deadlines(token_s=0.01), Delivery())
    sink = inbox.sink(0)
    sink(Admitted())
    await inbox.read()
    reading = asyncio.create_task(inbox.read())
    await asyncio.sleep(0)
    sink(Text("a"))
    assert await reading == [(0, Text("a"))]
    sink(Text("b"))
    await asyncio.sleep(0.03)
    assert await inbox.read() == [(0, Text("b"))]
    sink(STOP)
    assert await inbox.read() == [(0, STOP)]


async def test_a_closed_inbox_leaves_no_timer() -> None:
    """Nothing of an answer that is over stays with the loop until its deadline."""
    inbox = Inbox(Deadlines(), Delivery())
    inbox.sink(0)(Admitted())
    await inbox.read()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inbox.read(), 0.01)
    gone = weakref.ref(inbox)
    inbox.close()
    del inbox
    gc.collect()
    assert gone() is None
