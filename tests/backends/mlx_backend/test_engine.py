import gc
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from mlx_vlm.utils import load as mlx_vlm_load  # noqa: E402  imports MLX
from PIL import Image  # noqa: E402  follows it

from backends.mlx_backend.actions import Wait  # noqa: E402  likewise
from backends.mlx_backend.batch import Batch  # noqa: E402  likewise
from backends.mlx_backend.desk import Desk  # noqa: E402  likewise
from backends.mlx_backend.engine import Engine  # noqa: E402  likewise
from backends.mlx_backend.errors import ChatError  # noqa: E402  follows it
from backends.mlx_backend.generation import (  # noqa: E402  likewise
    Admitted,
    Begun,
    EngineStatus,
    Event,
    Failed,
    Finished,
    Generation,
    LoadStatus,
    Picture,
    Progress,
    Sampling,
    Text,
)
from backends.mlx_backend.loaded import LoadedModels  # noqa: E402  likewise
from backends.mlx_backend.sampling import RowSampler  # noqa: E402  likewise
from backends.mlx_backend.scheduler import Limits, Scheduler  # noqa: E402  likewise
from backends.mlx_backend.trace import Trace  # noqa: E402  likewise
from backends.wire import (  # noqa: E402  likewise
    LoadPhase,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoading,
    ModelNews,
    ModelUnloaded,
    Priority,
    UnloadReason,
)
from tests.backends.mlx_backend.pictures import RED, encoded  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

IDLE_S = 100.0
REST_S = 10.0


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the engine's clock."""
    return Clock()


@pytest.fixture
def desk(clock: Clock) -> Desk:
    """Return where generations are submitted."""
    return Desk(Scheduler(Limits(queue=8, idle_unload_s=IDLE_S, queue_idle_stop_s=REST_S)), clock)


@pytest.fixture
def engine(desk: Desk) -> Iterator[Engine]:
    """Return an engine that is stepped by hand, on this thread."""
    made = Engine(desk, LoadedModels(chunk_s=1e-9))
    yield made
    made._models.close()


@pytest.fixture
def ask(tiny_vision_model: Path) -> Any:
    """Return a maker of generations."""

    def make(
        text: str = "What colour is this?",
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | None = 20,
        temperature: float = 0.0,
        seed: int | None = None,
        priority: Priority = Priority.LOW,
        queue_s: float | None = None,
    ) -> Generation:
        return Generation(
            model="tiny",
            folder=tiny_vision_model,
            messages=[{"role": "user", "content": text}],
            images=(),
            sampling=Sampling(temperature=temperature, seed=seed),
            max_tokens=max_tokens,
            stop=stop,
            priority=priority,
            queue_s=queue_s,
        )

    return make


def drain(engine: Engine) -> int:
    """Step until there is nothing to do; returns how many steps that took."""
    steps = 0
    while engine.step() is None:
        steps += 1
        assert steps < 1000
    return steps


def text_of(events: list[Event]) -> str:
    """Join the text of a generation."""
    return "".join(event.text for event in events if isinstance(event, Text))


LONG = "tell me about the weather in Paris today " * 4


def rows_of(engine: Engine) -> Any:
    """Return the rows of the only model that is loaded."""
    (rows,) = engine._models._models.values()
    return rows


def nothing_left(engine: Engine, desk: Desk) -> bool:
    """Tell whether nobody is served and nothing of anybody is kept."""
    status = desk.status()
    rows = engine._models._models.values()
    kept = [each._served for each in rows]
    batches = [len(each._batch) for each in rows]
    return (
        status.active == 0
        and sum(status.queued.values()) == 0
        and not desk._requests
        and not desk._cancelled
        and not any(kept)
        and not any(batches)
    )


