import json
import logging
from typing import Any

import pytest

from backends.mlx_backend.answer_record import AnswerRecord
from backends.mlx_backend.choice import Ended

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
ALLOWED = {
    "model",
    "status",
    "error",
    "request_id",
    "trace_id",
    "choices",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "queue_ms",
    "first_text_ms",
    "total_ms",
}


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def headers(**given: str) -> list[tuple[bytes, bytes]]:
    """Return raw headers."""
    return [(name.replace("_", "-").encode(), text.encode()) for name, text in given.items()]


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Return the fields of the only line."""
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    text = record.getMessage()
    assert "\n" not in text
    fields = json.loads(text.removeprefix("answer "))
    assert isinstance(fields, dict)
    assert fields.keys() <= ALLOWED
    return fields


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    """Keep what is logged at INFO."""
    caplog.set_level(logging.INFO, logger="backends.mlx_backend")


def test_a_full_line(caplog: pytest.LogCaptureFixture) -> None:
    """The line tells who asked, what it took, and when what happened."""
    clock = Clock()
    sent = headers(x_request_id="req-1", traceparent=f"00-{TRACE}-{PARENT}-01")
    record = AnswerRecord("m", sent, choices=2, clock=clock)
    for step in (record.admitted, record.admitted, record.text, record.text):
        clock.now += 0.25
        step()
    record.finished([Ended("stop", 9, 3, 4, 0), Ended("stop", 9, 5, 9, 1)])
    clock.now += 1
    record.write(200)
    assert logged(caplog) == {
        "model": "m",
        "status": 200,
        "request_id": "req-1",
        "trace_id": TRACE,
        "choices": 2,
        "prompt_tokens": 9,
        "cached_tokens": 4,
        "completion_tokens": 8,
        "queue_ms": 250,
        "first_text_ms": 750,
        "total_ms": 2000,
    }


def test_an_answer_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    """What did not happen is left out; an error is told by its code."""
    clock = Clock()
    record = AnswerRecord("m", [], clock=clock)
    record.finished([])
    clock.now += 0.5
    record.write(429, "queue_full")
    assert logged(caplog) == {
        "model": "m",
        "status": 429,
        "error": "queue_full",
        "total_ms": 500,
    }


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01x",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_a_trace_that_is_none(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Only what W3C's trace context calls a trace id is logged as one."""
    AnswerRecord("m", headers(traceparent=value)).write(200)
    assert "trace_id" not in logged(caplog)


def test_a_trace_of_a_later_version(caplog: pytest.LogCaptureFixture) -> None:
    """A later version may say more at its end."""
    AnswerRecord("m", headers(traceparent=f"cc-{TRACE}-{PARENT}-01-more")).write(200)
    assert logged(caplog)["trace_id"] == TRACE


@pytest.mark.parametrize("value", ["", "a b", "a\nb", "x" * 129, "é"])
def test_a_request_id_that_is_none(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no plain word is left out."""
    AnswerRecord("m", headers(x_request_id=value)).write(200)
    assert "request_id" not in logged(caplog)


def test_a_name_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """A model's name stays within its field."""
    AnswerRecord('m"}\nanswer {"model": "other', []).write(200)
    assert logged(caplog)["model"].startswith("m")
