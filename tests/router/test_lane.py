"""The bounded first-come lane, as decisions alone."""

from hypothesis import given
from hypothesis import strategies as st

from router.lane import Lane, Verdict


def test_a_lane_admits_then_queues_then_refuses() -> None:
    """Newcomers run while there is room, wait while the queue has room, and are refused then."""
    lane: Lane[str] = Lane(concurrency=1, queue=1)
    assert [lane.enter(ticket) for ticket in "abc"] == [Verdict.RUN, Verdict.WAIT, Verdict.REFUSED]
    assert repr(lane) == "<Lane running=1 waiting=1>"


def test_leaving_admits_the_longest_waiting() -> None:
    """The place of one who leaves goes to the first in line; one who only waited frees no place."""
    lane: Lane[str] = Lane(concurrency=1, queue=3)
    for ticket in "abcd":
        lane.enter(ticket)
    assert lane.leave("c") is None
    assert lane.leave("a") == "b"
    assert lane.leave("b") == "d"
    assert lane.leave("d") is None
    assert (lane.running, lane.waiting) == (0, 0)


@given(st.integers(1, 4), st.integers(0, 4), st.lists(st.integers(0, 9)))
def test_a_lane_never_runs_too_many_and_never_forgets_anyone(
    concurrency: int, queue: int, moves: list[int]
) -> None:
    """Whatever comes and goes: the bounds hold, nobody waits while there is room, order is kept."""
    lane: Lane[int] = Lane(concurrency, queue)
    running: set[int] = set()
    waiting: list[int] = []
    for ticket in moves:
        if ticket in running or ticket in waiting:
            successor = lane.leave(ticket)
            if ticket in waiting:
                waiting.remove(ticket)
                assert successor is None
                continue
            running.remove(ticket)
            assert successor == (waiting[0] if waiting else None)
            if successor is not None:
                running.add(waiting.pop(0))
        else:
            verdict = lane.enter(ticket)
            if verdict is Verdict.RUN:
                running.add(ticket)
            elif verdict is Verdict.WAIT:
                waiting.append(ticket)
            else:
                assert len(waiting) == queue
        assert len(running) <= concurrency
        assert (lane.running, lane.waiting) == (len(running), len(waiting))
        assert not waiting or len(running) == concurrency
