import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.lifecycle import (
    MOVES,
    Crashes,
    IllegalMoveError,
    RestartPolicy,
    backoff_s,
    check_move,
)
from backends.wire import ProcessState as S

POLICY = RestartPolicy(backoff_max_s=60, window_s=300, starts_per_window=5)


def test_the_table_knows_every_state() -> None:
    """Each state has its row, and each can be left."""
    assert set(MOVES) == set(S)
    assert all(MOVES.values())


@pytest.mark.parametrize(("current", "to"), [*itertools.product(S, S)])
def test_what_is_not_in_the_table_is_an_error(current: S, to: S) -> None:
    """A legal move passes, any other raises."""
    if to in MOVES[current]:
        check_move(current, to)
    else:
        with pytest.raises(IllegalMoveError, match=f"{current.name} → {to.name}"):
            check_move(current, to)


@pytest.mark.parametrize(
    ("current", "to"),
    [
        (S.STOPPING, S.STARTING),  # a new child while the old one lives
        (S.STOPPING, S.READY),  # a child that was told to end
        (S.STOPPED, S.READY),  # ready without a start
        (S.BACKOFF, S.READY),
        (S.READY, S.READY),
    ],
)
def test_the_moves_that_must_never_be(current: S, to: S) -> None:
    """The moves that would break a promise are in nobody's row."""
    assert to not in MOVES[current]


def test_the_promised_moves() -> None:
    """A start can be given up, a drain taken back, and a held process tried again."""
    assert S.STOPPING in MOVES[S.STARTING]
    assert S.READY in MOVES[S.DRAINING]
    assert all({S.STARTING, S.STOPPED} <= MOVES[held] for held in (S.BACKOFF, S.FATAL, S.BLOCKED))


@pytest.mark.parametrize(
    ("failures", "base_s"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (99, 60)]
)
def test_the_pause_doubles_up_to_its_maximum(failures: int, base_s: float) -> None:
    """The pauses are 1, 2, 4 … seconds give or take a fifth, never more than the maximum."""
    low, middle, high = (backoff_s(POLICY, failures, jitter) for jitter in (0.0, 0.5, 0.999))
    assert middle == pytest.approx(base_s)
    assert low >= 0.8 * base_s
    assert middle <= high <= min(1.2 * base_s, POLICY.backoff_max_s)


def test_too_many_in_a_window() -> None:
    """The fifth failure within the window ends it, the first four are paused after."""
    crashes = Crashes()
    pauses = []
    for at in range(5):
        crashes = crashes.after(POLICY, started=float(at), ended=float(at) + 0.5)
        pauses.append(crashes.pause_s(POLICY, 0.5))
    assert pauses == [1, 2, 4, 8, None]


def test_failures_outside_the_window_do_not_count() -> None:
    """A crash every hour is never too many."""
    crashes = Crashes()
    for hour in range(20):
        crashes = crashes.after(POLICY, started=hour * 3600.0, ended=hour * 3600.0 + 10)
        assert crashes.pause_s(POLICY, 0.5) == 1


def test_a_long_run_forgets() -> None:
    """A run longer than the window makes the crashes before it forgotten."""
    crashes = Crashes((0.0, 1.0, 2.0, 3.0))
    assert crashes.after(POLICY, started=4.0, ended=604.0) == Crashes((4.0,))


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1000)), max_size=40), st.floats(0, 0.99))
def test_never_more_starts_than_allowed(runs: list[tuple[float, float]], jitter: float) -> None:
    """Whatever the history, no window of starts holds more than the policy's number."""
    crashes, now, starts = Crashes(), 0.0, []
    for idle_s, run_s in runs:
        now += idle_s
        starts.append(now)
        crashes = crashes.after(POLICY, started=now, ended=now + run_s)
        now += run_s
        pause_s = crashes.pause_s(POLICY, jitter)
        if pause_s is None:
            break
        now += pause_s
    for start in starts:
        inside = [at for at in starts if start <= at < start + POLICY.window_s]
        assert len(inside) <= POLICY.starts_per_window