def test_one_unit_a_step(engine: Engine, desk: Desk, ask: Any) -> None:
    """A load, an admission, each chunk and each token take one step of their own."""
    events: list[Event] = []
    desk.submit(ask(LONG + "Please count.", max_tokens=3), events.append)
    assert sum(desk.status().queued.values()) == 1
    assert engine.step() is None
    assert desk.status().state == "loaded"
    assert events == []
    assert engine.step() is None
    assert [type(event) for event in events] == [Admitted]
    assert desk.status().prefilling == 1
    chunks = 0
    while desk.status().prefilling:
        assert engine.step() is None
        chunks += 1
    begun = events[1]
    assert isinstance(begun, Begun)
    assert chunks == -(-(begun.prompt_tokens - 1) // 16)
    assert text_of(events) == ""
    assert drain(engine) == 3
    assert isinstance(events[-1], Finished)
    assert events[-1].completion_tokens == 3
    assert nothing_left(engine, desk)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10, 60])
def test_cancel_takes_one_step_in_every_phase(
    engine: Engine, desk: Desk, ask: Any, steps: int
) -> None:
    """A cancelled request is gone from queue, prefill or batch after one more step."""
    events: list[Event] = []
    ticket = desk.submit(ask(LONG + "Please count.", max_tokens=1000), events.append)
    for _ in range(steps):
        assert engine.step() is None
    heard = len(events)
    desk.cancel(ticket)
    engine.step()
    assert nothing_left(engine, desk)
    assert len(events) == heard
    desk.cancel(ticket)
    assert isinstance(engine.step(), Wait)


def test_a_cancelled_row_harms_nobody(engine: Engine, desk: Desk, ask: Any) -> None:
    """Its neighbour in the batch is answered in full."""
    first = desk.submit(ask(LONG + "Please count.", max_tokens=1000), lambda _: None)
    events: list[Event] = []
    desk.submit(ask(), events.append)
    for _ in range(30):
        engine.step()
    desk.cancel(first)
    drain(engine)
    assert text_of(events) == "I see no picture."


def break_head(engine: Engine) -> Any:
    """Have every forward pass fail; returns what mends it."""
    head = rows_of(engine).model.model.language_model.lm_head
    weight, head.weight = head.weight, mx.zeros((3, 3))

    def mend() -> None:
        head.weight = weight

    return mend


def test_a_failing_step_is_survived(engine: Engine, desk: Desk, ask: Any) -> None:
    """Rows read their prompts and tokens again in a new batch, and answer what they would have."""
    alone: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=30), alone.append)
    drain(engine)
    both: list[list[Event]] = [[], []]
    for events in both:
        desk.submit(ask("Please count.", max_tokens=30), events.append)
    while desk.status().decoding < 2:
        engine.step()
    for _ in range(5):
        engine.step()
    mend = break_head(engine)
    batch = rows_of(engine)._batch
    assert engine.step() is None
    assert rows_of(engine)._batch is not batch
    mend()
    drain(engine)
    for events in both:
        assert text_of(events) == text_of(alone)
        assert isinstance(events[-1], Finished)
        assert [type(event) for event in events].count(Begun) == 1
    begun = [event for each in (alone, *both) for event in each if isinstance(event, Begun)]
    # What is read again is no prompt of anybody's.
    assert desk.status().totals.prompt_tokens == sum(each.prompt_tokens for each in begun)
    assert nothing_left(engine, desk)


def test_a_row_that_fails_alone_fails(engine: Engine, desk: Desk, ask: Any) -> None:
    """Nobody else can be the cause; the next one is served by a new batch."""
    events: list[Event] = []
    later: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=1000), events.append)
    while not text_of(events):
        engine.step()
    mend = break_head(engine)
    while not isinstance(events[-1], Failed):
        assert engine.step() is None
    assert events[-1].error.code == "generation_failed"
    assert "/" not in events[-1].error.message
    mend()
    desk.submit(ask(), later.append)
    drain(engine)
    assert text_of(later) == "I see no picture."
    assert nothing_left(engine, desk)


CULPRIT = 13


class TwoTokens(RowSampler):
    """Draws two tokens for one row where its seed says so, which the next step chokes on."""

    def next(self, token: int | None, logits: Any) -> Any:
        """Draw from the logits after a token."""
        drawn = super().next(token, logits)
        return mx.concatenate([drawn, drawn]) if self._plan.seed == CULPRIT else drawn


