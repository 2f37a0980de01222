"""`make bench`: the router beside nginx, its peers and no proxy at all, in one run.

Needs nginx and wrk. Takes about ten minutes with every peer, with --quick two; the figures of a
run are comparable with each other, those of two runs hardly. docs/benchmarks.md explains them.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.child import ServerFailed, end_leftovers
from bench.decisions import DecisionRound, decisions
from bench.figures import Measured, Resources
from bench.load import Wrk
from bench.machine import MissingTool, choose_placement, find_tools, machine_facts
from bench.options import some_of
from bench.peers import peer_versions
from bench.proxies import OWN
from bench.rounds import FULL, QUICK, SCENARIOS, Plan, Rounds, starts
from bench.servers import NAMES, Servers
from bench.target import Target

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 1 when a target of our own could not be measured."""
    options = _parser().parse_args(argv)
    # Ended from outside, we end our servers as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plan = QUICK if options.quick else FULL
    try:
        run = measure(plan, scenarios=options.only, wanted=options.targets)
    except (MissingTool, ServerFailed) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_leftovers()
    print(report.text(run))
    if options.json is not None:
        found = json.dumps(report.as_json(run), indent=2)
        options.json.write_text(f"{found}\n", encoding="utf-8")
    return int(any(failed.target in OWN for failed in run.failures))


def measure(plan: Plan, *, scenarios: Sequence[str], wanted: Sequence[str]) -> Measured:
    """Run the plan and return what it measured; all servers are gone by then.

    MissingTool without nginx and wrk, ServerFailed when an upstream does not start.
    """
    tools, placement = find_tools(), choose_placement()
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        **machine_facts(tools, placement),
        "peers": ", ".join(f"{name} {version}" for name, version in peer_versions().items()),
    }
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name:
        folder = Path(name)
        # Starts and decisions need no other server.
        targets = wanted if set(scenarios) - {"start", "decisions"} else []
        with Servers(tools, placement, folder, stream_s=plan.stream_s, wanted=targets) as servers:
            wrk = Wrk(tools.wrk, placement.load)
            rounds = Rounds(servers.targets, plan, wrk, folder, _say)
            requests = list(rounds.requests()) if "requests" in scenarios else []
            streams = list(rounds.streams()) if "streams" in scenarios else []
            images = list(rounds.images()) if "image" in scenarios else []
            proxies = [_resources(target) for target in servers.targets if target.proxy]
    return Measured(
        facts=facts,
        scenarios=scenarios,
        requests=requests,
        streams=streams,
        images=images,
        starts=list(starts(plan, _say)) if "start" in scenarios else [],
        decisions=_decisions(plan) if "decisions" in scenarios else [],
        proxies=proxies,
        absent=servers.absent,
        failures=[*servers.failures, *rounds.failures],
    )


def _resources(target: Target) -> Resources:
    after_mb = target.proxy.resident_mb() if target.proxy else None
    return Resources(target.name, target.ready_s, target.idle_mb, after_mb)


def _decisions(plan: Plan) -> list[DecisionRound]:
    return list(decisions(plan.decision_rounds, plan.decisions, _say))


def _say(text: str) -> None:
    # To stderr: stdout holds the report alone.
    sys.stderr.write(f"bench: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure the router beside nginx, other gateways and no proxy, in one run.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--only",
        type=some_of(SCENARIOS),
        default=list(SCENARIOS),
        metavar="SCENARIOS",
        help=f"some of {','.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--targets",
        type=some_of(NAMES),
        default=list(NAMES),
        metavar="TARGETS",
        help=f"some of {','.join(NAMES)}; ratios need nginx among them",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every round to FILE as JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
