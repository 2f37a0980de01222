import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import exchange, figures, report
from bench.child import ROOT, Child, FreePorts, ServerFailed
from bench.figures import Bar, Measured
from bench.load import Load, LoadFailed, parse, script
from bench.machine import Placement, running_on
from bench.paced_server import PacedStream
from bench.rounds import RequestRound, StreamRound
from bench.spread import Spread, percentile
from bench.startup import Startup
from bench.streams import StreamReader, Streams, StreamsFailed, measured, read_streams


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
    body = exchange.request(model="auto", stream=False).decode()
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
    assert 900 <= len(exchange.request(model="auto", stream=False)) <= 1100
    assert 500 <= len(exchange.answer()) <= 700
    assert 170 <= len(exchange.event(1)) <= 190
    # The answer stands in nginx's configuration between single quotes.
    assert not {b"'", b"$", b"\\"} & {bytes([byte]) for byte in exchange.answer()}


def test_event_tells_when_it_was_written() -> None:
    """The time in an event is read back, and the last events have none."""
    assert exchange.written_ns(exchange.event(12_345)) == 12_345
    assert exchange.written_ns(exchange.LAST_EVENTS) is None


def requests_round(number: int, target: str, connections: int, **load: float) -> RequestRound:
    """Return a round of 100 requests."""
    whole = Load(100, load["seconds"], load["p50_ms"], 1.0)
    return RequestRound(
        number, target, connections, whole, None if target == "direct" else load["cpu_s"]
    )


def a_run() -> Measured:
    """Return a run of two rounds: the router half as fast in the first, a quarter in the second."""
    requests = [
        requests_round(number, target, connections, seconds=seconds, p50_ms=p50_ms, cpu_s=seconds)
        # Out of order: figures must find each other by their round.
        for number, factor in ((2, 4), (1, 2))
        for connections in (1, 32)
        for target, seconds, p50_ms in (
            ("direct", 0.5, 0.1),
            ("nginx", 1.0 * number, 0.2),
            ("router", 1.0 * number * factor, 0.1 + 0.1 * factor),
        )
    ]
    streams = [
        StreamRound(1, target, 100, Streams(100, 1.0, 0.1, 0.2), cpu_s)
        for target, cpu_s in (("direct", None), ("nginx", 0.25), ("router", 1.0))
    ]
    starts = [Startup(0.4, 50.0, 0.5, 120.0)]
    return Measured({"machine": "a table"}, requests, streams, starts, {"nginx": 10, "router": 60})


def test_ratio_is_taken_in_each_round() -> None:
    """Each round is compared with nginx's of the same round, and the spread is of those ratios."""
    rounds = figures.requests_at(a_run(), 32)
    ratio = figures.ratio_to_nginx(rounds, "router", lambda one: one.load.per_second)
    assert ratio == Spread(0.375, 0.25, 0.5)


def test_added_latency_is_compared_with_what_nginx_adds() -> None:
    """Added latency counts from the direct one; a round where nginx adds none is left out."""
    rounds = figures.requests_at(a_run(), 1)
    assert figures.added_p50_ratio(rounds).median == pytest.approx(3.0)
    silent = [
        replace(one, load=replace(one.load, p50_ms=0.1))
        if (one.round, one.target) == (2, "nginx")
        else one
        for one in rounds
    ]
    assert figures.added_p50_ratio(silent).high == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("median", "is_least", "met"),
    [(0.25, True, True), (0.24, True, False), (0.25, False, True), (0.26, False, False)],
)
def test_bar_is_met_by_the_median(median: float, is_least: bool, met: bool) -> None:
    """A bar is a least or a most, and meeting it exactly is enough."""
    bar = Bar("a bar", 0.25, is_least=is_least, measured=Spread(median, 0.0, 9.0))
    assert bar.is_met is met


def test_report_tells_every_target_and_bar() -> None:
    """The text has a row for each target and bar, and says which bar was missed."""
    lines = report.text(a_run()).splitlines()
    for target in ("direct", "nginx", "router"):
        assert sum(line.startswith(f"{target} ") for line in lines) == 3
    missed = next(line for line in lines if line.startswith("resident with the admin API"))
    assert missed.split()[-4:] == ["120.000", "≤", "110", "MISSED"]
    idle = next(line for line in lines if line.startswith("resident when idle"))
    assert idle.endswith("met")


def test_json_holds_every_round() -> None:
    """The JSON form holds all rounds, not only their medians."""
    whole = report.as_json(a_run())
    assert len(whole["requests"]) == 12
    assert [bar["is_met"] for bar in whole["bars"]] == [True, True, False, True, True, False]


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
        streams = await asyncio.to_thread(read_streams, port, 2, 0.1, None)
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
            await asyncio.to_thread(read_streams, port, 1, 0.1, None)


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
