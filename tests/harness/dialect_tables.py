"""The tables of docs/dialects.md, made of the conversations that the tests hold the dialects to.

`scripts/routing-docs` writes them. Each stands in the file between `<!-- name: … -->` and
`<!-- end -->`; the words around them are a person's. A dialect's rows are the `FEATURES` of its
`tests/router/dialects/golden_*.py`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from router.dialects.messages import fields as messages
from router.dialects.responses.request import LEFT_OUT, PASSED, REFUSED, TRANSLATED
from tests.harness.routing_tables import _SECTION, Rows, _lines
from tests.router.dialects.features import Feature

_ROOT: Final = Path(__file__).parents[2]
FILE: Final = _ROOT / "docs" / "dialects.md"
_GOLDEN: Final = sorted((_ROOT / "tests" / "router" / "dialects").glob("golden_*.py"))


def features() -> dict[str, list[Feature]]:
    """Return the features of each dialect."""
    modules = [import_module(f"tests.router.dialects.{each.stem}") for each in _GOLDEN]
    return {module.FEATURES[0].dialect: module.FEATURES for module in modules}


def _featured(rows: Iterable[Feature]) -> Iterator[tuple[str, ...]]:
    yield "", "request", "answer", "stream", ""
    for row in rows:
        yield row.name, row.request, row.answer, row.stream, row.note


def fields_of_responses() -> Rows:
    """Tell what becomes of each field of a responses request."""
    but = {
        name: " or ".join(f"`{_json(value)}`" for value in harmless)
        for name, (harmless, _) in REFUSED.items()
    }
    return _fields(TRANSLATED, PASSED, LEFT_OUT, but)


def fields_of_messages() -> Rows:
    """Tell what becomes of each field of a messages request."""
    but = {**dict.fromkeys(messages.REFUSED, ""), **messages.CHECKED}
    return _fields(messages.TRANSLATED, messages.PASSED, messages.LEFT_OUT, but)


def _fields(
    translated: Iterable[str],
    passed: Iterable[str],
    left_out: Iterable[str],
    refused: Mapping[str, str],
) -> Rows:
    yield "what becomes of it", "fields"
    for what, names in (
        ("translated", translated),
        ("passed on under its own name", passed),
        ("left out: it changes nothing of the answer", left_out),
    ):
        yield what, ", ".join(f"`{name}`" for name in sorted(names))
    for name, but in sorted(refused.items()):
        yield "refused", f"`{name}`" + (f", but for {but}" if but else "")


def _json(value: object) -> str:
    return str(value).lower().replace("'", '"') if not isinstance(value, str) else value


def tables() -> dict[str, Rows]:
    """Return every table by its name."""
    rows = {name: _featured(each) for name, each in features().items()}
    return {
        **rows,
        "fields of responses": fields_of_responses(),
        "fields of messages": fields_of_messages(),
    }


def written(text: str) -> str:
    """Return the file with its tables as the tests have them; KeyError for one that is not ours."""
    made = tables()

    def table(found: re.Match[str]) -> str:
        return found[1] + "".join(_lines(made[found[2]])) + found[3]

    return _SECTION.sub(table, text)


if __name__ == "__main__":
    FILE.write_text(written(FILE.read_text("utf-8")), "utf-8")
