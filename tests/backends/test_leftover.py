import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backends.leftover import RunRecord, end_leftovers, identity


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that a record may point to."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_proven_one_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A recorded process of the recorded identity is ended, and the record removed."""
    RunRecord(tmp_path, "fake").write([sleeper.pid, None])
    assert end_leftovers(tmp_path) == [sleeper.pid]
    assert not psutil.pid_exists(sleeper.pid)
    assert not list(tmp_path.iterdir())


def test_a_pid_that_was_given_to_another_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A record whose identity differs proves nothing, and nobody is signalled."""
    row = {"pid": sleeper.pid, "identity": f"{identity(sleeper.pid)}0"}
    (tmp_path / "fake.json").write_text(json.dumps([row]), encoding="ascii")
    assert end_leftovers(tmp_path) == []
    assert sleeper.poll() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"pid": "x"}]', "null", '[{"pid": 1}]'])
def test_a_spoilt_record_proves_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no record is removed with a word in the log, and harms nobody."""
    (tmp_path / "fake.json").write_text(text, encoding="ascii")
    assert end_leftovers(tmp_path) == []
    assert not list(tmp_path.iterdir())
    assert ("proves nothing" in caplog.text) == (text != "{}")


def test_a_record_of_the_dead_is_forgotten(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """A record whose processes have ended is removed."""
    RunRecord(tmp_path, "fake").write([sleeper.pid])
    sleeper.kill()
    sleeper.wait()
    assert end_leftovers(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_removing_twice(tmp_path: Path) -> None:
    """A record can be removed whether it is there or not."""
    record = RunRecord(tmp_path, "fake")
    record.write([])
    record.remove()
    record.remove()
    assert not list(tmp_path.iterdir())