def decodes(path: Path) -> list[dict[str, Any]]:
    """Return the decode steps of a trace."""
    events = json.loads(path.read_text().rstrip().rstrip(",") + "]")
    return [event["args"] for event in events if event["name"] == "Decode"]


@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.LOW])
def test_who_makes_every_step_fail_is_found(
    desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, priority: Priority
) -> None:
    """It fails alone, by name; the others are answered as if it had never been there."""
    monkeypatch.setattr("backends.mlx_backend.rows.RowSampler", TwoTokens)
    trace = Trace(tmp_path / "trace")
    engine = Engine(desk, LoadedModels(chunk_s=1e-9), trace)
    seeds = (11, 12, CULPRIT)
    asked = [
        ask("Please count.", max_tokens=24, temperature=0.8, seed=seed, priority=priority)
        for seed in seeds
    ]
    alone: list[list[Event]] = [[], [], []]
    together: list[list[Event]] = [[], [], []]
    for generation, events in zip(asked, alone, strict=True):
        desk.submit(generation, events.append)
        drain(engine)
    tickets = [
        desk.submit(generation, events.append)
        for generation, events in zip(asked, together, strict=True)
    ]
    drain(engine)
    assert nothing_left(engine, desk)
    engine._models.close()
    trace.close()
    for mine, events in zip(alone[:2], together[:2], strict=True):
        assert text_of(events) == text_of(mine)
        assert isinstance(events[-1], Finished)
    for each in (alone[2], together[2]):
        assert isinstance(each[-1], Failed)
        assert each[-1].error.code == "generation_failed"
    steps = decodes(tmp_path / "trace")
    tried = [step["alone"] for step in steps if step["alone"] is not None]
    assert sorted(tried) == sorted(2 * tickets)
    assert all(step["tickets"] == [step["alone"]] for step in steps if step["alone"])
    last = max(at for at, step in enumerate(steps) if step["alone"])
    assert steps[last + 1]["tickets"] == tickets[:2]


def test_who_fails_in_company_only_is_answered(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fail together whenever they decode together are alone for longer each time."""
    alone: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=40), alone.append)
    drain(engine)
    failed = 0
    decode = Batch.decode

    def fail(batch: Batch) -> Any:
        nonlocal failed
        if len(batch.decoding) > 1:
            failed += 1
            raise RuntimeError("[malloc] Unable to allocate 9 bytes")
        return decode(batch)

    both: list[list[Event]] = [[], []]
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "decode", fail)
        for events in both:
            desk.submit(ask("Please count.", max_tokens=40), events.append)
        drain(engine)
    for events in both:
        assert text_of(events) == text_of(alone)
        assert isinstance(events[-1], Finished)
    assert 2 <= failed <= 6
    assert nothing_left(engine, desk)


def suspect(engine: Engine, desk: Desk, tickets: list[int]) -> None:
    """Have a step of two rows fail, which is the second one for these."""
    while desk.status().decoding < 2:
        engine.step()
    rows = rows_of(engine)
    for ticket in tickets:
        rows._served[ticket].row.failures = 1
    lost = rows.rebuild(ValueError())
    assert lost.suspected == set(tickets)
    for ticket in lost.again:
        desk.on_lost(ticket, suspected=ticket in lost.suspected)


def test_a_suspect_that_cannot_come_back_ends(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out as it joins the others is told to its client, and ends nobody else."""
    alone: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=12), alone.append)
    drain(engine)
    both: list[list[Event]] = [[], []]
    tickets = [desk.submit(ask("Please count.", max_tokens=12), each.append) for each in both]
    suspect(engine, desk, tickets[:1])

    def fail(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "take_over", fail)
        drain(engine)
    assert isinstance(both[0][-1], Failed)
    assert text_of(both[1]) == text_of(alone)
    assert nothing_left(engine, desk)


