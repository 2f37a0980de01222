from backends.lifecycle import RestartPolicy
from backends.setbacks import Failure, Setbacks
from backends.wire import ProcessState as S
from tests.harness.clock import FakeClock

CRASH = Failure("backend_failed", "fake exited with status 1: boom")
POLICY = RestartPolicy(backoff_max_s=60, window_s=300, starts_per_window=3)


def test_a_crash_pauses_then_gives_up() -> None:
    """Two failures are paused after, the third ends it with what to do."""
    clock = FakeClock()
    setbacks = Setbacks(POLICY, clock)
    for low_s, high_s in ((0.8, 1.2), (1.6, 2.4)):
        state, reason = setbacks.crashed(CRASH, started=clock())
        assert state is S.BACKOFF
        assert reason.startswith("fake exited with status 1: boom; next try in ")
        assert setbacks.retry_after_s is not None
        assert low_s <= setbacks.retry_after_s <= high_s
        clock.advance(setbacks.retry_after_s)
        assert setbacks.retry_after_s == 0
    assert setbacks.crashed(CRASH, started=clock()) == (S.FATAL, CRASH.message)
    assert setbacks.retry_after_s is None
    assert setbacks.failure is not None
    assert setbacks.failure.message.endswith(
        "; it failed 3 times and stays down: see its log, then restart it"
    )


def test_a_pause_that_is_over_is_never_negative() -> None:
    """Long after the pause, and after a clock that stepped back, the wait is no less than zero."""
    clock = FakeClock()
    setbacks = Setbacks(POLICY, clock)
    setbacks.crashed(CRASH, started=clock())
    clock.advance(1000)
    assert setbacks.retry_after_s == 0


def test_readiness_does_not_forgive() -> None:
    """A process that gets ready and dies at once still runs out of starts."""
    setbacks = Setbacks(POLICY, FakeClock())
    states = []
    for _ in range(3):
        setbacks.ready()
        assert setbacks.failure is None
        states.append(setbacks.crashed(CRASH, started=1000.0)[0])
    assert states == [S.BACKOFF, S.BACKOFF, S.FATAL]


def test_forgetting_begins_anew() -> None:
    """After a restart by a person the count starts over."""
    setbacks = Setbacks(POLICY, FakeClock())
    for _ in range(3):
        setbacks.crashed(CRASH, started=1000.0)
    setbacks.forget()
    assert setbacks.crashed(CRASH, started=1000.0)[0] is S.BACKOFF


def test_a_taken_port_is_tried_for_ever() -> None:
    """A blocked port never becomes fatal, is asked for ever more rarely, and forgotten once had."""
    clock = FakeClock()
    setbacks = Setbacks(POLICY, clock)
    pauses = []
    for _ in range(20):
        assert setbacks.blocked(CRASH)[0] is S.BLOCKED
        pauses.append(setbacks.retry_after_s or 0.0)
    assert 0.8 <= pauses[0] <= 1.2
    assert 48 <= pauses[-1] <= 60
    setbacks.bound()
    setbacks.blocked(CRASH)
    assert (setbacks.retry_after_s or 0.0) <= 1.2


def test_restarts_count_starts_after_failures_only() -> None:
    """A start after a crash is a restart, a first one or one after idleness is not."""
    setbacks = Setbacks(POLICY, FakeClock())
    setbacks.bound()
    setbacks.bound()
    assert setbacks.restarts == 0
    setbacks.crashed(CRASH, started=1000.0)
    setbacks.bound()
    assert setbacks.restarts == 1
