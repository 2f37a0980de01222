from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.sampling import (  # noqa: E402  imports MLX
    RowSampler,
    SamplingPlan,
    position_key,
    restrict,
)

pytestmark = pytest.mark.mlx

LOGITS = [0.0, 3.0, 1.0, 2.0]


def plan(**fields: Any) -> SamplingPlan:
    """Return a plan that restricts nothing, but for these fields."""
    values: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": 7,
        **fields,
    }
    return SamplingPlan(**values)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 9}, [0, 1, 2, 3]),
        # The probabilities are 0.03, 0.64, 0.09 and 0.24.
        ({"top_p": 0.5}, [1]),
        ({"top_p": 0.7}, [1, 3]),
        ({"top_p": 0.9}, [1, 2, 3]),
        ({"top_p": 1e-9}, [1]),
        # None in a float32.
        ({"top_p": 1e-300}, [1]),
        ({"min_p": 0.3}, [1, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 3, "top_p": 0.7}, [1, 3]),
    ],
)
def test_restrictions(fields: dict[str, float], kept: list[int]) -> None:
    """Each filter keeps exactly the tokens that its definition names."""
    restricted = np.array(restrict(mx.array([LOGITS]), plan(**fields)))[0]
    assert np.flatnonzero(np.isfinite(restricted)).tolist() == kept


def draw(sampler: RowSampler, count: int, logits: list[float] = LOGITS) -> list[int]:
    """Draw tokens the way that the batch does."""
    row = mx.array([logits])
    tokens: list[Any] = [sampler.first(row).item()]
    for _ in range(count - 1):
        tokens.append(sampler.next(tokens[-1], row).item())
    return tokens


def test_a_row_that_is_resumed_goes_on_as_it_would_have() -> None:
    """What is drawn at a position depends on seed and position, not on what came before."""
    whole = draw(RowSampler(plan()), 20)
    assert draw(RowSampler(plan(), tokens=whole[:12]), 8) == whole[12:]
    assert draw(RowSampler(plan(seed=8)), 20) != whole


@pytest.mark.parametrize("temperature", [0, 1e-308, 1e-40, 1e-7, 1e-5])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    """However cold it is, the likeliest token comes, with logits of any size."""
    sampler = RowSampler(plan(temperature=temperature))
    assert draw(sampler, 5, [-500.0, 500.0, 499.9, 0.0]) == [1] * 5


@pytest.mark.parametrize(
    ("fields", "prompt", "expected"),
    [
        # Each token costs what it was drawn before.
        ({"frequency_penalty": 0.6}, (), [1, 1, 3, 1, 3, 1, 2, 3]),
        # Once, however often it was drawn.
        ({"presence_penalty": 1.5}, (), [1, 3, 1, 1, 1]),
        ({"presence_penalty": -2.0}, (), [1, 1, 1]),
        # What the prompt holds counts too; positive logits are divided.
        ({"repetition_penalty": 2.0}, (1,), [3, 1, 1, 1]),
        ({"logit_bias": {0: 100.0}}, (), [0, 0]),
        ({"logit_bias": {1: -100.0}}, (), [3, 3]),
        ({"logit_bias": {1: -0.9, 3: 0.2}}, (), [3, 3]),
    ],
)
def test_penalties_and_biases(
    fields: dict[str, Any], prompt: tuple[int, ...], expected: list[int]
) -> None:
    """Each is what OpenAI's and Hugging Face's documents define, counted from the first token."""
    sampler = RowSampler(plan(temperature=0.0, **fields), prompt)
    assert draw(sampler, len(expected)) == expected


def test_a_resumed_row_is_penalized_for_its_earlier_tokens() -> None:
    """Counting goes on where it was."""
    fields = {"temperature": 0.0, "frequency_penalty": 0.6, "repetition_penalty": 1.3}
    whole = draw(RowSampler(plan(**fields)), 12)
    assert len(set(whole)) > 2
    assert draw(RowSampler(plan(**fields), tokens=whole[:5]), 7) == whole[5:]


def test_only_a_row_that_must_be_told_its_tokens_asks_for_them() -> None:
    """The others are drawn while the token before is still being computed."""
    assert not RowSampler(plan()).needs_tokens
    assert RowSampler(plan(presence_penalty=0.1)).needs_tokens
    assert plan(temperature=0.0).plain
    for field in ({"logit_bias": {1: 1.0}}, {"top_logprobs": 0}, {"frequency_penalty": 0.1}):
        assert not plan(temperature=0.0, **field).plain


def test_log_probabilities_are_the_models_own() -> None:
    """They are told for each token in turn, before temperature, bias and penalties."""
    fields = {"temperature": 0.0, "logit_bias": {0: 50.0}, "top_logprobs": 2}
    sampler = RowSampler(plan(**fields))
    assert sampler.chances() is None
    assert draw(sampler, 2) == [0, 0]
    logs = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum())
    for _ in range(2):
        told = sampler.chances()
        assert told is not None
        assert told.token == 0
        assert told.logprob == pytest.approx(logs[0], abs=1e-5)
        assert [token for token, _ in told.top] == [1, 3]
        assert [chance for _, chance in told.top] == pytest.approx([logs[1], logs[3]], abs=1e-5)
    assert sampler.chances() is None


class Evens:
    """A mask that allows even tokens only, and keeps what it was told."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def apply(self, logits: Any) -> Any:
        return mx.where(mx.arange(logits.shape[-1]) % 2 == 0, logits, -mx.inf)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_mask_has_the_last_word_and_hears_of_each_token_once() -> None:
    """Neither temperature nor bias brings back what a mask rules out."""
    mask = Evens()
    sampler = RowSampler(plan(temperature=2.0, logit_bias={1: 100.0}), mask=mask)
    tokens = draw(sampler, 30)
    assert set(tokens) == {0, 2}
    assert mask.accepted == tokens[:-1]
    again = Evens()
    RowSampler(plan(), mask=again, tokens=tokens)
    assert again.accepted == tokens


def test_draws_follow_the_temperature() -> None:
    """A low temperature draws the likeliest token nearly always, a high one does not."""
    cold = draw(RowSampler(plan(temperature=0.1)), 50)
    hot = draw(RowSampler(plan(temperature=2.0)), 50)
    assert cold.count(1) == 50
    assert len(set(hot)) == 4


def test_keys_differ_by_position_and_seed() -> None:
    """No two positions of a seed, nor two seeds at a position, share a key."""
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (11, 1), (1, 11), (-1, 0), (2**62, 5)]
    keys = {np.array(position_key(*pair)).tobytes() for pair in pairs}
    assert len(keys) == len(pairs)
