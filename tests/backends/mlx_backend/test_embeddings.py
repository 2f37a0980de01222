"""Where the tokens of a prompt stand is told with it, whatever the model keeps to itself."""

from functools import partial

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.batch import Batch  # noqa: E402  imports MLX
from backends.mlx_backend.prompt import Prompt  # noqa: E402  likewise
from backends.mlx_backend.self_test import try_batching  # noqa: E402  likewise
from tests.backends.mlx_backend.rope_families import FAMILIES, Family  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

TOKENS = 8


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Return a tiny model of each family."""
    return Family(request.param)


def finish(batch: Batch, ticket: int) -> None:
    """Feed a prompt to its end."""
    while batch.prefill(ticket) is None:
        pass


def answer(batch: Batch, ticket: int) -> list[int]:
    """Return the tokens that a row gets next."""
    return [
        next(drawn.token for drawn in batch.decode() if drawn.ticket == ticket)
        for _ in range(TOKENS)
    ]


def alone(family: Family, prompt: Prompt) -> list[int]:
    """Return what a row gets by itself, its prompt fed in one step."""
    batch = family.open_batch()
    batch.begin(0, Prompt(prompt.ids, prompt.embeddings, whole=True), None)
    finish(batch, 0)
    return answer(batch, 0)


def test_they_pass_the_self_test(family: Family) -> None:
    """Texts and pictures share a batch, are paused and resumed."""
    samples = [
        partial(family.text, 4),
        partial(family.text, 40),
        partial(family.picture, (8, 12)),
        partial(family.picture, (12, 8)),
    ]
    assert try_batching(family.open_batch, samples).why == ""


@pytest.mark.parametrize("mine", ["text", "picture"])
def test_a_prompt_is_read_in_chunks_while_another_begins(family: Family, mine: str) -> None:
    """What the newcomer left inside the model is not taken for the first one's."""
    make = partial(family.text, 60) if mine == "text" else partial(family.picture, (12, 16))
    expected = alone(family, make())
    batch = family.open_batch()
    batch.begin(0, make(), None)
    steps = 1
    while batch.prefill(0) is None:
        steps += 1
        batch.begin(1, family.picture((8, 8), begin=40), None)
        batch.prefill(1)
        batch.remove(1)
    assert steps > 2
    family.picture((16, 8), end=200)
    assert answer(batch, 0) == expected
