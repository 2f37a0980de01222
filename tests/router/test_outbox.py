"""What is sent together at the end of the loop's turn."""

import asyncio

import pytest

from router.outbox import Outbox


class _Sender:
    def __init__(self, name: str, sent: list[str], *, fails: bool = False) -> None:
        self._name = name
        self._sent = sent
        self._fails = fails

    def flush(self) -> None:
        if self._fails:
            raise RuntimeError(self._name)
        self._sent.append(self._name)


@pytest.mark.parametrize("failing", ["", "a", "b", "c", "ab", "abc"])
async def test_one_that_fails_keeps_nobody_from_sending(failing: str) -> None:
    """All others send, in their order, and the event loop is told of each failure."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    outbox, sent = Outbox(), list[str]()
    for name in "abc":
        outbox.add(_Sender(name, sent, fails=name in failing))
    for _ in range(5):
        await asyncio.sleep(0)
    assert sent == [name for name in "abc" if name not in failing]
    assert told == list(failing)
    loop.set_exception_handler(None)
