"""The servers of one model that are measured: the backend as shipped and opened up, and mlx-vlm's.

All of them are up during the whole run, but only one is asked at a time.
"""

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.child import Child, FreePorts, ServerFailed
from bench.mlx.health import Health
from bench.mlx.stream import AnswerFailed
from bench.servers import Failure
from bench.target import Way

BACKEND: Final = "backend"
OPEN: Final = "backend-open"
TRACED: Final = "backend-traced"
SERVER: Final = "mlx_vlm.server"
DIRECT: Final = "direct"
NAMES: Final = (BACKEND, OPEN, SERVER, DIRECT)
ALL: Final = (BACKEND, OPEN, TRACED, SERVER, DIRECT)
# Without one of these a run has not measured what it is for.
OWN: Final = frozenset({BACKEND, OPEN, TRACED, DIRECT})
# As many rows as the most streams that are measured.
OPEN_ROWS: Final = 16
_MODEL: Final = "measured"
_START_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """A process that has the model loaded; `trace` is where it writes what each step did."""

    name: str
    way: Way
    child: Child
    trace: Path | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """Those that came up, by name, and why the others did not."""

    targets: Mapping[str, Target]
    failures: list[Failure]


def start_all(
    wanted: Collection[str],
    model: Path,
    folder: Path,
    variables: Mapping[str, str],
    running: ExitStack,
) -> Started:
    """Start those wanted at once, and return when each has the model loaded or has failed."""
    ports = FreePorts()
    commands: dict[str, Callable[[int], list[str]]] = {
        BACKEND: lambda port: _backend(model, port),
        OPEN: lambda port: [*_backend(model, port), *_opened()],
        TRACED: lambda port: [*_backend(model, port), "--trace", str(folder / "trace.json")],
        SERVER: lambda port: _server(model, port),
        DIRECT: lambda port: [sys.executable, "-m", "bench.mlx.direct", str(model), str(port)],
    }
    children = {}
    for name, command in commands.items():
        if name not in wanted:
            continue
        argv = command(port := ports.take())
        child = Child(name, argv, port=port, folder=folder, core=None, variables=variables)
        children[name] = running.enter_context(child)
    targets, failures = {}, []
    for name, child in children.items():
        try:
            targets[name] = _loaded(name, child, model, folder)
        except (ServerFailed, AnswerFailed) as failed:
            failures.append(Failure(name, "start", str(failed)))
    return Started(targets, failures)


def _loaded(name: str, child: Child, model: Path, folder: Path) -> Target:
    child.first_answer("/health", _START_S)
    if name in {SERVER, DIRECT}:
        return Target(name, Way(child.port, str(model)), child)
    asyncio.run(_until_loaded(child.port))
    trace = folder / "trace.json" if name == TRACED else None
    return Target(name, Way(child.port, _MODEL), child, trace)


async def _until_loaded(port: int) -> None:
    async with Health(port) as health:
        await health.until(lambda status: status["state"] == "loaded", _START_S)


def _backend(model: Path, port: int) -> list[str]:
    argv = [sys.executable, "-m", "backends.mlx_backend", "--port", str(port)]
    argv += ["--models-dir", str(model.parent), "--model-folder", f"{_MODEL}={model}"]
    return [*argv, "--model", _MODEL]


def _opened() -> list[str]:
    rows = str(OPEN_ROWS)
    return ["--active", rows, "--max-low", rows, "--reserve-high", "0"]


def _server(model: Path, port: int) -> list[str]:
    argv = [sys.executable, "-m", "mlx_vlm.server", "--model", str(model)]
    return [*argv, "--host", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"]
