"""A pytest plugin: async tests run on the event loop that the router runs on, which is uvloop's.

A folder's own conftest may name others; where it returns None, this one counts.
"""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.hookimpl(optionalhook=True, trylast=True)
def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Name the loop of every async test that no conftest nearer to it decides about."""
    return {"uvloop": uvloop.new_event_loop}
