"""Work goes on only while its client is there: every order in which the two can end."""

import asyncio
from collections.abc import Callable

import pytest

from router.errors import ClientGone, RouteFailed
from router.presence import ClientPresent


class Client:
    """A client that leaves when told to, heard as the event loop hears it: between two steps."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone
        self.loop = asyncio.get_running_loop()
        self.tell: Callable[[], None] | None = None

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        self.tell = tell

    def leave(self) -> None:
        asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        self.gone = True
        if self.tell is not None:
            self.tell()


def _cancellations() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_work_that_ends_first_is_not_disturbed() -> None:
    """A result passes, and nobody watches any more."""
    client = Client()
    with ClientPresent(client):
        done = True
    client.leave()
    await asyncio.sleep(0)
    assert done
    assert client.tell is None


async def test_leaving_ends_the_work_as_client_gone() -> None:
    """The work is cancelled where it waits; the task itself is not left cancelled."""
    client = Client()
    with pytest.raises(ClientGone), ClientPresent(client):
        client.leave()
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    assert _cancellations() == 0


async def test_nothing_is_begun_for_a_client_that_has_left() -> None:
    """Who leaves before the work begins is noticed before it does."""
    with pytest.raises(ClientGone), ClientPresent(Client(gone=True)):
        pytest.fail("worked for nobody")


async def test_leaving_as_the_work_fails_keeps_the_failure() -> None:
    """Work that turns the cancellation into its own failure is told as that, and counts no more."""
    client = Client()
    with pytest.raises(RouteFailed), ClientPresent(client):
        client.leave()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RouteFailed("upstream_reset", "x") from None
    await asyncio.sleep(0)
    assert _cancellations() == 0


@pytest.mark.parametrize("leaves_too", [False, True])
async def test_a_cancellation_from_outside_stays_one(leaves_too: bool) -> None:
    """Shutdown cancels the work as CancelledError, whether or not the client goes as well."""
    client = Client()
    inside = asyncio.Event()

    async def work() -> None:
        with ClientPresent(client):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    if leaves_too:
        client.leave()
        await asyncio.sleep(0)
    for _ in range(3):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