def test_a_suspect_is_paused_and_dropped_like_any_other(
    engine: Engine, desk: Desk, ask: Any
) -> None:
    """Its batch of one takes it out and back, and loses it, as the common one does."""
    alone: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=12), alone.append)
    drain(engine)
    both: list[list[Event]] = [[], []]
    tickets = [desk.submit(ask("Please count.", max_tokens=12), each.append) for each in both]
    suspect(engine, desk, tickets)
    rows = rows_of(engine)
    while desk.status().decoding < 2:
        engine.step()
    ticket = tickets[1]
    assert rows.taking_part() == []
    assert rows.taking_part(ticket) == [ticket]
    assert rows.pause(ticket)
    assert rows.taking_part(ticket) == []
    rows.resume(ticket)
    assert rows.taking_part(ticket) == [ticket]
    assert rows.pause(ticket)
    rows.drop(ticket)
    desk.on_lost(ticket)
    drain(engine)
    assert [text_of(events) for events in both] == [text_of(alone)] * 2
    assert nothing_left(engine, desk)


def test_only_rows_that_decoded_are_blamed(engine: Engine, desk: Desk, ask: Any) -> None:
    """The only one that did fails; one whose prompt is being read begins again."""
    first = desk.submit(ask("Please count.", max_tokens=1000), lambda _: None)
    while not desk.status().decoding:
        engine.step()
    second = desk.submit(ask(LONG), lambda _: None)
    rows = rows_of(engine)
    while second not in rows._batch:
        engine.step()
    assert desk.status().prefilling == 1
    lost = rows.rebuild(ValueError())
    assert [each.ticket for each in lost.ended] == [first]
    assert lost.again == [second]
    assert rows._served[second].row.failures == 0


