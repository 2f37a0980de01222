import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench import exchange, figures, nginx, peers, report
from bench.__main__ import main
from bench.child import ROOT, Child, FreePorts, ServerFailed
from bench.decisions import QUESTIONS, SIZES, DecisionRound, catalog_of, decisions
from bench.figures import Bar, Measured, Relation, Resources
from bench.load import Load, LoadFailed, Wrk, ask_once, parse, script
from bench.machine import MissingTool, Placement, find_tools, running_on
from bench.paced_server import PacedStream
from bench.profile import Line, lines_of
from bench.rounds import QUICK, LoadRound, Rounds, StreamRound
from bench.servers import Failure
from bench.spread import Spread, percentile
from bench.startup import Startup
from bench.streams import StreamReader, Streams, StreamsFailed, measured, read_streams
from bench.target import Target, Way
from router.capabilities import Capability, Requirement
from router.resolver import decide


def wrk_output(**changed: int) -> str:
    """Return what wrk prints with our script, around the line that counts."""
    said = {
        "requests": 2000,
        "duration_us": 500_000,
        "p50_us": 250,
        "p99_us": 1750,
        "failed": 0,
        **changed,
    }
    line = ",".join(f'"{name}":{number}' for name, number in said.items())
    return f"Running 1s test @ http://127.0.0.1:1\nRequests/sec: 4000\nbench: {{{line}}}\n"


def test_wrk_result_is_read_from_our_line() -> None:
    """The line that our script prints becomes seconds and milliseconds."""
    load = parse(wrk_output())
    assert load == Load(requests=2000, seconds=0.5, p50_ms=0.25, p99_ms=1.75)
    assert load.per_second == 4000


@pytest.mark.parametrize(
    "output",
    [
        "",
        "Running 1s test @ http://127.0.0.1:1\n",
        wrk_output(failed=1),
        wrk_output(requests=0),
    ],
)
def test_round_without_a_result_is_refused(output: str) -> None:
    """A round in which a request failed, or none was answered, gives no figures."""
    with pytest.raises(LoadFailed):
        parse(output)


def test_script_posts_the_body_as_it_is() -> None:
    """The script holds the request's bytes unchanged and leaves no placeholder behind."""
    body = exchange.request("auto").decode()
    text = script(body)
    assert f"wrk.body = [==[{body}]==]" in text
    assert "%%" not in text


@pytest.mark.parametrize(
    ("numbers", "share", "expected"),
    [
        ([7], 0.5, 7),
        ([7], 0.99, 7),
        ([3, 1, 2], 0.5, 2),
        ([4, 3, 2, 1], 0.5, 2),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 102)), 0.99, 100),
        ([1, 2], 0, 1),
        ([1, 2], 1, 2),
    ],
)
def test_percentile_is_a_measured_figure(
    numbers: list[float], share: float, expected: float
) -> None:
    """A percentile is the smallest figure that covers the share, never one between two."""
    assert percentile(numbers, share) == expected


def test_nothing_has_no_percentile_and_no_spread() -> None:
    """Figures of nothing are refused instead of made up."""
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])


def test_spread_shows_its_bounds() -> None:
    """A spread shows median, lowest and highest, and a single round its one figure."""
    assert Spread.of([3, 1, 2]).show(".1f") == "2.0 (1.0–3.0)"
    assert Spread.of([1234.4]).show() == "1,234"


def test_sizes_are_those_of_the_report() -> None:
    """Request, answer and event have the sizes that the figures are stated for."""
    assert 900 <= len(exchange.request("auto")) <= 1100
    assert 5_000_000 <= len(exchange.image_request("auto")) <= 5_001_000
    assert 500 <= len(exchange.answer()) <= 700
    assert 170 <= len(exchange.event(1)) <= 190
    # The answer stands in nginx's configuration between single quotes.
    assert not {b"'", b"$", b"\\"} & {bytes([byte]) for byte in exchange.answer()}


def test_event_tells_when_it_was_written() -> None:
    """The time in an event is read back, however a gateway wrote it anew; the last has none."""
    event = exchange.event(12_345)
    assert exchange.written_ns(event) == 12_345
    assert exchange.written_ns(event.replace(b'"content":', b'"content": ')) == 12_345
    assert exchange.written_ns(exchange.LAST_EVENTS) is None
    for empty in (b"null", b'""'):
        assert exchange.written_ns(b'data: {"delta":{"content":%b}}' % empty) is None


