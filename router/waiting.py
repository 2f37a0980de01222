"""What is awaited where there may be nothing to wait for."""

from collections.abc import Generator
from typing import Any


class _Nothing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "NOTHING"

    def __await__(self) -> Generator[Any, Any, None]:
        # A generator would cost as much as the coroutine that this saves.
        return iter(())  # type: ignore[return-value]  # Python asks for an iterator only


# Is over already; whoever gets it need not be in a task to go on.
NOTHING = _Nothing()
