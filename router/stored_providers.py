"""The providers added at run time, read at start with the standard library.

`store` writes them; the table's name and columns are the contract between the two.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.overrides import StoreError, read_table

TABLE = "provider"


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """A provider by the keys that the file has for it; its `api_key` is a reference."""

    settings: Mapping[str, Any]
    since: str


def read_stored_providers(database: Path) -> dict[str, StoredProvider]:
    """Return the stored providers by name, oldest first; none when there is no database yet.

    Raises StoreError when the file is no database of ours, or a newer one.
    """
    found = {}
    for name, settings, since in read_table(database, TABLE, "name, settings, since"):
        try:
            content = json.loads(settings)
        except ValueError as error:
            raise StoreError(f"{database}: the provider {name} is not readable there.") from error
        found[name] = StoredProvider(content, since)
    return found
