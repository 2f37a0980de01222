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


def plan(**fields: float) -> SamplingPlan:
    """Return a plan that restricts nothing, but for these fields."""
    values = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 7, **fields}
    return SamplingPlan(**values)  # type: ignore[arg-type]  # top_k and seed are whole


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
        ({"min_p": 0.3}, [1, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 3, "top_p": 0.7}, [1, 3]),
    ],
)
def test_restrictions(fields: dict[str, float], kept: list[int]) -> None:
    """Each filter keeps exactly the tokens that its definition names."""
    restricted = np.array(restrict(mx.array([LOGITS]), plan(**fields)))[0]
    assert np.flatnonzero(np.isfinite(restricted)).tolist() == kept


def draw(sampler: RowSampler, count: int) -> list[int]:
    """Draw tokens the way that the batch does."""
    logits = mx.array([LOGITS])
    rows = [sampler(mx.array([1, 2]), logits)]
    rows += [sampler.process_last_token(0, logits) for _ in range(count - 1)]
    return [int(mx.argmax(row).item()) for row in rows]


def test_a_row_that_is_resumed_goes_on_as_it_would_have() -> None:
    """What is drawn at a position depends on seed and position, not on what came before."""
    whole = draw(RowSampler(plan()), 20)
    assert draw(RowSampler(plan(), position=12), 8) == whole[12:]
    assert draw(RowSampler(plan(seed=8)), 20) != whole


def test_one_token_is_left_possible() -> None:
    """The batch's argmax, and its log-probabilities, see one possible token."""
    row = RowSampler(plan())(mx.array([1]), mx.array([LOGITS]))
    assert sorted(np.array(row)[0].tolist()) == [-float("inf")] * 3 + [0.0]


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
