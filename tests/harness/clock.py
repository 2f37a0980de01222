"""A clock that moves when told, for whatever takes `clock=time.monotonic`."""


class FakeClock:
    """Call it for the time in seconds; `advance` moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward."""
        self._now += seconds