TARGETS = (
    ("direct", 0.5, 0.1),
    ("nginx", 1.0, 0.2),
    ("router", 2.0, 0.3),
    ("llama-swap", 8.0, 0.9),
)


def load_round(number: int, target: str, connections: int, seconds: float, p50: float) -> LoadRound:
    """Return a round of 100 requests whose proxy, if there is one, used all of its core."""
    cpu_s = None if target == "direct" else seconds
    return LoadRound(number, target, connections, Load(100, seconds, p50, 1.0), cpu_s)


def stream_round(target: str, count: int, cpu_s: float | None, p99_ms: float) -> StreamRound:
    """Return a round of streams that brought 100 events."""
    return StreamRound(1, target, count, 100, Streams(100, 1.0, 0.1, p99_ms), cpu_s)


def a_run() -> Measured:
    """Return a run of two rounds: the router half as fast in the first, a quarter in the second."""
    requests = [
        load_round(number, target, connections, seconds * slower * number, p50_ms)
        # Out of order: figures must find each other by their round.
        for number in (2, 1)
        for connections in (1, 32)
        for target, seconds, p50_ms in TARGETS
        for slower in (number if target == "router" else 1,)
    ]
    streams = [
        stream_round(target, count, cpu_s, p99_ms)
        for count in (100, 500)
        for target, cpu_s, p99_ms in (
            ("direct", None, 0.1),
            ("nginx", 0.25, 0.5),
            ("router", 1.0, 2.0),
            ("llama-swap", 0.5, 1.0),
        )
    ]
    return Measured(
        facts={"machine": "a table"},
        scenarios=["requests", "streams", "image", "start", "decisions"],
        requests=requests,
        streams=streams,
        images=[load_round(1, target, 1, seconds, p50) for target, seconds, p50 in TARGETS],
        starts=[Startup(0.4, 50.0, 0.5, 120.0)],
        decisions=[
            DecisionRound(number, "auto", size, us)
            for number, by_size in ((1, (20.0, 20.0, 40.0)), (2, (20.0, 10.0, 32.0)))
            for size, us in zip(SIZES, by_size, strict=True)
        ],
        proxies=[Resources("nginx", 0.1, 10.0, 11.0), Resources("router", 0.4, 50.0, 60.0)],
        absent={"tensorzero": "not installed"},
        failures=[Failure("litellm", "500 streams", "took\ntoo long")],
    )


def test_ratio_is_taken_in_each_round() -> None:
    """Each round is compared with nginx's of the same round, and the spread is of those ratios."""
    rounds = figures.requests_at(a_run(), 32)
    ratio = figures.ratio_to_nginx(rounds, "router", figures.per_second)
    assert ratio == Spread(0.375, 0.25, 0.5)


def test_round_without_a_partner_is_left_out() -> None:
    """A round that nginx has no figure for is not compared with another round's."""
    rounds = figures.requests_at(a_run(), 32)
    left = [one for one in rounds if (one.round, one.target) != (2, "nginx")]
    assert figures.ratio_to_nginx(left, "router", figures.per_second) == Spread(0.5, 0.5, 0.5)
    alone = [one for one in rounds if one.target == "router"]
    assert figures.ratio_to_nginx(alone, "router", figures.per_second) is None


def test_target_over_tls_is_compared_with_nginx_over_tls() -> None:
    """What encryption costs is in both figures of such a ratio."""
    rounds = [
        load_round(1, name, 32, seconds, 0.1)
        for name, seconds in (("nginx", 1.0), ("nginx-https", 2.0), ("router-https", 4.0))
    ]
    ratio = figures.ratio_to_nginx(rounds, "router-https", figures.per_second)
    assert ratio == Spread(0.5, 0.5, 0.5)


