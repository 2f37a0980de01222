import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bench.child import ROOT
from bench.mlx import conversations, figures, report
from bench.mlx.figures import Measured
from bench.mlx.health import Health, in_flight
from bench.mlx.records import CancelPhase, PriorityRound, ReuseRound, TokenRound
from bench.mlx.steps import Step, TraceReader, Wait, steps_of, wait_of
from bench.mlx.stream import AnswerFailed, Stream, ask
from bench.mlx.targets import DIRECT, start_all
from bench.servers import Failure
from bench.spread import Spread
from bench.target import Way

MS = 1_000_000


def step(name: str, begun_ms: float, took_ms: float = 1, ticket: int | None = None) -> Step:
    """Return a step that begins and ends at whole milliseconds."""
    return Step(name, int(begun_ms * MS), int(took_ms * MS), ticket)


def came(at_ms: float) -> Step:
    """Return that the request with ticket 9 was put into the queue."""
    return step("Submit", at_ms, 0, 9)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # Nothing else runs.
        ([came(2), step("Admit", 2, 1, 9), step("Prefill", 3, 1, 9)], Wait(1.0, 0)),
        # A step was under way when it came, and it goes next.
        (
            [step("Decode", -1, 4), came(2), step("Admit", 3, 1, 9), step("Prefill", 4, 1, 9)],
            Wait(2.0, 1),
        ),
        # That step, and one more after it had been let in.
        (
            [
                step("Decode", -1, 2.5),
                came(1),
                step("Admit", 2, 1, 9),
                step("Decode", 3, 2),
                step("Prefill", 5, 1, 9),
            ],
            Wait(4.0, 2),
        ),
        # What was over when it came it did not wait for; a pause is no step of a model.
        (
            [
                step("Decode", 0.5, 0.5),
                came(2),
                step("Pause", 2, 0.5, 4),
                step("Admit", 3, 0.5, 9),
                step("Prefill", 4, 1, 9),
            ],
            Wait(2.0, 0),
        ),
        # A LOW that came before is another; so is its prompt.
        (
            [
                step("Submit", 1, 0, 3),
                came(2),
                step("Submit", 2.5, 0, 4),
                step("Prefill", 3, 1, 3),
                step("Prefill", 4, 1, 9),
                step("Decode", 5, 1),
            ],
            Wait(2.0, 1),
        ),
        # A trace that does not show it says nothing.
        ([step("Decode", 1)], None),
        ([came(1)], None),
        ([came(1), step("Prefill", 20, 1, 9)], None),
    ],
)
def test_wait_is_counted_in_steps_of_others(steps: Sequence[Step], expected: Wait | None) -> None:
    """The step under way and those that go before count, of the newest request in that time."""
    assert wait_of(steps, 0, 10 * MS) == expected


