from dataclasses import replace

import pytest

from backends.mlx_backend.desk import Desk
from backends.mlx_backend.generation import EngineStatus, LoadStatus
from backends.mlx_backend.hang_watch import HangWatch
from backends.mlx_backend.scheduler import Limits, Scheduler
from backends.wire import LoadPhase

WATCH = HangWatch(step_s=30, load_stall_s=120)
IDLE = Desk(Scheduler(Limits())).status()


def load(seconds: float, stalled_s: float) -> LoadStatus:
    """Return a load."""
    return LoadStatus("tiny", LoadPhase.WEIGHTS, 37, seconds, stalled_s)


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (IDLE, None),
        (replace(IDLE, step_s=29.9), None),
        (replace(IDLE, step_s=30), "generation_failed"),
        # However long a load takes, it is well as long as it goes on.
        (replace(IDLE, loading=load(4000, 119.9)), None),
        (replace(IDLE, loading=load(4000, 120)), "model_load_failed"),
    ],
)
def test_what_hangs(now: EngineStatus, code: str | None) -> None:
    """A step by its length, a load by its silence."""
    hang = WATCH.judge(now)
    assert (None if hang is None else hang.error.code) == code


def test_what_is_said_of_a_load_that_hangs() -> None:
    """Which model, how long, and where it stands."""
    hang = WATCH.judge(replace(IDLE, loading=load(500, 121)))
    assert hang is not None
    assert hang.text == "loading tiny has not gone on for 121 s (phase weights, 37 %)"
    assert "try again" in hang.error.message


@pytest.mark.parametrize(
    ("now", "left_s"),
    [
        (IDLE, 30),
        (replace(IDLE, step_s=10), 20),
        (replace(IDLE, loading=load(50, 20)), 30),
        (replace(IDLE, loading=load(200, 115)), 5),
    ],
)
def test_when_to_look_again(now: EngineStatus, left_s: float) -> None:
    """Not before anything can hang, neither what goes on now nor a step that begins now."""
    assert WATCH.left_s(now) == left_s
