"""How many further attempts are in hand: a bucket that requests fill and attempts empty.

A share of the requests rather than a number for each: when everything fails, retries must not
multiply the load that made it fail. (Envoy calls this a retry budget.)
"""

# What there is before the first request, and what a quiet hour can save up.
_AT_START = 3.0
_AT_MOST = 20.0


class RetryBudget:
    """Attempts beyond a request's first, a share of one for each request."""

    def __init__(self) -> None:
        self._in_hand = _AT_START

    def __repr__(self) -> str:
        return f"<RetryBudget {self._in_hand:.1f}>"

    def earn(self, share: float) -> None:
        """Count a request, which adds so much of an attempt."""
        self._in_hand = min(self._in_hand + share, _AT_MOST)

    def spend(self) -> bool:
        """Take one further attempt; False when there is none to be had."""
        # A sum of fifths may fall short of a whole by what binary fractions cannot say.
        if self._in_hand < 1 - 1e-9:
            return False
        self._in_hand -= 1
        return True

    def give_back(self) -> None:
        """Take back an attempt that was spent and not made."""
        self._in_hand = min(self._in_hand + 1, _AT_MOST)
