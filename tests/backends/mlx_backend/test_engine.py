from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.engine import Engine  # noqa: E402  imports MLX
from backends.mlx_backend.errors import ChatError  # noqa: E402  follows it
from backends.mlx_backend.generation import (  # noqa: E402  likewise
    Admitted,
    Begun,
    Event,
    Failed,
    Finished,
    Generation,
    Sampling,
    Text,
)
from backends.mlx_backend.scheduler import Scheduler, Wait  # noqa: E402  likewise
from backends.wire import Priority  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

IDLE_S = 100.0


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
def engine(clock: Clock) -> Iterator[Engine]:
    """Return an engine that is stepped by hand, on this thread."""
    scheduler = Scheduler(active=1, queue=8, idle_unload_s=IDLE_S)
    made = Engine(scheduler, rows=1, chunk_s=1e-9, clock=clock)
    yield made
    if made._model is not None:
        made._model.close()


@pytest.fixture
def ask(tiny_vision_model: Path) -> Any:
    """Return a maker of generations."""

    def make(
        text: str = "What colour is this?", *, stop: tuple[str, ...] = (), max_tokens: int = 20
    ) -> Generation:
        return Generation(
            model="tiny",
            folder=tiny_vision_model,
            messages=[{"role": "user", "content": text}],
            images=(),
            sampling=Sampling(temperature=0),
            max_tokens=max_tokens,
            stop=stop,
            priority=Priority.LOW,
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


def test_one_unit_a_step(engine: Engine, ask: Any) -> None:
    """A load, an admission, each chunk and each token take one step of their own."""
    events: list[Event] = []
    engine.submit(ask(LONG + "Please count.", max_tokens=3), events.append)
    assert engine.status().queue == 1
    assert engine.step() is None
    assert engine.status().state == "loaded"
    assert events == []
    assert engine.step() is None
    assert [type(event) for event in events] == [Admitted, Begun]
    assert engine.status().active == 1
    prompt = events[1].prompt_tokens if isinstance(events[1], Begun) else 0
    chunks = 0
    while not any(isinstance(event, Text) for event in events):
        assert engine.step() is None
        assert len(events) == 3 + chunks
        chunks += 1
    assert chunks > prompt / 16
    assert drain(engine) == 2
    assert isinstance(events[-1], Finished)
    assert events[-1].completion_tokens == 3
    assert engine.status().active == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10, 60])
def test_cancel_takes_one_step_in_every_phase(engine: Engine, ask: Any, steps: int) -> None:
    """A cancelled request is gone from queue, prefill or batch after one more step."""
    events: list[Event] = []
    ticket = engine.submit(ask(LONG + "Please count.", max_tokens=1000), events.append)
    for _ in range(steps):
        assert engine.step() is None
    heard = len(events)
    engine.cancel(ticket)
    engine.step()
    status = engine.status()
    assert (status.queue, status.active) == (0, 0)
    assert len(events) == heard
    assert engine._model is None or not engine._model.generator.has_work
    assert engine._requests == {}
    assert engine._rows == {}
    engine.cancel(ticket)
    assert isinstance(engine.step(), Wait)


def test_a_cancelled_row_harms_nobody(engine: Engine, ask: Any) -> None:
    """The next in the queue is answered in full."""
    first = engine.submit(ask(LONG + "Please count.", max_tokens=1000), lambda _: None)
    events: list[Event] = []
    engine.submit(ask(), events.append)
    for _ in range(30):
        engine.step()
    engine.cancel(first)
    drain(engine)
    assert text_of(events) == "I see no picture."


def test_a_failing_step_fails_its_row_alone(engine: Engine, ask: Any) -> None:
    """A failure inside MLX ends that row, and the next one is served by a new generator."""
    events: list[Event] = []
    later: list[Event] = []
    engine.submit(ask("Please count.", max_tokens=1000), events.append)
    engine.submit(ask(), later.append)
    for _ in range(10):
        engine.step()
    assert text_of(events)
    assert engine._model is not None
    head = engine._model.model.language_model.lm_head
    weight, head.weight = head.weight, mx.zeros((3, 3))
    generator = engine._model.generator
    while not isinstance(events[-1], Failed):
        assert engine.step() is None
    assert events[-1].error.code == "generation_failed"
    assert "/" not in events[-1].error.message
    assert engine._model.generator is not generator
    assert later == []
    head.weight = weight
    drain(engine)
    assert text_of(later) == "I see no picture."


def test_a_stop_string_frees_the_row(engine: Engine, ask: Any) -> None:
    """A row that a stop string ends leaves the batch at once."""
    events: list[Event] = []
    engine.submit(ask("Please count.", stop=("3",), max_tokens=1000), events.append)
    drain(engine)
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "stop"
    assert "3" not in text_of(events)
    assert engine._model is not None
    assert not engine._model.generator.has_work


def test_an_idle_model_is_unloaded(engine: Engine, clock: Clock, ask: Any) -> None:
    """After the idle time the memory is given back, and not before."""
    engine.submit(ask(), lambda _: None)
    drain(engine)
    clock.now = IDLE_S - 1
    assert engine.step() == Wait(IDLE_S)
    assert engine.status().memory_mb > 1
    clock.now = IDLE_S
    assert engine.step() is None
    assert engine.status().state == "idle"
    assert engine.status().memory_mb < 0.1
    assert engine.step() == Wait(None)


def test_stopping_ends_everyone_at_once(engine: Engine, ask: Any) -> None:
    """Whoever runs or waits hears of the stop without another step, and nobody new is taken."""
    running: list[Event] = []
    waiting: list[Event] = []
    engine.submit(ask("Please count.", max_tokens=1000), running.append)
    engine.submit(ask(), waiting.append)
    for _ in range(5):
        engine.step()
    engine.stop()
    for events in (running, waiting):
        assert isinstance(events[-1], Failed)
        assert events[-1].error.code == "shutting_down"
    with pytest.raises(ChatError, match="shutting down"):
        engine.submit(ask(), lambda _: None)
    with pytest.raises(ChatError, match="shutting down"):
        engine.unload(lambda: None)


def test_a_seeded_row_repeats_itself(engine: Engine, tiny_vision_model: Path) -> None:
    """The same seed gives the same tokens whatever was generated in between."""

    def draw(seed: int | None) -> str:
        events: list[Event] = []
        wanted = Generation(
            model="tiny",
            folder=tiny_vision_model,
            messages=[{"role": "user", "content": "Please count."}],
            images=(),
            sampling=Sampling(temperature=2.0, seed=seed),
            max_tokens=40,
            stop=(),
            priority=Priority.LOW,
        )
        engine.submit(wanted, events.append)
        drain(engine)
        assert not any(isinstance(event, Failed) for event in events)
        return text_of(events)

    first = draw(11)
    assert len({draw(None) for _ in range(4)}) > 1
    assert draw(11) == first