def test_trace_is_read_on_where_it_ended(tmp_path: Path) -> None:
    """A line that is not whole yet waits for the next time; the array's bracket is no step."""
    trace = tmp_path / "trace.json"
    line = '{"name":"Prefill","ph":"X","ts":1.5,"dur":2,"pid":1,"tid":1,"args":{"ticket":7}},\n'
    trace.write_text("[\n" + line + line[:20])
    reader = TraceReader(trace)
    assert reader.read() == [Step("Prefill", 1500, 2000, 7)]
    assert reader.read() == []
    trace.write_text("[\n" + line + line)
    assert len(reader.read()) == 1
    assert TraceReader(None).read() == []
    late = TraceReader(trace, from_now=True)
    with trace.open("a") as file:
        file.write(line)
    assert len(late.read()) == 1
    submit = '{"name":"Submit","ph":"i","ts":1.5,"s":"t","args":{"ticket":7,"priority":1}},'
    assert list(steps_of([submit])) == [Step("Submit", 1500, 0, 7)]
    decode = '{"name":"Decode","ts":0,"dur":0,"args":{"model":"m","tickets":[1]}},'
    assert [one.ticket for one in steps_of([decode])] == [None]


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[Way]:
    """Answer every connection with these pieces, one write each, and close it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-priority: 1\r\n" in head
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Way(server.sockets[0].getsockname()[1], "m")


def event(**delta: str | None) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'


def whole(stream: bytes) -> bytes:
    """Return an answer that ends with this stream."""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(stream) + stream


async def test_answer_is_read_from_its_events() -> None:
    """Tokens are those of the usage; the text is put together, however the bytes are cut."""
    stream = event(role="assistant", content="") + event(content="a") + event(content=None)
    stream += event(content="b") + USAGE + b"data: [DONE]\n\n"
    async with answering(*(bytes([byte]) for byte in whole(stream))) as way:
        answer = await ask(way, b"{}", 1)
    assert (answer.text, answer.prompt_tokens, answer.tokens) == ("ab", 5, 2)
    assert 0 < answer.first_s <= answer.whole_s


async def test_first_token_is_the_first_text() -> None:
    """The event that only names the role is no token; an empty answer has it at its end."""
    async with answering(whole(event(role="assistant", content=""))) as way:
        stream = await Stream.open(way, b"{}", 1)
        with pytest.raises(AnswerFailed):
            await stream.first
    async with answering(whole(event(content="") + USAGE)) as way:
        empty = await ask(way, b"{}", 1)
    assert empty.text == ""
    assert empty.first_s == empty.whole_s


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
        whole(event(content="a")),
        whole(event(content="a") + USAGE).replace(b"200 OK", b"500 No"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n" + event(content="a"),
        b"",
    ],
)
async def test_answer_that_is_not_whole_is_a_failure(answer: bytes) -> None:
    """A refusal, a stream without its usage and a cut connection all fail."""
    async with answering(answer) as way:
        with pytest.raises(AnswerFailed):
            await ask(way, b"{}", 1)
    with pytest.raises(AnswerFailed, match="no connection"):
        await ask(way, b"{}", 1)


async def test_health_is_asked_until_it_is_so() -> None:
    """One connection serves all looks; what does not come to be in time fails."""
    left = [2, 1, 0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof() and left:
            await reader.readuntil(b"\r\n\r\n")
            said = json.dumps({"active": left.pop(0), "queue": 1}).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said)
            writer.write(head + said)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Health(server.sockets[0].getsockname()[1]) as health:
        await health.until(lambda now: in_flight(now) == 2, 5)
        assert left == [0]
        with pytest.raises(AnswerFailed, match="did not come to that"):
            await health.until(lambda now: in_flight(now) == 0, 0.05)


def test_conversations_are_all_different() -> None:
    """Each number has its own story, text and picture; counting stays within what was tried."""
    for make in (conversations.story, conversations.picture):
        assert make(1) != make(2)
        assert make(1) == make(1)
    assert conversations.long_text(1, 50) != conversations.long_text(2, 50)
    assert conversations.counting(63) == conversations.counting(0)
    request = json.loads(conversations.body("m", conversations.story(1), 7))
    assert (request["model"], request["max_tokens"], request["stream"]) == ("m", 7, True)
    again = conversations.second_turn(conversations.story(1), "Well.")
    assert [message["role"] for message in again[-2:]] == ["assistant", "user"]


def a_run() -> Measured:
    """Return a run of two rounds in which the backend waited for one step too many once."""
    speeds = {"backend": 4.0, "backend-open": 2.0, "mlx_vlm.server": 3.0, "direct": 1.0}
    return Measured(
        facts={"machine": "a table"},
        scenarios=["tokens", "priority", "cancel", "reuse"],
        tokens=[
            TokenRound(number, target, streams, 64, 10, seconds * number)
            for number in (1, 2)
            for streams in (1, 4)
            for target, seconds in speeds.items()
            # One target cannot do as many.
            if (target, streams) != ("mlx_vlm.server", 4)
        ],
        priority=[
            PriorityRound(number, target, lows, [(lows + 1) * slower * number], waits)
            for number in (1, 2)
            for lows in (0, 3, 64)
            for target, slower, waits in (
                ("backend-traced", 2, [Wait(5, number if lows == 64 else 1)]),
                ("mlx_vlm.server", 9, []),
            )
        ],
        cancels=[CancelPhase("decode", [1.0, 2.0, 9.0], 0.5, 4.0)],
        reuses=[
            ReuseRound(1, "backend", "picture", 50.0, 10.0, 70.0),
            ReuseRound(1, "mlx_vlm.server", "picture", 50.0, 50.0, 9999.0),
        ],
        load_s=12.0,
        memory_mb=150.0,
        failures=[Failure("mlx_vlm.server", "4 streams", "too slow")],
    )


def line_of(run: Measured, beginning: str) -> str:
    """Return the first line of a report that begins so, its spaces made one."""
    lines = [" ".join(line.split()) for line in report.text(run).splitlines()]
    return next(line for line in lines if line.startswith(beginning))


def test_step_is_the_time_of_a_token_of_every_stream() -> None:
    """Sixteen tokens of each of four streams in a second took 62.5 ms each."""
    one = TokenRound(1, "backend", 4, 64, 10, 1.0)
    assert (one.per_second, one.step_ms) == (64.0, 62.5)


def test_bars_compare_the_open_backend_with_the_bare_batch() -> None:
    """Ratios are of the same round; the shipped limits are not held against the backend."""
    found = {bar.name: bar for bar in figures.bars(a_run())}
    bar = found["tokens/s, of mlx-vlm's own batch, 4 streams"]
    assert bar.measured == Spread(0.5, 0.5, 0.5)
    assert bar.is_met is False
    assert found["one text answer, s"].measured == Spread(6.0, 4.0, 8.0)
    assert found["loading the model, s"].is_met is False
    assert found["memory, MB"].is_met is True


def test_bar_of_waiting_is_missed_by_a_single_request() -> None:
    """A promise to every HIGH is kept by the worst, not by the median."""
    found = {bar.name: bar for bar in figures.bars(a_run())}
    assert found["steps that HIGH waits at most, 3 LOW"].is_met is True
    assert found["steps that HIGH waits at most, 64 LOW"].measured == Spread(2, 2, 2)
    assert found["steps that HIGH waits at most, 64 LOW"].is_met is False
    assert found["HIGH's time in the queue, ms, 64 LOW"].is_met is True


def test_bar_of_pictures_is_the_backend_s_own() -> None:
    """Another server's time for a picture is not in our bar."""
    found = {bar.name: bar for bar in figures.bars(a_run())}
    assert found["one answer about a picture, s"].measured == Spread(0.07, 0.07, 0.07)


