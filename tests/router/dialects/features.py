"""What a dialect has, by the conversations that show it: rows of docs/dialects.md."""

from typing import NamedTuple


class Feature(NamedTuple):
    """One thing that a protocol can say, and what becomes of it in each direction.

    `request`, `answer` and `stream` are cells of the table: "yes", "no", "refused", "left out", or
    "" where the feature has no part in it. `note` says what else a person has to know.
    """

    name: str
    dialect: str
    request: str
    answer: str
    stream: str
    note: str = ""