def test_cpu_time_is_told_for_each_request_and_event() -> None:
    """The proxy's CPU time is divided by what it did in it; without a proxy there is none."""
    one = load_round(1, "router", 1, 0.005, 0.1)
    assert one.cpu_us == pytest.approx(50.0)
    assert one.core_share == pytest.approx(1.0)
    assert load_round(1, "direct", 1, 0.005, 0.1).cpu_us is None
    assert stream_round("router", 100, 0.25, 1.0).per_cpu_s == pytest.approx(400)
    assert stream_round("direct", 100, None, 1.0).per_cpu_s is None


def test_added_latency_is_compared_with_what_nginx_adds() -> None:
    """Added latency counts from the direct one; a round where nginx adds none is left out."""
    rounds = figures.requests_at(a_run(), 1)
    added = figures.added_p50_ratio(rounds)
    assert added is not None
    assert added.median == pytest.approx(2.0)
    silent = [
        replace(one, load=replace(one.load, p50_ms=0.1)) if one.target == "nginx" else one
        for one in rounds
    ]
    assert figures.added_p50_ratio(silent) is None


@pytest.mark.parametrize(
    ("median", "relation", "met"),
    [
        (0.25, Relation.LEAST, True),
        (0.24, Relation.LEAST, False),
        (0.25, Relation.MOST, True),
        (0.26, Relation.MOST, False),
        (0.26, Relation.MORE, True),
        (0.25, Relation.MORE, False),
    ],
)
def test_bar_is_met_by_the_median(median: float, relation: Relation, met: bool) -> None:
    """A bar is a least or a most, which exactly meets it, or something to be above."""
    bar = Bar("requests", "a bar", relation, 0.25, None, Spread(median, 0.0, 9.0))
    assert bar.is_met is met
    assert bar.is_aim_met is None


def test_bar_without_a_figure_is_neither_met_nor_missed() -> None:
    """What was not measured says nothing."""
    bar = Bar("requests", "a bar", Relation.LEAST, 0.25, 0.35, None)
    assert bar.is_met is None
    assert bar.is_aim_met is None


def line_of(run: Measured, beginning: str) -> str:
    """Return the only line of a report that begins so, its spaces made one."""
    lines = report.text(run).splitlines()
    (found,) = [" ".join(line.split()) for line in lines if line.startswith(beginning)]
    return found


def test_report_tells_every_target_in_each_scenario() -> None:
    """The text has a row for each target that was measured, with its ratios to nginx."""
    lines = report.text(a_run()).splitlines()
    for target in ("direct", "nginx", "router", "llama-swap"):
        rows = [line for line in lines if line.startswith(f"{target} ")]
        # Two tables of requests, two of streams, one of pictures; some also have a start.
        assert len(rows) == (6 if target in {"nginx", "router"} else 5)
    first = next(line for line in lines if line.startswith("router "))
    assert "0.375 (0.250–0.500)" in first


def test_report_says_which_bar_and_aim_were_missed() -> None:
    """Each bar stands beside what was measured and what is aimed at."""
    run = a_run()
    requests = line_of(run, "requests/s, of nginx's, c=32")
    assert requests.endswith("0.375 (0.250–0.500) ≥ 0.25 met ≥ 0.35 met")
    assert line_of(run, "requests/s, × llama-swap's").endswith("> 1 met")
    assert line_of(run, "requests/s, × tensorzero's").endswith("not measured > 1")
    events = line_of(run, "events/CPU-s, of nginx's, 500 streams")
    assert events.endswith("0.250 ≥ 0.5 MISSED ≥ 0.65 MISSED")
    assert line_of(run, "lag p99, × nginx's, 500").endswith("4.000 ≤ 3 MISSED")
    assert line_of(run, "resident with the admin API").endswith("120.000 ≤ 110 MISSED")
    assert line_of(run, "resident when idle").endswith("50.000 ≤ 60 met")


def test_report_compares_decisions_with_those_among_few_models() -> None:
    """A decision's time grows by what the rounds say, and a question without rounds has no bar."""
    row = "auto 20.0 15.0 (10.0–20.0) 36.0 (32.0–40.0) 0.75 (0.50–1.00) 1.80 (1.60–2.00)"
    assert line_of(a_run(), "auto  ") == row
    bar = line_of(a_run(), "auto: 20,000 models, × 10")
    assert bar.endswith("1.800 (1.600–2.000) ≤ 1.5 MISSED")
    assert line_of(a_run(), "an alias: 20,000 models").endswith("not measured ≤ 1.5")


