import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.harness.children import Yard

_LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]]
_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
_LOOPS_BY_FILE = {
    # What touches the loop's own machinery runs on both, what the router runs on its own.
    "test_pipe.py": ("asyncio", "uvloop"),
    "test_process_manager.py": ("asyncio", "uvloop"),
    "test_managed_process.py": ("uvloop",),
    "test_process_flips.py": ("uvloop",),
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the event loops that a file's tests run on."""
    return {name: _LOOPS[name] for name in _LOOPS_BY_FILE.get(item.path.name, ("asyncio",))}


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Lend a folder for fake children."""
    made = Yard(tmp_path)
    yield made
    made.close()
