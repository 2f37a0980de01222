import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.harness import architecture
from tests.harness.architecture import RULES, Rule, module_from, modules

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_code_keeps_its_shape(rule: Rule) -> None:
    """No module of the product offends a rule of its shape."""
    assert [offence for module in modules() for offence in rule(module)] == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (architecture.long_modules, "router.x", "\n" * 401),
        (architecture.long_functions, "router.x", "def f():\n" + " pass\n" * 60),
        (architecture.global_statements, "router.x", "def f():\n global a"),
        (architecture.blind_excepts, "router.x", "try: f()\nexcept: pass"),
        (architecture.blind_excepts, "router.x", "try: f()\nexcept Exception: raise ValueError"),
        (architecture.blind_excepts, "router.x", "try: f()\nexcept (OSError, Exception): pass"),
        (architecture.blind_excepts, "router.x", "with contextlib.suppress(BaseException): f()"),
        (architecture.environment_readings, "router.x", "import os\nos.environ['A']"),
        (architecture.environment_readings, "backends.x", "from os import getenv"),
        (architecture.process_starts, "router.x", "import subprocess"),
        (architecture.process_starts, "router.x", "asyncio.create_subprocess_exec('x')"),
        (architecture.process_starts, "router.x", "os.fork()"),
        (architecture.misplaced_imports, "router.proxy", "import litellm"),
        (architecture.misplaced_imports, "backends.mlx_backend.app", "import mlx.core as mx"),
        (architecture.late_imports, "router.x", "def f():\n import json"),
        (architecture.late_imports, "router.app", "async def f():\n from router.proxy import P"),
        (architecture.late_imports, "router.x", "def f():\n importlib.import_module('httpx2')"),
        (architecture.foreign_words, "backends.wire", "import msgspec"),
    ],
)
def test_each_rule_bites(rule: Rule, name: str, text: str) -> None:
    """Every rule finds what it is there to find."""
    assert list(rule(module_from(name, text)))


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (architecture.blind_excepts, "router.x", "try: f()\nexcept BaseException:\n g()\n raise"),
        (architecture.blind_excepts, "router.guard", "try: f()\nexcept Exception: pass"),
        (architecture.environment_readings, "backends.x.__main__", "import os\nos.environ"),
        (architecture.process_starts, "backends.child", "import subprocess"),
        (architecture.misplaced_imports, "backends.mlx_backend.engine", "import mlx.core"),
        (architecture.late_imports, "router.app", "def f():\n from router.admin.api import a"),
        (architecture.late_imports, "router.cli.status", "def f():\n import rich.table"),
        (architecture.foreign_words, "backends.wire", "from enum import IntEnum"),
    ],
)
def test_each_rule_lets_the_named_places_be(rule: Rule, name: str, text: str) -> None:
    """What a rule allows by name is not an offence."""
    assert list(rule(module_from(name, text))) == []


def test_no_module_needs_itself() -> None:
    """Modules form no cycle, type annotations apart."""
    graph = grimp.build_graph(
        "router", "backends", exclude_type_checking_imports=True, cache_dir=None
    )
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_of_the_router_is_on_the_map() -> None:
    """ARCHITECTURE.md names each of them, in a table or in the line of one request."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"[a-z0-9_]+", text))
    there = {each.stem for each in (ROOT / "router").iterdir() if not each.name.startswith("__")}
    assert there - named == set()
