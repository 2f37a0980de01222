"""Work goes on only while its client is there: every order in which the two can end."""

import asyncio
from typing import Any

import pytest

from router.errors import ClientGone, RouteFailed
from router.presence import ClientPresent


class Client:
    """The receiving end of a connection whose client leaves when told to."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


async def test_work_that_ends_first_is_not_disturbed() -> None:
    """A result passes, and nobody watches any more."""
    client = Client()
    async with ClientPresent(client.receive):
        done = True
    client.leaves.set()
    await asyncio.sleep(0)
    assert done


async def test_leaving_ends_the_work_as_client_gone() -> None:
    """The work is cancelled where it waits; the task itself is not left cancelled."""
    client = Client()
    with pytest.raises(ClientGone):
        async with ClientPresent(client.receive):
            client.leaves.set()
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_leaving_as_the_work_fails_keeps_the_failure() -> None:
    """Work that fails in the moment its client goes is told as its failure or as client gone."""
    client = Client()
    with pytest.raises((RouteFailed, ClientGone)):
        async with ClientPresent(client.receive):
            client.leaves.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RouteFailed("upstream_reset", "x") from None
    await asyncio.sleep(0)


async def test_leaving_as_the_work_ends_never_strikes_later() -> None:
    """A goodbye that comes with the work's last step leaves no cancellation behind."""
    client = Client()
    try:
        async with ClientPresent(client.receive):
            client.leaves.set()
            # The watcher has heard it; its cancellation is on the way when the work is over.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    except ClientGone:
        pass
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("leaves_too", [False, True])
async def test_a_cancellation_from_outside_stays_one(leaves_too: bool) -> None:
    """Shutdown cancels the work as CancelledError, whether or not the client goes as well."""
    client = Client()
    inside = asyncio.Event()

    async def work() -> None:
        async with ClientPresent(client.receive):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    if leaves_too:
        client.leaves.set()
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_broken_connection_object_is_not_hidden() -> None:
    """What `receive` itself raises is the caller's to see."""

    async def broken() -> dict[str, Any]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        async with ClientPresent(broken):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
