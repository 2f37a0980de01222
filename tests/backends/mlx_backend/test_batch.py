"""Rows that share a batch are as good as alone in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.batch import Batch  # noqa: E402  imports MLX
from backends.mlx_backend.generation import Generation, Picture, Sampling  # noqa: E402  likewise
from backends.mlx_backend.images import DEFAULT_LIMITS, decode_images  # noqa: E402  likewise
from backends.mlx_backend.models import LoadedModel  # noqa: E402  likewise
from backends.mlx_backend.prompt import Prompt, Reading  # noqa: E402  likewise
from backends.mlx_backend.sampling import RowSampler, SamplingPlan  # noqa: E402  likewise
from backends.mlx_backend.self_test import try_batching  # noqa: E402  likewise
from backends.wire import Priority  # noqa: E402  follows them
from tests.backends.mlx_backend.pictures import BLUE, RED, encoded  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

TOKENS = 24
LONG = "tell me about the weather in Paris today " * 4


@pytest.fixture(scope="module")
def model(tiny_vision_model: Path) -> Iterator[LoadedModel]:
    """Return the tiny model, its chunks as small as they get."""
    loaded = LoadedModel("tiny", tiny_vision_model, chunk_s=1e-9)
    yield loaded
    loaded.close()


def prompt_of(model: LoadedModel, text: str, *colours: Any, tokens: tuple[int, ...] = ()) -> Prompt:
    """Return a prompt about pictures of these colours."""
    parts: list[dict[str, str]] = [{"type": "image"} for _ in colours]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    pictures = [Picture(encoded(colour, (120, 120))) for colour in colours]
    wanted = Generation("tiny", Path(), messages, pictures, Sampling(), None, (), Priority.LOW)
    images = decode_images(pictures, DEFAULT_LIMITS)
    return Reading(model, wanted, images, tokens).prompt()


def sampler_of(seed: int, temperature: float = 1.5) -> RowSampler:
    """Return a sampler that draws."""
    return RowSampler(SamplingPlan(temperature, 0.95, 0, 0.0, seed))


def rows(model: LoadedModel) -> dict[int, tuple[Prompt, Any]]:
    """Return rows of every kind: text, pictures, greedy, drawn."""
    return {
        1: (prompt_of(model, "Please count."), lambda: None),
        2: (prompt_of(model, "What colour is this?", RED), lambda: None),
        3: (prompt_of(model, LONG + "Please count."), lambda: sampler_of(7)),
        4: (prompt_of(model, "colour?", RED, BLUE), lambda: sampler_of(8, 2.0)),
        5: (prompt_of(model, LONG, BLUE), lambda: None),
    }


def open_batch(model: LoadedModel) -> Batch:
    """Return a batch without rows."""
    return model.open_batch()


def read_in(batch: Batch, ticket: int) -> None:
    """Feed a prompt to its end."""
    while batch.prefill(ticket) is None:
        pass


def alone(model: LoadedModel, prompt: Prompt, sampler: Any, count: int = TOKENS) -> list[int]:
    """Return the tokens that a row gets by itself."""
    batch = open_batch(model)
    batch.begin(0, prompt, sampler)
    read_in(batch, 0)
    return [drawn.token for _ in range(count) for drawn in batch.decode()]


@pytest.fixture(scope="module")
def solo(model: LoadedModel) -> dict[int, list[int]]:
    """Return what each row gets by itself."""
    return {key: alone(model, prompt, make()) for key, (prompt, make) in rows(model).items()}


def collect(batch: Batch, got: dict[int, list[int]]) -> None:
    """Take one step, and keep what it gives to rows that want more."""
    for drawn in batch.decode():
        assert drawn.error is None
        got.setdefault(drawn.ticket, []).append(drawn.token)


@pytest.mark.parametrize("gap", [0, 1, 5])
def test_a_row_in_a_batch_gets_what_it_gets_alone(
    model: LoadedModel, solo: dict[int, list[int]], gap: int
) -> None:
    """Whoever joins or leaves, and whenever, each row's tokens are those of its solo run."""
    batch = open_batch(model)
    got: dict[int, list[int]] = {}
    for ticket, (prompt, make) in rows(model).items():
        batch.begin(ticket, prompt, make())
        while batch.prefill(ticket) is None:
            collect(batch, got)
        for _ in range(gap):
            collect(batch, got)
    while any(len(got.get(ticket, [])) < TOKENS for ticket in solo):
        collect(batch, got)
        for ticket in [each for each, tokens in got.items() if len(tokens) >= TOKENS]:
            batch.remove(ticket)
    assert {ticket: tokens[:TOKENS] for ticket, tokens in got.items()} == solo
    assert len(batch) == 0


