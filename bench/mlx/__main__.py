"""`make bench-mlx`: the MLX backend beside mlx-vlm's own server and its bare batch, in one run.

The figures belong to the device that the report names: nothing is said of Metal or CUDA unless it
ran there. docs/benchmarks.md explains them.
"""

import argparse
import asyncio
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.child import ServerFailed, end_leftovers
from bench.machine import computer_facts, load_before, package_versions
from bench.mlx import report
from bench.mlx.figures import Measured
from bench.mlx.health import Health
from bench.mlx.plans import LARGE, QUICK, SMOLLM2, TINY, Plan
from bench.mlx.rounds import SCENARIOS, Rounds
from bench.mlx.steps import TraceReader
from bench.mlx.targets import ALL, BACKEND, OPEN, OPEN_ROWS, OWN, TRACED, Target, start_all
from bench.options import some_of
from tests.harness.models import smollm2_folder, tiny_vision_folder

_INTERRUPTED = 130
_DEVICE: Final = (
    "import json, mlx.core as mx;"
    "print(json.dumps([str(mx.default_device()), mx.device_info()], default=str))"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 1 when a target of our own could not be measured."""
    options = _parser().parse_args(argv)
    # Ended from outside, we end our servers as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs: list[Measured] = []
    try:
        for folder, plan in _models(options):
            runs.append(measure(folder, plan, options.only, options.targets))
            print(report.text(runs[-1]), end="\n\n")
    except ServerFailed as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_leftovers()
    if options.json is not None:
        found = json.dumps([report.as_json(run) for run in runs], indent=2)
        options.json.write_text(f"{found}\n", encoding="utf-8")
    return int(any(failed.target in OWN for run in runs for failed in run.failures))


def measure(
    model: Path, plan: Plan, scenarios: Sequence[str], wanted: Sequence[str] = ALL
) -> Measured:
    """Run the plan with one model and the targets wanted; all servers are gone by then."""
    device, details = _device()
    is_cpu = "cpu" in device
    variables = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if is_cpu:
        # There it runs a C++ compiler for seconds at the first of each shape.
        variables["MLX_DISABLE_COMPILE"] = "1"
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "bench.mlx", *sys.argv[1:]]),
        **computer_facts(),
        "packages": package_versions("mlx", "mlx-vlm", "uvicorn"),
        "model": f"{model.name}, {_size_mb(model):.1f} MB",
        "device": f"{device} {details}; on no other was anything measured",
        OPEN: f"the backend with --active {OPEN_ROWS} --max-low {OPEN_ROWS} --reserve-high 0",
        "load before": load_before(),
    }
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name, ExitStack() as running:
        _say(f"starting the servers of {model.name}")
        started = start_all(wanted, model, Path(name), variables, running)
        targets = started.targets
        # The first steps of its trace; what is read on later begins where this ended.
        load_s = _load_s(targets.get(TRACED))
        rounds = Rounds(targets, plan, _say)
        return Measured(
            facts,
            scenarios,
            tokens=list(rounds.tokens()) if "tokens" in scenarios else [],
            priority=list(rounds.priority()) if "priority" in scenarios else [],
            cancels=list(rounds.cancel()) if "cancel" in scenarios else [],
            reuses=list(rounds.reuse()) if "reuse" in scenarios else [],
            load_s=load_s,
            memory_mb=_memory_mb(targets.get(BACKEND), is_cpu=is_cpu),
            failures=[*started.failures, *rounds.failures],
        )


def _models(options: argparse.Namespace) -> list[tuple[Path, Plan]]:
    if options.model is not None:
        plan = replace(LARGE, sees="vision_config" in _config(options.model))
        return [(options.model.resolve(), plan)]
    _say("making the tiny vision model, if it is not there")
    found = [(tiny_vision_folder(), QUICK if options.quick else TINY)]
    if options.smollm2:
        found.append((smollm2_folder(), SMOLLM2))
    return found


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ServerFailed(f"{folder} holds no model: {error}") from error
    return config


def _device() -> tuple[str, dict[str, Any]]:
    # In a process of its own: this one needs no MLX.
    said = subprocess.run(
        [sys.executable, "-c", _DEVICE], capture_output=True, text=True, timeout=60, check=False
    )
    if said.returncode:
        raise ServerFailed(f"MLX does not run here: {said.stderr.strip()[-300:]}")
    device, details = json.loads(said.stdout)
    return device, details


def _size_mb(model: Path) -> float:
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e6


def _load_s(target: Target | None) -> float | None:
    if target is None or target.trace is None:
        return None
    loads = [step.took_ns for step in TraceReader(target.trace).read() if step.name == "Load"]
    return loads[0] / 1e9 if loads else None


def _memory_mb(target: Target | None, *, is_cpu: bool) -> float | None:
    """Return what is resident; a GPU's memory, which that need not hold, is added."""
    if target is None:
        return None
    resident_mb = target.child.resident_mb()
    return resident_mb if is_cpu else resident_mb + asyncio.run(_device_mb(target))


async def _device_mb(target: Target) -> float:
    async with Health(target.way.port) as health:
        return float((await health.now())["memory_mb"])


def _say(text: str) -> None:
    # To stderr: stdout holds the report alone.
    sys.stderr.write(f"bench: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.mlx",
        description="Measure the MLX backend beside mlx-vlm's server and its bare batch.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="an MLX model (default: one made for tests)"
    )
    parser.add_argument("--smollm2", action="store_true", help="measure SmolLM2 135M as well")
    parser.add_argument(
        "--only",
        type=some_of(SCENARIOS),
        default=list(SCENARIOS),
        metavar="SCENARIOS",
        help=f"some of {','.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--targets",
        type=some_of(ALL),
        default=list(ALL),
        metavar="TARGETS",
        help=f"some of {','.join(ALL)}",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every round to FILE as JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
