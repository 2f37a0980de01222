"""What commands print: tables for people, JSON for scripts."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough that nothing is cut where no terminal says how wide it is.
_PIPE_WIDTH = 1000
# What a terminal would obey instead of showing it; a model may write anything.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Output:
    """Prints to one stream, as tables or as JSON."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self.as_json = as_json
        self._stream = stream
        self._console = Console(
            file=stream,
            width=None if stream.isatty() else _PIPE_WIDTH,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def document(self, content: object) -> None:
        """Print JSON."""
        self._stream.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def line(self, text: str = "") -> None:
        """Print one line for a person."""
        self._stream.write(plain(text) + "\n")

    def piece(self, text: str) -> None:
        """Print a part of a text at once."""
        self._stream.write(plain(text))
        self._stream.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows under the names of their keys."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.replace("_", " ").upper(), overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell(row.get(column)))) for column in columns))
        self._console.print(table, soft_wrap=False)


def cell(value: object) -> str:
    """Return a value as a person reads it in a table."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(each)}" for key, each in value.items())
    return str(value)


def plain(text: str) -> str:
    """Return a text without what a terminal would obey."""
    return _CONTROLS.sub("", text)
