import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.harness.children import Yard
from tests.harness.loops import LoopFactory

# What touches the loop's own machinery runs on both.
_ON_BOTH_LOOPS = frozenset({"test_pipe.py", "test_process_manager.py"})


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory] | None:
    """Choose the event loops that a file's tests run on; None: the router's."""
    if item.path.name in _ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return None


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Lend a folder for fake children."""
    made = Yard(tmp_path)
    yield made
    made.close()
