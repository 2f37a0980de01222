"""Deadlines on one timer: they ring in time, can be moved, and strike nobody else."""

import asyncio
import math

import pytest

from router.deadline import Deadline, Sweeper


class LateError(Exception):
    """The agreed error."""


async def test_work_that_takes_too_long_ends_by_the_agreed_error() -> None:
    """The error comes from where the work waited, and no cancellation is left."""
    sweeper = Sweeper()
    with pytest.raises(LateError), Deadline(sweeper) as deadline:
        deadline.expect(0.01, LateError)
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert len(sweeper) == 0


async def test_work_that_ends_in_time_is_never_struck() -> None:
    """What was left behind rings for nobody."""
    sweeper = Sweeper()
    with Deadline(sweeper) as deadline:
        deadline.expect(0.01, LateError)
    await asyncio.sleep(0.03)


async def test_a_deadline_moves_both_ways() -> None:
    """Moved on, the old time passes; moved nearer, it rings at the new one."""
    sweeper = Sweeper()
    loop = asyncio.get_running_loop()
    with Deadline(sweeper) as deadline:
        deadline.expect(0.01, LateError)
        deadline.expect(30, LateError)
        await asyncio.sleep(0.03)
        since = loop.time()
        with pytest.raises(asyncio.CancelledError):
            deadline.expect(0.01, LateError)
            await asyncio.sleep(20)
        assert loop.time() - since < 10
        raised = asyncio.current_task()
        assert raised is not None
        assert raised.cancelling() == 1
    assert raised.cancelling() == 0


async def test_the_earliest_of_many_rings_first() -> None:
    """One timer serves them all, in the order in which they are due."""
    sweeper = Sweeper()
    rung: list[float] = []
    over = asyncio.Event()
    alarms = []
    for within_s in (0.06, 0.02, 0.04):

        def ring(within_s: float = within_s) -> None:
            rung.append(within_s)
            if len(rung) == 3:
                over.set()

        alarm = sweeper.alarm(ring)
        alarm.set(within_s)
        alarms.append(alarm)
    await over.wait()
    assert rung == [0.02, 0.04, 0.06]
    for alarm in alarms:
        alarm.close()


async def test_a_silenced_or_closed_alarm_does_not_ring() -> None:
    """Neither of them does, and the sweeper keeps no timer for a closed one."""
    sweeper = Sweeper()
    rung: list[str] = []
    silenced = sweeper.alarm(lambda: rung.append("silenced"))
    closed = sweeper.alarm(lambda: rung.append("closed"))
    silenced.set(0.01)
    closed.set(0.01)
    silenced.silence()
    closed.close()
    await asyncio.sleep(0.03)
    assert rung == []
    assert silenced.due == math.inf
    silenced.close()
    assert sweeper._timer is None


async def test_a_cancellation_from_outside_is_not_taken_for_lateness() -> None:
    """Who cancels the work hears CancelledError even when time runs out in the same moment."""
    sweeper = Sweeper()
    inside = asyncio.Event()

    async def work() -> None:
        with Deadline(sweeper) as deadline:
            deadline.expect(0.01, LateError)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
