"""What keeps one process from running: its failures, its port, and until when it is left alone."""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from backends.lifecycle import Crashes, RestartPolicy, backoff_s
from backends.wire import ProcessState as S


class Failure(NamedTuple):
    """Why there is no process: a code of `backends.wire`, and words for whoever asks."""

    code: str
    message: str


class Setbacks:
    """Counts what goes wrong and says where that leads; each count returns a state and a reason."""

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._crashes = Crashes()
        self._blocks = 0
        self.failure: Failure | None = None
        self.retry_at = 0.0
        self.restarts = 0

    def __repr__(self) -> str:
        return f"<Setbacks crashes={len(self._crashes.starts)} blocks={self._blocks}>"

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the next try; None when nothing keeps it down, or for good."""
        if self.failure is None or self.retry_at == math.inf:
            return None
        return max(0.0, self.retry_at - self._clock())

    def bound(self) -> None:
        """Note that the port was had and a run begins."""
        self._blocks = 0
        self.restarts += bool(self._crashes.starts)

    def ready(self) -> None:
        """Note that it runs: nothing keeps it down. What it did before still counts."""
        self.failure = None

    def renew(self, policy: RestartPolicy) -> None:
        """Count by another policy from now on."""
        self._policy = policy

    def forget(self) -> None:
        """Begin anew, as a person or a new assignment asked."""
        self._crashes, self._blocks = Crashes(), 0

    def crashed(self, failure: Failure, *, started: float) -> tuple[S, str]:
        """Count a failed run: BACKOFF, or FATAL when that were too many."""
        now = self._clock()
        self._crashes = self._crashes.after(self._policy, started=started, ended=now)
        pause_s = self._crashes.pause_s(self._policy, random.random())  # noqa: S311 jitter
        if pause_s is None:
            return self.doomed(
                failure,
                f"it failed {len(self._crashes.starts)} times and stays down: "
                "see its log, then restart it",
            )
        self.failure, self.retry_at = failure, now + pause_s
        return S.BACKOFF, f"{failure.message}; next try in {pause_s:.1f} s"

    def blocked(self, failure: Failure) -> tuple[S, str]:
        """Count a taken port: that is tried again for ever, ever more rarely."""
        self._blocks += 1
        pause_s = backoff_s(self._policy, self._blocks, random.random())  # noqa: S311 jitter
        self.failure, self.retry_at = failure, self._clock() + pause_s
        return S.BLOCKED, failure.message

    def doomed(self, failure: Failure, advice: str) -> tuple[S, str]:
        """Give up until somebody asks for a restart."""
        self.failure = failure._replace(message=f"{failure.message}; {advice}")
        self.retry_at = math.inf
        return S.FATAL, failure.message
