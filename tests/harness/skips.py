"""A pytest plugin: a test may be skipped for a listed reason only; any other skip is a failure."""

from collections.abc import Generator
from typing import Any, Final

import pytest

# Each with where it is due. A machine that could run the test must not skip it for this reason.
ALLOWED: Final = frozenset(
    {
        "MLX has no wheels for this machine",  # Intel Macs, musl, glibc before 2.35
        "reads /proc",  # Linux only
        "counts descriptors in /proc",  # Linux only
        "llama.cpp's server has no wheel for this machine",  # musl, Intel Macs
        "Ollama is built with Go, which is not here",
        "sets the platform's authorities by a variable",  # Linux only
    }
)


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as a skip too; strict xfail looks after those.
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    if reason.removeprefix("Skipped: ") not in ALLOWED:
        report.outcome = "failed"
        report.longrepr = (
            f"skipped for a reason that tests/harness/skips.py does not list: {reason}"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into a failure unless its reason is listed."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Likewise for a whole module that skips itself while it is imported."""
    report = yield
    _refuse(report)
    return report
