"""Requests as fast as answers come: wrk with a POST script, and what it measured."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.machine import running_on

# wrk's own summary rounds; its script interface has the exact figures, times in microseconds.
_SCRIPT = """\
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[%s]==]
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '%s{"requests":%%d,"duration_us":%%d,"p50_us":%%d,"p99_us":%%d,"failed":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
_MARK = "bench: "
# After its time wrk waits for the answers in flight.
_GRACE_S = 30


class LoadFailed(Exception):
    """wrk did not measure what it should: it failed, or requests did."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured: requests answered in some seconds, and their latency in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Wrk:
    """wrk, with the script that posts our request, on the load's core."""

    program: str
    script: Path
    core: int | None

    def run(self, port: int, connections: int, seconds: int) -> Load:
        """Keep `connections` requests going for some seconds; LoadFailed when any of them fails."""
        command = [self.program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
        command += ["-s", str(self.script), f"http://127.0.0.1:{port}"]
        with running_on(self.core):
            try:
                said = subprocess.run(
                    command, capture_output=True, text=True, timeout=seconds + _GRACE_S, check=False
                )
            except subprocess.TimeoutExpired:
                raise LoadFailed(f"wrk did not end within {seconds + _GRACE_S} s") from None
        if said.returncode:
            raise LoadFailed(f"wrk ended with {said.returncode}: {said.stderr.strip()}")
        return parse(said.stdout)


def script(body: str) -> str:
    """Return the Lua script that posts `body`, which may not hold Lua's `]==]`."""
    return _SCRIPT % (body, _MARK)


def parse(output: str) -> Load:
    """Return what our script printed; LoadFailed when it did not, or when a request failed."""
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise LoadFailed(f"wrk printed no result: {output.strip()[-500:]}")
    measured = json.loads(line.removeprefix(_MARK))
    # Errors are answered faster than requests are served: such a round says nothing.
    if measured["failed"] or not measured["requests"]:
        raise LoadFailed(f"{measured['failed']} of {measured['requests']} requests failed")
    return Load(
        measured["requests"],
        measured["duration_us"] / 1e6,
        measured["p50_us"] / 1e3,
        measured["p99_us"] / 1e3,
    )
