"""What the documents say is what the code does."""

import re
from pathlib import Path
from typing import Any

import pytest

from router.classification import chat, messages, responses
from router.settings import load
from router.settings.tree import Settings
from tests.harness import dialect_tables
from tests.harness.one_provider import DONE, STOP, STREAMED, streams
from tests.harness.routing_tables import ADVICE, FILE, TABLES, codes_in_use, shown_in, written
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

ROOT = Path(__file__).parents[1]
TEXT = FILE.read_text("utf-8")


def test_the_tables_are_what_the_code_decides() -> None:
    """scripts/routing-docs rewrites them."""
    assert written(TEXT) == TEXT, "docs/routing.md is not what the code says: scripts/routing-docs"


def test_every_table_has_its_place() -> None:
    """No table is lost by an edit of the words around it."""
    assert shown_in(TEXT) == list(TABLES)


def test_the_tables_of_dialects_are_what_the_tests_hold() -> None:
    """scripts/routing-docs rewrites them, and no dialect is without its table."""
    text = dialect_tables.FILE.read_text("utf-8")
    assert dialect_tables.written(text) == text, "docs/dialects.md is old: scripts/routing-docs"
    assert sorted(shown_in(text)) == sorted(dialect_tables.tables())


def test_advice_is_given_for_the_codes_in_use_and_no_others() -> None:
    """Who adds a code says what a person does about it."""
    assert set(ADVICE) == codes_in_use()


@pytest.mark.parametrize(
    "kind",
    # In order: processes that share the tests must find the same ones.
    sorted(
        {
            *(chat._IMAGE_PARTS | chat.INPUT_PARTS.keys() | chat._TOOL_ROLES),
            *(responses.IMAGE_PARTS | responses.INPUT_PARTS.keys()),
            *(messages._TOOL_BLOCKS | chat.SCHEMA_FORMATS),
        }
    ),
)
def test_every_word_that_makes_a_need_is_told(kind: str) -> None:
    """A kind of part that classification learns has its line in the table of needs."""
    assert f"`{kind}`" in TEXT


async def test_the_headers_of_answers_are_those_that_are_told(tmp_path: Path) -> None:
    """A stream with a shim and a schema, and an error have no header that is not named."""
    async with (
        ScriptedUpstream(streams(STOP, DONE)) as fm,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url, spend_limit={"tokens": 9})},
            capabilities={"text": {"models": ["fm/model-1"], "enforce": "validate"}},
        ) as signalbox,
    ):
        answer = await signalbox.chat({**STREAMED, "response_format": {"type": "json_object"}})
        error = await signalbox.chat({"model": "nobody", "messages": []})
    ours = {name for name in (*answer.headers, *error.headers) if name.startswith("x-")}
    assert ours == set(re.findall(r"^\| `(x-[a-z-]+)`", TEXT, re.MULTILINE))


def configurations() -> list[Any]:
    """Return the blocks of the documentation that are parts of a router.yaml."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in pages
        for number, block in enumerate(
            re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text("utf-8"))
        )
        if block.partition(":")[0] in Settings.model_fields
    ]


@pytest.mark.parametrize("block", configurations())
def test_configurations_that_are_shown_are_valid(tmp_path: Path, block: str) -> None:
    """Nobody copies what the router would refuse."""
    config = tmp_path / "router.yaml"
    config.write_text(block, "utf-8")
    environment = {"HOME": str(tmp_path)}
    assert load(config, {"data_dir": str(tmp_path / "data")}, environment).source