def test_bars_are_of_the_scenarios_that_ran() -> None:
    """A part of a run has its own bars alone, and what it did not measure is no verdict."""
    run = replace(a_run(), scenarios=["reuse"], reuses=[])
    (bar,) = figures.bars(run)
    assert bar.is_met is None
    assert "HIGH" not in report.text(run)


def test_report_tells_what_was_measured() -> None:
    """Each scenario has its table, ratios within rounds, and failures are named."""
    run = a_run()
    assert line_of(run, "backend-open").endswith("0.500 46.88 (31.25–62.50)")
    text = report.text(run)
    four = text[text.index("4 streams  ") : text.index("the project's bars")]
    assert "direct" in four
    assert "mlx_vlm.server" not in four
    assert line_of(run, "backend-traced 64") == (
        "backend-traced 64 195.0 (130.0–260.0) 65.00 5.0 2 (1–2)"
    )
    assert line_of(run, "mlx_vlm.server 3") == "mlx_vlm.server 3 54.0 (36.0–72.0) 4.00"
    assert line_of(run, "decode") == "decode 3 2.0 9.0 4.0 0.5"
    assert line_of(run, "picture backend") == "picture backend 50.0 10.0 0.200"
    assert "FAILED\n  mlx_vlm.server, 4 streams: too slow" in text


def test_json_holds_every_round() -> None:
    """The JSON form holds all rounds, not only their medians, and each bar's verdict."""
    whole = json.loads(json.dumps(report.as_json(a_run())))
    assert len(whole["tokens"]) == 14
    assert len(whole["priority"]) == 12
    assert {bar["name"]: bar["is_met"] for bar in whole["bars"]}["memory, MB"] is True


def test_benchmark_measures_the_real_thing(tiny_vision_model: Path, tmp_path: Path) -> None:
    """A short run measures the backend beside mlx-vlm in every scenario, with the same prompts."""
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench.mlx", "--quick", "--json", str(found)]
    # A process of its own: it ends whatever children its process has.
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said
    (run,) = json.loads(found.read_text("utf-8"))
    assert run["failures"] == []
    assert {one["target"] for one in run["tokens"]} == {
        "backend",
        "backend-open",
        "mlx_vlm.server",
        "direct",
    }
    own = [one for one in run["tokens"] if one["target"] != "mlx_vlm.server"]
    for streams in (1, 4):
        assert len({one["prompt_tokens"] for one in own if one["streams"] == streams}) == 1
    assert all(one["tokens"] == 32 * one["streams"] for one in own)
    waits = [one["waits"] for one in run["priority"] if one["target"] == "backend-traced"]
    assert [len(each) for each in waits] == [2, 2, 2]
    assert [one["phase"] for one in run["cancels"]] == ["decode", "prefill", "queued"]
    assert {(one["kind"], one["target"]) for one in run["reuses"]} == {
        (kind, target)
        for kind in ("conversation", "picture")
        for target in ("backend", "mlx_vlm.server")
    }
    assert "Device(" in said.stdout
    assert run["load_s"] > 0


def test_only_the_targets_wanted_are_started(tiny_vision_model: Path, tmp_path: Path) -> None:
    """A server that cannot be measured on this machine need not be started."""
    with ExitStack() as running:
        started = start_all([DIRECT], tiny_vision_model, tmp_path, {}, running)
    assert list(started.targets) == [DIRECT]
    assert not started.failures
