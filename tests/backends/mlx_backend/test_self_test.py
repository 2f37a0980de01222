"""What the self-test takes for a disturbed row, and what for a rounding."""

from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.self_test import difference  # noqa: E402  imports MLX

pytestmark = pytest.mark.mlx

VOCABULARY = 50_000
WIDTH = 256


def log_probabilities(hidden: Any) -> Any:
    """Return what a model of 16 bits makes of hidden states, its logits within 30 of 0."""
    head = mx.random.normal((WIDTH, VOCABULARY), key=mx.random.key(1)) * 0.4
    logits = (hidden.astype(mx.bfloat16).astype(mx.float32) @ head).astype(mx.bfloat16)
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def test_a_rounding_is_no_disturbance() -> None:
    """Sums in another order move 16-bit logits by more than the tolerance, the unlikely ones."""
    hidden = mx.random.normal((4, WIDTH), key=mx.random.key(2))
    noise = mx.random.normal(hidden.shape, key=mx.random.key(3)) * 2**-10
    alone, together = log_probabilities(hidden), log_probabilities(hidden * (1 + noise))
    assert mx.max(mx.abs(alone - together)).item() > 0.1
    assert difference(alone, together)[0] <= 0.01


def test_another_rows_state_is_a_disturbance() -> None:
    """Rows that are swapped, and one that sees a tenth of another, are found."""
    hidden = mx.random.normal((4, WIDTH), key=mx.random.key(2))
    alone = log_probabilities(hidden)
    gap, equal = difference(alone, log_probabilities(hidden[::-1]))
    assert gap > 1
    assert equal < 0.99
    mixed = 0.9 * hidden + 0.1 * hidden[::-1]
    assert difference(alone, log_probabilities(mixed))[0] > 0.05


def test_a_near_tie_counts_as_equal() -> None:
    """One rounding may decide between two tokens; not between two that are further apart."""
    alone = mx.log(mx.array([[0.48, 0.46, 0.06], [0.60, 0.34, 0.06]]))
    together = mx.log(mx.array([[0.46, 0.48, 0.06], [0.34, 0.60, 0.06]]))
    assert difference(alone, together)[1] == 0.5


def test_what_cannot_come_is_no_difference() -> None:
    """Tokens that a model rules out by itself are compared like any others."""
    alone = mx.array([[0.0, -mx.inf]])
    assert difference(alone, alone) == (0, 1)
    assert difference(alone, alone[:, ::-1])[0] == mx.inf