@pytest.mark.parametrize("ticket", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_paused_row_goes_on_as_if_nothing_had_been(
    model: LoadedModel, solo: dict[int, list[int]], ticket: int, at: int
) -> None:
    """Neither a row that was paused nor those that went on without it see a difference."""
    batch = open_batch(model)
    got: dict[int, list[int]] = {}
    chosen = {1: rows(model)[1], ticket: rows(model)[ticket], 2: rows(model)[2]}
    for each, (prompt, make) in chosen.items():
        batch.begin(each, prompt, make())
        read_in(batch, each)
    for _ in range(at):
        collect(batch, got)
    assert batch.pause(ticket)
    for _ in range(3):
        collect(batch, got)
    assert len(got.get(ticket, [])) == at
    batch.resume(ticket)
    while any(len(got.get(each, [])) < TOKENS for each in chosen):
        collect(batch, got)
    for each in chosen:
        assert got[each][:TOKENS] == solo[each]


@pytest.mark.parametrize("ticket", [1, 2, 4])
def test_a_row_whose_cache_was_dropped_goes_on_from_its_tokens(
    model: LoadedModel, solo: dict[int, list[int]], ticket: int
) -> None:
    """Prompt and tokens are read again, and the answer is the same."""
    texts: dict[int, Any] = {
        1: ("Please count.",),
        2: ("What colour is this?", RED),
        4: ("colour?", RED, BLUE),
    }
    before = solo[ticket][:5]
    prompt = prompt_of(model, *texts[ticket], tokens=tuple(before))
    plan = rows(model)[ticket][1]()
    sampler = None if plan is None else RowSampler(plan._plan, tokens=before)
    assert before + alone(model, prompt, sampler, TOKENS - 5) == solo[ticket]


class Told(RowSampler):
    """Draws the tokens that it is told, and keeps the logits that it was given."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.left = list(tokens)
        self.needs_tokens = False

    def first(self, logits: Any) -> Any:
        self.last = logits
        return mx.array([self.left.pop(0) if self.left else 0])

    def next(self, _token: int | None, logits: Any) -> Any:
        return self.first(logits)


def test_an_answer_may_hold_what_stands_for_a_picture(model: LoadedModel) -> None:
    """Read again after its cache was dropped, it is no picture but what the row was fed before."""
    config: Any = model.model.config
    written = (7, config.vision_start_token_id, config.image_token_id, config.video_token_id, 9)
    batch, going = open_batch(model), Told(written)
    batch.begin(0, prompt_of(model, "colour?", RED, BLUE), going)
    read_in(batch, 0)
    for _ in written:
        batch.decode()
    batch, again = open_batch(model), Told(())
    batch.begin(0, prompt_of(model, "colour?", RED, BLUE, tokens=written), again)
    read_in(batch, 0)
    assert mx.allclose(going.last, again.last, atol=1e-3).item()


def test_a_failing_sampler_is_its_rows_alone(
    model: LoadedModel, solo: dict[int, list[int]]
) -> None:
    """It has the token that was drawn before, then is named; its neighbours do not notice."""

    class Failing(RowSampler):
        def next(self, token: int | None, _logits: Any) -> Any:
            raise ValueError(token)

    batch = open_batch(model)
    for ticket in (1, 2):
        prompt, make = rows(model)[ticket]
        batch.begin(ticket, prompt, make() if ticket == 2 else Failing(SamplingPlan(1, 1, 0, 0, 1)))
        read_in(batch, ticket)
    first, drawn, later = batch.decode(), batch.decode(), batch.decode()
    assert [each.error for each in first] == [None, None]
    assert [isinstance(each.error, ValueError) for each in drawn] == [True, False]
    # Who has failed is not asked again.
    assert later[0].error is drawn[0].error
    batch.remove(1)
    got = {2: [first[1].token, drawn[1].token, later[1].token]}
    while len(got[2]) < TOKENS:
        collect(batch, got)
    assert got[2] == solo[2]


def test_a_removed_row_hands_its_cache_back(model: LoadedModel) -> None:
    """It holds everything that the row was fed, in the batch, paused, or alone."""
    prompt, _ = rows(model)[3]
    for neighbours in (0, 1):
        batch = open_batch(model)
        batch.begin(9, prompt, None)
        read_in(batch, 9)
        if neighbours:
            batch.begin(1, rows(model)[1][0], None)
            read_in(batch, 1)
        for _ in range(4):
            batch.decode()
        cache = batch.remove(9)
        assert cache is not None
        assert {each.offset for each in cache} == {len(prompt.ids) + 4}
        assert len(batch) == neighbours


def test_rows_with_quantized_caches_share_a_batch(tiny_vision_model: Path) -> None:
    """They join, are paused, and come back beside others, as plain ones do."""
    quantized = LoadedModel("tiny", tiny_vision_model, chunk_s=1e-9, kv_bits=8)
    assert try_batching(quantized.open_batch, quantized.samples()).why == ""
    prompts = {ticket: rows(quantized)[ticket][0] for ticket in (1, 2)}
    batch = open_batch(quantized)
    for ticket, prompt in prompts.items():
        batch.begin(ticket, prompt, None)
        read_in(batch, ticket)
    got: dict[int, list[int]] = {1: [], 2: []}
    for paused in (2, 2, 1, 1):
        for _ in range(3):
            collect(batch, got)
        assert batch.pause(paused)
        collect(batch, got)
        batch.resume(paused)
    for ticket, prompt in prompts.items():
        expected = alone(quantized, prompt, None, len(got[ticket]))
        assert got[ticket] == expected
    quantized.close()
