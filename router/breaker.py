"""When a provider is left alone: after failures in a row, until one request has tried it again.

    CLOSED     requests pass; `failures` in a row open it
    OPEN       nobody passes; `open_s` later it is half open
    HALF_OPEN  one request passes, and its outcome decides; the others are refused until then

(Nygard's circuit breaker.) Only decisions are taken here, by a clock that is given.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from router.errors import RouteFailed, SignalboxError, Unasked

# What says that a provider cannot be reached or does not keep to the protocol. Its own refusals
# (4xx, 429, 5xx) show that it is there.
TRANSPORT_FAILURES: Final = frozenset(
    {
        "upstream_unreachable",
        "upstream_reset",
        "upstream_protocol_error",
        "upstream_timeout",
        "upstream_truncated",
        "upstream_idle_timeout",
    }
)
# How soon to ask again while another request is finding out.
_ASK_AGAIN_S: Final = 1.0


class State(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """The breaker of one provider. `clock` tells seconds, `emit` is told when the state changes.

    `failures` may be math.inf: then it never opens.
    """

    def __init__(
        self,
        provider: str,
        failures: float,
        open_s: float,
        *,
        emit: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._provider = provider
        self._bearable = failures
        self._open_s = open_s
        self._emit = emit
        self._clock = clock
        self._failures = 0
        self._last_failure = ""
        # None while closed.
        self._opened_at: float | None = None
        self._trial: Passage | None = None

    def __repr__(self) -> str:
        return f"<Breaker {self._provider} {self.state} failures={self._failures}>"

    @property
    def state(self) -> State:
        """Whether requests pass now."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self._left_s() > 0 else State.HALF_OPEN

    @property
    def why(self) -> str | None:
        """What the provider did last, while it is left alone; None while requests pass."""
        return None if self._opened_at is None else self._last_failure

    def check(self) -> None:
        """Raise RouteFailed `provider_unavailable` where nobody may pass now."""
        if self._opened_at is None:
            return
        left_s = self._left_s()
        if left_s <= 0 and self._trial is None:
            return
        raise RouteFailed(
            "provider_unavailable",
            f"{self._provider} failed {self._failures} times in a row and is left alone for now. "
            f"The last time: {self._last_failure}",
            retry_after_s=left_s if left_s > 0 else _ASK_AGAIN_S,
        )

    def passage(self) -> "Passage":
        """Return one request's passage, to be entered before the provider is asked."""
        return Passage(self)

    def _left_s(self) -> float:
        since = self._opened_at
        return 0.0 if since is None else since + self._open_s - self._clock()

    def enter(self, passage: "Passage") -> None:
        """Let a request pass; RouteFailed `provider_unavailable` where it may not."""
        self.check()
        if self._opened_at is not None:
            self._trial = passage

    def answered(self, passage: "Passage") -> None:
        """Take note that the provider is there: who tried it has closed the breaker."""
        if self._trial is passage:
            self._trial = self._opened_at = None
            self._failures = 0
            self._emit(f"{self._provider} answers again")

    def ended_well(self, passage: "Passage") -> None:
        """Take note of a whole answer."""
        if self._opened_at is not None:
            # One that began before the failures says nothing of the time since.
            self.answered(passage)
        else:
            self._failures = 0

    def failed(self, passage: "Passage", error: SignalboxError) -> None:
        """Count a failure, and open when it is one too many."""
        if self._opened_at is not None and self._trial is not passage:
            return
        self._failures += 1
        self._last_failure = error.message
        if self._trial is passage or self._failures >= self._bearable:
            self._opened_at = self._clock()
            self._trial = None
            self._emit(
                f"{self._provider} failed {self._failures} times in a row and is left alone for "
                f"{self._open_s:g} s. The last time: {error.message}"
            )

    def undecided(self, passage: "Passage") -> None:
        """Let the next one try, when this one left before it knew."""
        if self._trial is passage:
            self._trial = None


class Passage:
    """One request's way through a breaker, held while the provider is asked and answers."""

    __slots__ = ("_breaker", "_failure")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failure: SignalboxError | None = None

    def __enter__(self) -> Self:
        """Pass; raises RouteFailed `provider_unavailable` where nobody may."""
        self._breaker.enter(self)
        return self

    def answered(self) -> None:
        """Tell that the provider's answer has begun."""
        self._breaker.answered(self)

    def broke_off(self, failure: SignalboxError) -> None:
        """Tell that the answer did not end as it should."""
        self._failure = failure

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Judge by how it went; who left early judges nothing."""
        outcome = error or self._failure
        if isinstance(outcome, Unasked):
            self._breaker.undecided(self)
        elif isinstance(outcome, SignalboxError) and outcome.code in TRANSPORT_FAILURES:
            self._breaker.failed(self, outcome)
        elif outcome is None or isinstance(outcome, RouteFailed):
            self._breaker.ended_well(self)
        else:
            self._breaker.undecided(self)