def test_memory_that_runs_out_as_a_row_leaves(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone all the same; its neighbour is answered in full, out of a new batch."""

    def fail(*_: Any) -> None:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes")

    leaving = desk.submit(ask("Please count.", max_tokens=1000), lambda _: None)
    events: list[Event] = []
    desk.submit(ask(), events.append)
    while desk.status().decoding < 2:
        engine.step()
    desk.cancel(leaving)
    with monkeypatch.context() as patch:
        patch.setattr("backends.mlx_backend.batch.Batch._settle", fail)
        engine.step()
    drain(engine)
    assert text_of(events) == "I see no picture."
    assert isinstance(events[-1], Finished)
    assert nothing_left(engine, desk)


def test_a_stop_string_frees_the_row(engine: Engine, desk: Desk, ask: Any) -> None:
    """A row that a stop string ends leaves the batch at once."""
    events: list[Event] = []
    desk.submit(ask("Please count.", stop=("3",), max_tokens=1000), events.append)
    drain(engine)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "stop"
    assert "3" not in text_of(events)
    assert nothing_left(engine, desk)


def test_an_idle_model_is_unloaded(engine: Engine, desk: Desk, clock: Clock, ask: Any) -> None:
    """After the idle time the memory is given back, and not before."""
    desk.submit(ask(), lambda _: None)
    drain(engine)
    assert engine.step() == Wait(REST_S)
    clock.now = REST_S
    assert engine.step() is None
    assert engine.step() == Wait(IDLE_S)
    assert desk.status().memory_mb > 1
    clock.now = IDLE_S
    assert engine.step() is None
    assert desk.status().state == "idle"
    assert desk.status().memory_mb < 0.1
    assert engine.step() == Wait(None)


def test_a_request_that_waits_too_long_is_refused(
    engine: Engine, desk: Desk, clock: Clock, ask: Any
) -> None:
    """Its client hears of it while others go on, and it never takes a place."""
    for _ in range(3):
        desk.submit(ask("Please count.", max_tokens=1000), lambda _: None)
    for _ in range(20):
        engine.step()
    events: list[Event] = []
    desk.submit(ask(queue_s=5.0), events.append)
    clock.now = 4.9
    engine.step()
    assert not any(isinstance(event, Failed) for event in events)
    clock.now = 5.0
    engine.step()
    (event,) = events
    assert isinstance(event, Failed)
    assert event.error.code == "queue_timeout"
    assert event.error.retry_after_s


def test_stopping_ends_everyone_at_once(engine: Engine, desk: Desk, ask: Any) -> None:
    """Whoever runs or waits hears of the stop without another step, and nobody new is taken."""
    running: list[Event] = []
    waiting: list[Event] = []
    for _ in range(3):
        desk.submit(ask("Please count.", max_tokens=1000), running.append)
    desk.submit(ask(), waiting.append)
    for _ in range(5):
        engine.step()
    desk.stop()
    for events in (running, waiting):
        assert isinstance(events[-1], Failed)
        assert events[-1].error.code == "shutting_down"
    with pytest.raises(ChatError, match="shutting down"):
        desk.submit(ask(), lambda _: None)
    with pytest.raises(ChatError, match="shutting down"):
        desk.unload(lambda: None)


def test_what_fails_at_the_end_skips_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trace is whole, and the thread leaves nothing that MLX would abort the process for."""
    models, trace = LoadedModels(chunk_s=1e-9), Trace(tmp_path / "trace")
    engine = Engine(desk, models, trace)
    cleared: list[str] = []
    close = models.close

    def fail() -> None:
        close()
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(models, "close", fail)
    monkeypatch.setattr("backends.mlx_backend.engine.mx.clear_streams", lambda: cleared.append(""))
    desk.stop()
    with pytest.raises(RuntimeError, match="the device is lost"):
        engine.run(lambda: None)
    assert cleared
    assert trace._file.closed


def test_a_high_row_takes_the_place_of_a_low_one(engine: Engine, desk: Desk, ask: Any) -> None:
    """Its prefill starts after the step under way; the paused answer is what it would have been."""
    alone: list[Event] = []
    desk.submit(ask("Please count.", max_tokens=40), alone.append)
    drain(engine)
    lows: list[list[Event]] = [[] for _ in range(3)]
    for events in lows:
        desk.submit(ask("Please count.", max_tokens=40), events.append)
    while desk.status().decoding < 3:
        engine.step()
    highs: list[list[Event]] = [[], []]
    for events in highs:
        desk.submit(ask(priority=Priority.HIGH, max_tokens=30), events.append)
    tokens = [sum(isinstance(event, Text) for event in events) for events in lows]
    while desk.status().prefilling < 2:
        engine.step()
    assert tokens == [sum(isinstance(event, Text) for event in events) for events in lows]
    assert desk.status().paused == 1
    drain(engine)
    for events in highs:
        assert text_of(events) == "I see no picture."
    for events in lows:
        assert text_of(events) == text_of(alone)
    assert desk.status().events["pauses"] == 1
    assert nothing_left(engine, desk)


def test_a_seeded_row_repeats_itself(engine: Engine, desk: Desk, ask: Any) -> None:
    """The same seed gives the same tokens whatever shares its batch."""

    def draw(seed: int | None, beside: int) -> str:
        events: list[Event] = []
        for _ in range(beside):
            desk.submit(ask("Please count.", temperature=2.0), lambda _: None)
        desk.submit(ask("Please count.", temperature=2.0, seed=seed, max_tokens=40), events.append)
        drain(engine)
        assert not any(isinstance(event, Failed) for event in events)
        return text_of(events)

    first = draw(11, 0)
    assert len({draw(None, 0) for _ in range(4)}) > 1
    assert draw(11, 2) == first


@pytest.mark.parametrize("resumes", [True, False])
def test_a_picture_that_was_known_is_seen_again(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch, *, resumes: bool
) -> None:
    """Whether or not a model can go on after a known prefix, pictures within it count."""
    if not resumes:
        monkeypatch.setattr("backends.mlx_backend.prompt.resumable", lambda *_: False)
    answers: list[list[Event]] = [[], [], []]
    for events in answers:
        wanted = ask(LONG, max_tokens=8)
        parts = [{"type": "image"}, {"type": "text", "text": "What colour is this?"}]
        picture = Picture(encoded(RED, (120, 120)))
        messages = [{"role": "user", "content": parts}]
        desk.submit(replace(wanted, messages=messages, images=[picture]), events.append)
        drain(engine)
    assert [text_of(events) for events in answers] == ["This is red."] * 3
    known = [
        event.cached_tokens > 0 for each in answers for event in each if isinstance(event, Begun)
    ]
    assert known == [False, resumes, resumes]


def test_pictures_are_kept_no_longer_than_they_are_needed(
    engine: Engine, desk: Desk, ask: Any
) -> None:
    """Once they are tokens their pixels are gone, however long the answer becomes."""

    def decoded() -> int:
        gc.collect()
        return sum(isinstance(one, Image.Image) for one in gc.get_objects())

    desk.submit(ask(max_tokens=1), lambda _: None)
    drain(engine)
    before = decoded()
    parts = [{"type": "image"}, {"type": "text", "text": "What colour is this?"}]
    wanted = replace(
        ask(max_tokens=1000),
        messages=[{"role": "user", "content": parts}],
        images=[Picture(encoded(RED, (120, 120)))],
    )
    ticket = desk.submit(wanted, lambda _: None)
    while not desk.status().decoding:
        engine.step()
    assert decoded() == before
    desk.cancel(ticket)
    drain(engine)


def test_what_an_answer_is_expected_to_take_is_no_limit(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that names none is answered until the model ends, or its context."""
    monkeypatch.setattr("backends.mlx_backend.rows._EXPECTED_TOKENS", 5)
    events: list[Event] = []
    ticket = desk.submit(ask("Please count.", max_tokens=None), events.append)
    for _ in range(40):
        engine.step()
    assert not any(isinstance(event, Finished) for event in events)
    assert sum(isinstance(event, Text) for event in events) > 20
    desk.cancel(ticket)
    drain(engine)


def test_a_load_is_seen_while_it_lasts(
    engine: Engine, desk: Desk, clock: Clock, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which model it is, and how long it has taken; no step is taken for hanging meanwhile."""
    real = engine._models.load
    seen: list[EngineStatus] = []

    def load(*given: Any) -> None:
        clock.now += 40
        seen.append(desk.status())
        real(*given)

    monkeypatch.setattr(engine._models, "load", load)
    desk.submit(ask(), lambda _: None)
    drain(engine)
    (status,) = seen
    assert status.state == "loading"
    assert status.loading == LoadStatus("tiny", LoadPhase.PREPARING, 0, 40, 40)
    assert status.step_s == 0
    assert (desk.status().state, desk.status().loading) == ("loaded", None)


def test_links_to_a_model_are_that_model(
    engine: Engine, desk: Desk, ask: Any, tmp_path: Path
) -> None:
    """However a folder is reached, it is loaded once."""
    link = tmp_path / "link"
    link.symlink_to(ask().folder)
    for folder in (ask().folder, link, link / ".." / "link"):
        desk.submit(replace(ask(), folder=folder), lambda _: None)
        drain(engine)
    status = desk.status()
    assert (status.models, status.loads) == (("tiny",), 1)


def test_the_size_of_a_model_is_looked_at_when_it_is_to_be_loaded(
    engine: Engine, desk: Desk, ask: Any, tmp_path: Path
) -> None:
    """A model that was replaced by a larger one is refused by its size now, not by its old one."""
    request = replace(ask(), folder=shutil.copytree(ask().folder, tmp_path / "grows"))
    events: list[Event] = []
    desk.submit(request, events.append)
    drain(engine)
    assert desk.unload(lambda: None)
    drain(engine)
    with (request.folder / "more.safetensors").open("wb") as more:
        more.truncate(int(engine._models.weights_mb + 1) * 1024 * 1024)
    desk.submit(request, events.append)
    drain(engine)
    assert isinstance(events[-1], Failed)
    assert "its weights take" in events[-1].error.message


def test_what_becomes_of_models_is_told(desk: Desk, ask: Any, clock: Clock, tmp_path: Path) -> None:
    """Loaded, unloaded and why, failed: each once, under the model's name."""
    told: list[ModelNews] = []
    engine = Engine(desk, LoadedModels(chunk_s=1e-9), tell=told.append)
    desk.submit(ask(), lambda _: None)
    drain(engine)
    clock.now += IDLE_S
    drain(engine)
    empty = tmp_path / "empty"
    empty.mkdir()
    desk.submit(replace(ask(), model="empty", folder=empty), lambda _: None)
    drain(engine)
    ends = [news for news in told if not isinstance(news, ModelLoading)]
    assert [type(news) for news in ends] == [ModelLoaded, ModelUnloaded, ModelLoadFailed]
    assert ends[1] == ModelUnloaded("tiny", UnloadReason.IDLE)
    assert isinstance(ends[2], ModelLoadFailed)
    assert (ends[2].model, "config.json is missing" in ends[2].message) == ("empty", True)
    assert len(told) == len(set(told))


def test_a_model_that_is_too_large_is_not_loaded(
    desk: Desk, ask: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its clients are told how much it needs and how much there is."""
    models = LoadedModels(chunk_s=1e-9, memory_mb=0.5)
    events: list[Event] = []
    desk.submit(ask(), events.append)
    drain(Engine(desk, models))
    models.close()
    (event,) = events
    assert isinstance(event, Failed)
    assert event.error.code == "model_load_failed"
    assert "of 0 MB" in event.error.message
    assert "tiny cannot be loaded" in caplog.text
    assert desk.status().state == "idle"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc] Unable to allocate 9")])
def test_memory_that_runs_out_while_loading(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is named, and the next one is served."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("backends.mlx_backend.models.load", fail)
        failed: list[Event] = []
        desk.submit(ask(), failed.append)
        drain(engine)
    assert isinstance(failed[-1], Failed)
    assert "not enough memory" in failed[-1].error.message
    events: list[Event] = []
    desk.submit(ask(), events.append)
    drain(engine)
    assert text_of(events) == "I see no picture."


def test_it_batches_here(engine: Engine, desk: Desk, ask: Any) -> None:
    """The tiny model passes the self-test on this machine."""
    desk.submit(ask(), lambda _: None)
    drain(engine)
    assert desk.status().why == ""


def test_a_model_that_cannot_be_batched_is_served_one_by_one(
    engine: Engine,
    desk: Desk,
    ask: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said why, and never are two rows in the batch."""

    def extend(_self: Any, _other: Any) -> None:
        raise ValueError("not this cache")

    monkeypatch.setattr("mlx_vlm.models.cache.BatchKVCache.extend", extend)
    answers: list[list[Event]] = [[], [], []]
    for events in answers:
        desk.submit(ask(), events.append)
    drain(engine)
    assert [text_of(events) for events in answers] == ["I see no picture."] * 3
    assert "cannot be batched" in desk.status().why
    assert "not this cache" in caplog.text
    assert "one generation at a time" in caplog.text


@pytest.mark.parametrize("phase", ["prefilling", "decoding"])
def test_a_model_that_cannot_be_batched_keeps_no_cache(
    engine: Engine, desk: Desk, ask: Any, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A LOW that gives way reads all of it again, since taking it out may be what is wrong."""

    def extract(cache: Any, _row: int) -> Any:
        cache.keys = mx.zeros_like(cache.keys)
        return cache

    monkeypatch.setattr("mlx_vlm.models.cache.BatchKVCache.extract", extract)
    monkeypatch.setattr("mlx_vlm.models.cache.KVCache.extract", extract)
    alone: list[Event] = []
    desk.submit(ask(LONG + "Please count.", max_tokens=30), alone.append)
    drain(engine)
    assert desk.status().why
    low: list[Event] = []
    high: list[Event] = []
    desk.submit(ask(LONG + "Please count.", max_tokens=30), low.append)
    for _ in range(6 if phase == "prefilling" else 20):
        engine.step()
    assert getattr(desk.status(), phase) == 1
    desk.submit(ask(priority=Priority.HIGH), high.append)
    while not desk.status().paused:
        engine.step()
    assert len(rows_of(engine)._batch) == 0
    drain(engine)
    assert text_of(high) == "I see no picture."
    assert text_of(low) == text_of(alone) != ""
    assert nothing_left(engine, desk)


def test_text_does_not_wait_for_the_pictures_of_others(
    engine: Engine, desk: Desk, ask: Any
) -> None:
    """While every decoder is busy with pictures, a request without any is answered."""
    done = threading.Event()
    busy = [engine._models._decoders.submit(done.wait, 20) for _ in range(2)]
    events: list[Event] = []
    desk.submit(ask(), events.append)
    drain(engine)
    assert text_of(events) == "I see no picture."
    assert not any(each.done() for each in busy)
    done.set()


@pytest.fixture
def during_load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what has something done while the next model is being loaded."""
    load = mlx_vlm_load

    def arrange(act: Callable[[], object]) -> None:
        def loading(*arguments: Any, **options: Any) -> Any:
            act()
            return load(*arguments, **options)

        monkeypatch.setattr("backends.mlx_backend.models.load", loading)

    return arrange


def test_who_runs_hears_of_the_engine_while_a_model_is_loaded(
    engine: Engine, desk: Desk, ask: Any, during_load: Any, tmp_path: Path
) -> None:
    """A load that takes long is no reason for a row of another model to be given up."""
    heard = threading.Event()
    beats: list[bool] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            heard.set()

    def wait() -> None:
        heard.clear()
        beats.append(heard.wait(10))

    ticket = desk.submit(ask("Please count.", max_tokens=1000), listen)
    while not desk.status().decoding:
        engine.step()
    during_load(wait)
    request = ask()
    twin = shutil.copytree(request.folder, tmp_path / "twin")
    desk.submit(replace(request, model="twin", folder=twin), lambda _: None)
    while len(desk.status().models) < 2:
        engine.step()
    assert beats == [True]
    desk.cancel(ticket)
    drain(engine)


def test_nothing_is_unloaded_during_a_load(
    engine: Engine, desk: Desk, ask: Any, during_load: Any, tmp_path: Path
) -> None:
    """Nobody waits for what is being loaded, yet it is not gone: the caller is told."""
    desk.submit(ask(), lambda _: None)
    drain(engine)
    refused: list[str] = []

    def unload() -> None:
        with pytest.raises(ChatError) as error:
            desk.unload(lambda: None)
        refused.append(error.value.code)

    during_load(unload)
    desk.preload("twin", shutil.copytree(ask().folder, tmp_path / "twin"))
    drain(engine)
    assert refused == ["conflict"]
    gone: list[bool] = []
    assert desk.unload(lambda: gone.append(True))
    drain(engine)
    assert gone == [True]


def test_answers_without_a_limit_share_a_batch(
    clock: Clock, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose client names no limit does not claim the memory of a whole context for itself."""
    monkeypatch.setattr("backends.mlx_backend.rows._EXPECTED_TOKENS", 4)
    models = LoadedModels(chunk_s=1e-9)
    limits = Limits(caches_mb=3)
    desk = Desk(Scheduler(limits), clock)
    engine = Engine(desk, models)
    for _ in range(2):
        desk.submit(ask("Please count.", max_tokens=None), lambda _: None)
    while desk.status().prefilling or not desk.status().decoding:
        assert engine.step() is None
    rows = rows_of(engine)
    (first, second) = rows._served
    context_mb = rows.model.context_length * rows.model.token_mb
    assert 2 * context_mb > limits.caches_mb
    assert desk.status().decoding == 2
    expected_mb, used_mb = rows.cache_mb(first)
    assert 0 < used_mb < expected_mb < context_mb
    assert rows.cache_mb(second)[0] == expected_mb
    # One that becomes longer after all counts for what it is.
    for _ in range(8):
        engine.step()
    known = desk._scheduler._slots.get(first)
    assert known is not None
    assert (known.cache_mb, known.used_mb) == rows.cache_mb(first)
    assert known.cache_mb == known.used_mb > expected_mb
    models.close()