def test_every_question_is_timed_with_every_size() -> None:
    """And those that name what is there are decided for it."""
    said: list[str] = []
    rounds = list(decisions(1, 1, said.append))
    assert said == ["decisions, round 1 of 1"]
    assert [(one.question, one.models) for one in rounds] == [
        (question, size) for question in QUESTIONS for size in SIZES
    ]
    assert all(one.us > 0 for one in rounds)
    for size in SIZES:
        catalog = catalog_of(size)
        assert len(catalog.models) == size
        for question, name in QUESTIONS.items():
            decision = decide(Requirement((Capability.TEXT,), model=name), catalog)
            assert bool(decision.routes) is (question != "an unknown name")


def test_report_says_what_was_left_out_and_why() -> None:
    """A target that is not there, or failed, is named with the reason on one line."""
    text = report.text(a_run())
    assert "not measured\n  tensorzero: not installed" in text
    assert "FAILED\n  litellm, 500 streams: took too long" in text


def test_report_is_of_the_scenarios_that_ran() -> None:
    """A run of some scenarios has their tables and bars alone."""
    run = replace(a_run(), scenarios=["start"], proxies=[], absent={}, failures=[])
    text = report.text(run)
    assert "requests" not in text
    assert {bar.scenario for bar in figures.bars(run)} == {"start"}


def test_json_holds_every_round() -> None:
    """The JSON form holds all rounds, not only their medians, and each bar's verdict."""
    whole = json.loads(json.dumps(report.as_json(a_run())))
    assert len(whole["requests"]) == 16
    assert len(whole["streams"]) == 8
    verdicts = {bar["name"]: bar["is_met"] for bar in whole["bars"]}
    assert verdicts["added p50, × nginx's, c=1"] is True
    assert verdicts["requests/s, × litellm's, c=32"] is None


@contextmanager
def a_refusing_server(status: int) -> Iterator[int]:
    """Answer every request with a status and an error; yield the port."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"no such model")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_first_request_tells_why_a_target_cannot_serve() -> None:
    """A refusal is told with its status and words, an unreachable target with the error."""
    with a_refusing_server(404) as port, pytest.raises(LoadFailed, match="404: b'no such model'"):
        ask_once(Way(port, "m"), b"{}")
    with pytest.raises(LoadFailed, match="not answered"):
        ask_once(Way(FreePorts().take(), "m"), b"{}")


def test_target_that_fails_is_left_out_and_named(tmp_path: Path) -> None:
    """One target's failure ends its part of a scenario, not the run."""
    said: list[str] = []
    with a_refusing_server(500) as port:
        target = Target("litellm", {"requests": Way(port, "m")})
        rounds = Rounds([target], QUICK, Wrk("/bin/false", None), tmp_path, said.append)
        assert list(rounds.requests()) == []
    assert {failed.scenario for failed in rounds.failures} == {"requests, c=1", "requests, c=32"}
    assert all("500" in failed.reason for failed in rounds.failures)


def test_unknown_names_on_the_command_line_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A scenario or target that there is none of is refused with those that there are."""
    for option in ("--only", "--targets"):
        with pytest.raises(SystemExit):
            main([option, "nothing"])
    said = capsys.readouterr().err
    assert "'nothing' is none of requests, streams, image, start" in said
    assert "tensorzero" in said


def test_peers_that_are_not_installed_have_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers are looked for in the cache folder alone, by what was installed there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert peers.peer_versions() == {}
    packages = tmp_path / "signalbox-bench" / "litellm" / "lib" / "python3.11" / "site-packages"
    (packages / "litellm-1.106.2.dist-info").mkdir(parents=True)
    assert peers.peer_versions() == {"litellm": "1.106.2"}


def test_nginx_passes_on_over_tls_only_what_is_told_so() -> None:
    """Each port of the proxy has its own upstream, buffering and scheme."""
    plain = nginx.proxy([nginx.Passing(1, 2, is_buffered=False)])
    assert "proxy_pass http://to_2;" in plain
    assert "proxy_buffering off;" in plain
    assert "ssl" not in plain


def test_profile_counts_a_function_once_a_sample() -> None:
    """A function's own part is where it stood on top, its total where it stood at all."""
    lines = lines_of(["serve;ask;decode 6", "serve;ask 3", "serve;ask;ask 1", ""])
    assert lines == [Line("decode", 0.6, 0.6), Line("ask", 0.4, 1.0), Line("serve", 0.0, 1.0)]


