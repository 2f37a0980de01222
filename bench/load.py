"""Requests as fast as answers come: wrk with a POST script, and what it measured."""

import http.client
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.machine import running_on
from bench.target import Way

# wrk's own summary rounds; its script interface has the exact figures, times in microseconds.
_SCRIPT = """\
wrk.method = "POST"
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
    """wrk on the load's core."""

    program: str
    core: int | None

    def run(self, url: str, lua: Path, connections: int, seconds: int) -> Load:
        """Keep `connections` requests going for some seconds; LoadFailed when any of them fails.

        `lua` is the file of a `script`, which says what is posted to `url`.
        """
        command = [self.program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
        command += ["-s", str(lua), url]
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


def ask_once(way: Way, body: bytes) -> None:
    """Post one request; LoadFailed with what was answered, which wrk does not tell.

    For a target that cannot serve what a scenario asks of it.
    """
    connection = http.client.HTTPConnection("127.0.0.1", way.port, timeout=_GRACE_S)
    try:
        connection.request("POST", way.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise LoadFailed(f"a first request was not answered: {error!r}") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise LoadFailed(f"a first request was answered with {answer.status}: {said[:300]!r}")


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
