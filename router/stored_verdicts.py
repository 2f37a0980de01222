"""The stored verdicts of probes, read at start with the standard library.

`store` writes them; the table's name and columns are the contract between the two.
"""

from collections.abc import Mapping
from pathlib import Path

from router.learned import Verdict
from router.overrides import read_table

TABLE = "model_fact"


def read_verdicts(database: Path) -> Mapping[str, Mapping[str, Verdict]]:
    """Return the stored verdicts by model and capability. Raises StoreError."""
    verdicts: dict[str, dict[str, Verdict]] = {}
    rows = read_table(database, TABLE, "model, capability, value, date, why")
    for model, capability, value, date, why in rows:
        known = None if value is None else bool(value)
        verdicts.setdefault(model, {})[capability] = Verdict(known, date, why)
    return verdicts
