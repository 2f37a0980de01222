import json
import threading
from pathlib import Path

from backends.mlx_backend.trace import Trace


def events(path: Path) -> list[dict[str, object]]:
    """Read a trace as the viewers do, which close the list themselves."""
    read: list[dict[str, object]] = json.loads(path.read_text().rstrip().rstrip(",") + "]")
    return read


def test_steps_and_moments_share_a_clock(tmp_path: Path) -> None:
    """What came within a step lies within it, on a thread of its own."""
    trace = Trace(tmp_path / "trace")
    with trace.step("Decode", tickets=[1, 2]):
        trace.moment("Submit", ticket=3, priority=1)
    trace.close()
    came, step = events(tmp_path / "trace")
    assert (came["ph"], came["name"], came["args"]) == ("i", "Submit", {"ticket": 3, "priority": 1})
    assert (step["ph"], step["name"], step["args"]) == ("X", "Decode", {"tickets": [1, 2]})
    begun, at, took = (float(str(value)) for value in (step["ts"], came["ts"], step["dur"]))
    assert begun <= at <= begun + took
    assert came["tid"] != step["tid"]


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    """Whoever writes at the same time, each event is a line; after the end nothing is written."""
    trace = Trace(tmp_path / "trace")

    def write() -> None:
        for _ in range(200):
            trace.moment("Submit", text="x" * 99)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.close()
    trace.moment("Submit")
    assert len(events(tmp_path / "trace")) == 800
