"""Where the router spends its CPU time: `scripts/profile`, the router alone under load.

First it is measured without the profiler, which slows it down; the functions' shares are of what
py-spy saw then.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import exchange
from bench.child import ServerFailed, end_leftovers
from bench.load import LoadFailed, Wrk, ask_once, script
from bench.machine import MissingTool, choose_placement, find_tools
from bench.peers import tools_folder
from bench.report import table
from bench.rounds import CONNECTIONS
from bench.servers import Servers
from bench.streams import StreamsFailed, read_streams
from bench.target import Target

_SAMPLES_PER_S: Final = 500
# It attaches to a process whose load has begun, and is gone before the load ends.
_MARGIN_S: Final = 2
_STREAMS: Final = 100


@dataclass(frozen=True, slots=True)
class Line:
    """A function's part of all samples: itself, and with what it called."""

    function: str
    own: float
    total: float


def main(argv: Sequence[str] | None = None) -> int:
    """Profile and print; return 0, or 1 when it could not be done."""
    options = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(_profiled(options))
    except (MissingTool, ServerFailed, LoadFailed, StreamsFailed) as error:
        sys.stderr.write(f"profile: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        end_leftovers()
    return 0


def lines_of(collapsed: Iterable[str]) -> list[Line]:
    """Return the functions of py-spy's raw output, `outer;inner count`, the busiest first."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for sample in collapsed:
        stack, _, count = sample.rpartition(" ")
        if not stack:
            continue
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        # Once each, however deep it called itself.
        for frame in set(frames):
            total[frame] += int(count)
    samples = sum(own.values())
    found = [Line(name, own[name] / samples, total[name] / samples) for name in total]
    return sorted(found, key=lambda line: (-line.own, -line.total, line.function))


def _profiled(options: argparse.Namespace) -> str:
    program = tools_folder() / "py-spy" / "bin" / "py-spy"
    if not program.exists():
        raise MissingTool("py-spy not found; get it with: scripts/bench-peers py-spy")
    tools, placement, seconds = find_tools(), choose_placement(), options.seconds
    load_s = seconds + _MARGIN_S
    with tempfile.TemporaryDirectory(prefix="signalbox-profile-") as name:
        folder = Path(name)
        wanted = [options.target]
        with Servers(tools, placement, folder, stream_s=load_s, wanted=wanted) as servers:
            for failed in servers.failures:
                raise ServerFailed(failed.reason)
            for reason in servers.absent.values():
                raise MissingTool(reason)
            target = servers.targets[0]
            load = _load(options.load, target, Wrk(tools.wrk, placement.load), folder)
            if options.load != "streams":
                load(1)
            before_s = _cpu_s(target)
            done = load(load_s)
            each_us = (_cpu_s(target) - before_s) / done * 1e6
            raw = folder / "samples.txt"
            with ThreadPoolExecutor(1) as threads:
                running = threads.submit(load, load_s)
                _record(program, target, raw, seconds, is_native=options.native)
                running.result()
            lines = lines_of(raw.read_text("utf-8").splitlines())
    unit = "event" if options.load == "streams" else "request"
    return _text(lines[: options.top], each_us, unit)


def _load(kind: str, target: Target, wrk: Wrk, folder: Path) -> Callable[[int], int]:
    """Return what keeps a target busy for some seconds, and returns how much it has done."""
    way = target.ways[kind]
    if kind == "streams":
        # They are as long as the server behind makes them.
        return lambda seconds: read_streams(way, _STREAMS, seconds, wrk.core).events
    is_image = kind == "image"
    body = exchange.image_request(way.model) if is_image else exchange.request(way.model)
    lua = folder / "load.lua"
    lua.write_text(script(body.decode()), encoding="utf-8")
    ask_once(way, body)
    connections = CONNECTIONS[0 if is_image else -1]
    return lambda seconds: wrk.run(way.url, lua, connections, seconds).requests


def _cpu_s(target: Target) -> float:
    return target.proxy.cpu_s() if target.proxy else 0.0


def _record(program: Path, target: Target, raw: Path, seconds: int, *, is_native: bool) -> None:
    pid = target.proxy.pid if target.proxy else 0
    command = [str(program), "record", "--pid", str(pid), "--duration", str(seconds)]
    command += ["--rate", str(_SAMPLES_PER_S), "--format", "raw", "--output", str(raw)]
    # By function, not by line.
    command += ["--function", *(["--native"] if is_native else [])]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if said.returncode or not raw.exists():
        raise MissingTool(f"py-spy could not look into the router: {said.stderr.strip()[-500:]}")


def _text(lines: Sequence[Line], each_us: float, unit: str) -> str:
    rows = [("function", "self", f"µs/{unit}", "with callees")]
    rows += [
        (line.function, f"{line.own:.1%}", f"{line.own * each_us:.2f}", f"{line.total:.1%}")
        for line in lines
    ]
    return f"{each_us:.1f} CPU µs per {unit}, without the profiler\n\n{table(rows)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="profile", description="Show where the router spends its CPU time under load."
    )
    parser.add_argument("--seconds", type=int, default=10, help="to look at it (default: 10)")
    parser.add_argument("--load", choices=("requests", "streams", "image"), default="requests")
    parser.add_argument("--target", choices=("router", "router-https"), default="router")
    parser.add_argument("--top", type=int, default=30, help="functions to show (default: 30)")
    parser.add_argument(
        "--native", action="store_true", help="look into compiled code too, where py-spy can"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
