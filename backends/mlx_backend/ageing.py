"""How a flood of HIGH leaves room for LOW: every so often it is LOW's turn."""

from typing import Final

# So many HIGHs in a row may go before a LOW that could have gone.
OVERTAKEN: Final = 7


class Ageing:
    """Counts how often HIGH went while LOW could have gone as well."""

    def __init__(self) -> None:
        self._highs_in_row = 0

    def __repr__(self) -> str:
        return f"<Ageing {self._highs_in_row}/{OVERTAKEN}>"

    def low_is_due(self, *, low_waits: bool) -> bool:
        """Tell whether LOW goes next; where none waits, nobody has been overtaken."""
        if not low_waits:
            self._highs_in_row = 0
        return self._highs_in_row >= OVERTAKEN

    def high_goes(self) -> None:
        """Take note that a HIGH goes."""
        self._highs_in_row += 1

    def low_goes(self) -> None:
        """Take note that a LOW goes."""
        self._highs_in_row = 0

    def leave_one_to_high(self) -> None:
        """Let one more HIGH go before LOW is due."""
        self._highs_in_row = min(self._highs_in_row, OVERTAKEN - 1)
