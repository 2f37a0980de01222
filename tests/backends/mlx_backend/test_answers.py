import asyncio
import threading

import pytest

from backends.mlx_backend.answers import ClientGone, Deadlines, Inbox
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Admitted, Event, Failed, Finished, Progress, Text


async def test_events_come_through_in_order_from_another_thread() -> None:
    """What the MLX thread posts is read on the loop; what is no text is not shown."""
    inbox = Inbox(Deadlines())
    said: list[Event] = [
        Admitted(),
        Progress(),
        Text("a"),
        Progress(),
        Text("b"),
        Finished("stop", 3, 2),
    ]

    def say() -> None:
        for event in said:
            inbox.post(event)

    thread = threading.Thread(target=say)
    thread.start()
    read = [await inbox.read() for _ in range(3)]
    thread.join()
    assert read == [Text("a"), Text("b"), Finished("stop", 3, 2)]


async def test_a_failure_is_raised() -> None:
    """A generation that fails raises its own error."""
    inbox = Inbox(Deadlines())
    inbox.post(Failed(ChatError("generation_failed", "why")))
    with pytest.raises(ChatError, match="why"):
        await inbox.read()


async def test_a_client_that_has_gone() -> None:
    """Nothing more is read for a client that has closed its connection."""
    inbox = Inbox(Deadlines())
    inbox.post(None)
    with pytest.raises(ClientGone):
        await inbox.read()


async def test_a_step_that_hangs_passes_the_token_deadline() -> None:
    """A row that makes no step in time fails, although the thread cannot be interrupted."""
    inbox = Inbox(Deadlines(token_s=0.02))
    inbox.post(Admitted())
    with pytest.raises(ChatError, match=r"0\.02 s without a step") as failure:
        await inbox.read()
    assert failure.value.code == "generation_failed"


async def test_a_generation_that_drips_passes_the_total_deadline() -> None:
    """Steps in time do not save a generation that takes too long in all."""
    inbox = Inbox(Deadlines(token_s=5, total_s=0.05))
    inbox.post(Admitted())
    dripping = True

    async def drip() -> None:
        while dripping:
            inbox.post(Progress())
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(drip())
        with pytest.raises(ChatError, match=r"0\.05 s in all"):
            await inbox.read()
        dripping = False


async def test_the_queue_has_no_deadline() -> None:
    """Waiting for a row is not counted: the deadlines run from the admission."""
    inbox = Inbox(Deadlines(token_s=0.01, total_s=0.01))
    reading = asyncio.create_task(inbox.read())
    await asyncio.sleep(0.04)
    assert not reading.done()
    inbox.post(Text("a"))
    assert await reading == Text("a")
