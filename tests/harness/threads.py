"""On which threads a function runs, without a word to the code that calls it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from typing import Any


@contextmanager
def threads_of(function: Callable[..., Any]) -> Iterator[list[bool]]:
    """Yield a list that gets for each call whether it is on a thread other than this one.

    Of other threads those are seen that start after this.
    """
    assert isinstance(function, FunctionType)
    code, here, found = function.__code__, threading.get_ident(), list[bool]()

    def look(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code is code:
            found.append(threading.get_ident() != here)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
