import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.harness.children import Yard

_ON_BOTH_LOOPS = {"test_process_manager.py", "test_pipe.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what touches the loop's own machinery on the router's loop and on asyncio's."""
    both = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return both if item.path.name in _ON_BOTH_LOOPS else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Lend a folder for fake children."""
    made = Yard(tmp_path)
    yield made
    made.close()