def tools_missing() -> str:
    """Return why nothing can be measured on this machine; empty when it can be."""
    try:
        find_tools()
    except MissingTool as missing:
        return str(missing)
    return ""


def test_benchmark_measures_or_says_what_it_lacks(tmp_path: Path) -> None:
    """A short run measures a real router beside nginx; without the tools it names them."""
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench", "--quick", "--json", str(found)]
    command += ["--only", "image", "--targets", "direct,nginx,router"]
    # A process of its own: it ends whatever children its process has.
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if missing := tools_missing():
        assert said.returncode == 1
        assert missing in said.stderr
        return
    assert said.returncode == 0, said
    rounds = json.loads(found.read_text("utf-8"))["images"]
    assert [one["target"] for one in rounds] == ["direct", "nginx", "router"]
    assert all(one["load"]["requests"] for one in rounds)
    assert rounds[0]["cpu_s"] is None
    assert rounds[2]["cpu_s"] > 0
    assert "a picture of 5 MB" in said.stdout


def test_table_aligns_its_columns() -> None:
    """The first column stands to the left, the others to the right, below a rule."""
    shown = report.table([("a", "bb"), ("ccc", "d")])
    assert shown.splitlines() == ["a    bb", "───────", "ccc   d"]


def test_ports_are_each_given_once() -> None:
    """A port that was handed out does not come again, though nobody listens there yet."""
    ports = FreePorts()
    taken = [ports.take() for _ in range(5)]
    assert len(set(taken)) == 5


def test_placement_without_affinity_says_so() -> None:
    """Without affinity the report warns, and running anywhere is allowed."""
    assert "no affinity" in Placement(None, None).text
    with running_on(None):
        pass


def test_failed_start_tells_what_the_server_said(tmp_path: Path) -> None:
    """A server that ends before it answers is reported with its last words."""
    argv = ["/bin/sh", "-c", "echo no room >&2; exit 3"]
    with (
        Child("shop", argv, port=FreePorts().take(), folder=tmp_path, core=None) as child,
        pytest.raises(ServerFailed, match="shop ended with 3: no room"),
    ):
        child.first_answer("/")


async def test_reader_notes_every_event_of_a_paced_stream() -> None:
    """All events of a stream are counted once, however the bytes are cut, and it ends whole."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: PacedStream(3), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        streams = await asyncio.to_thread(read_streams, Way(port, "m"), 2, 0.1, None)
    assert streams.events == 6
    assert 0 <= streams.p50_ms <= streams.p99_ms


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 184\r\n\r\n" + exchange.event(1),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_stream_that_is_not_whole_is_a_failure(answer: bytes) -> None:
    """A refusal, an answer without its last event and a cut connection all end the measurement."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StreamsFailed):
            await asyncio.to_thread(read_streams, Way(port, "m"), 1, 0.1, None)


async def test_events_cut_anywhere_are_counted_once() -> None:
    """An event that comes in single bytes is one event."""
    lags_ns: list[int] = []
    reader = StreamReader(b"", lags_ns)
    for byte in exchange.event(1) + exchange.event(2):
        reader.on_body(bytes([byte]))
    assert len(lags_ns) == 2
    reader.ended.cancel()


def test_no_event_is_no_figure() -> None:
    """Streams of which nothing arrived have no lag."""
    with pytest.raises(StreamsFailed, match="no event"):
        measured([], 1.0)


def test_no_process_is_left_behind() -> None:
    """What the benchmark started and lost sight of is ended all the same."""
    program = (
        "import subprocess, psutil\n"
        "from bench.child import end_leftovers\n"
        "lost = subprocess.Popen(['/bin/sleep', '60'])\n"
        "end_leftovers()\n"
        "print(psutil.pid_exists(lost.pid))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["False"]
