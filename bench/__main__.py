"""`make bench`: the router beside nginx and no proxy at all, in one run, and how soon it starts.

Needs nginx and wrk. Takes about three minutes, with --quick half a minute; the figures of a run
are comparable with each other, those of two runs hardly.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import exchange, report
from bench.child import ServerFailed, end_leftovers
from bench.figures import Measured
from bench.load import LoadFailed, Wrk, script
from bench.machine import MissingTool, Tools, choose_placement, find_tools, machine_facts
from bench.paced_server import events_in
from bench.proxies import Servers
from bench.rounds import FULL, QUICK, Plan, request_rounds, starts, stream_rounds
from bench.streams import StreamsFailed

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 1 when it could not be measured."""
    options = _parser().parse_args(argv)
    # Ended from outside, we end our servers as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run = measure(find_tools(), QUICK if options.quick else FULL)
    except (MissingTool, ServerFailed, LoadFailed, StreamsFailed) as error:
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
    return 0


def measure(tools: Tools, plan: Plan) -> Measured:
    """Run the whole plan and return what it measured; all servers are gone by then."""
    placement = choose_placement()
    facts = machine_facts(tools, placement)
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name:
        folder = Path(name)
        lua = folder / "post.lua"
        body = exchange.request(model=exchange.REQUEST_MODEL, stream=False)
        lua.write_text(script(body.decode()), encoding="utf-8")
        with Servers(tools, placement, folder, plan.stream_s) as servers:
            wrk = Wrk(tools.wrk, lua, placement.load)
            requests = list(request_rounds(servers.targets, wrk, plan, _say))
            events = events_in(plan.stream_s)
            streams = list(stream_rounds(servers.targets, plan, events, placement.load, _say))
            resident_mb = {
                target.name: target.proxy.resident_mb()
                for target in servers.targets
                if target.proxy is not None
            }
    return Measured(facts, requests, streams, list(starts(plan, _say)), resident_mb)


def _say(text: str) -> None:
    # To stderr: stdout holds the report alone.
    sys.stderr.write(f"bench: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure the router beside nginx and no proxy at all, in one run."
    )
    parser.add_argument("--quick", action="store_true", help="one short round of everything")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write every round to FILE as JSON"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
