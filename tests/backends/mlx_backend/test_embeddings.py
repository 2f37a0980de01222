"""Where the tokens of a prompt stand is told with it, also with a part of it."""

from functools import partial

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.batch import Batch  # noqa: E402  imports MLX
from backends.mlx_backend.embeddings import cut_span, resumable  # noqa: E402  likewise
from backends.mlx_backend.prompt import Prompt  # noqa: E402  likewise
from backends.mlx_backend.self_test import try_batching  # noqa: E402  likewise
from tests.backends.mlx_backend.rope_families import FAMILIES, Family  # noqa: E402  likewise

pytestmark = pytest.mark.mlx

TOKENS = 8


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Return a tiny model of each family."""
    return Family(request.param)


def test_who_reads_pictures_whole(family: Family) -> None:
    """Only where the language model works positions out from all that it is fed."""
    assert family.picture((8, 12)).whole is (family.name == "ernie4_5_moe_vl")


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
    batch, prompt = family.open_batch(), make()
    batch.begin(0, prompt, None)
    steps = 1
    while batch.prefill(0) is None:
        steps += 1
        batch.begin(1, family.picture((8, 8), begin=40), None)
        batch.prefill(1)
        batch.remove(1)
    assert (steps == 1) if prompt.whole else (steps > 2)
    family.picture((16, 8), end=200)
    assert answer(batch, 0) == expected


def test_what_looks_at_the_whole_prompt_is_not_resumable() -> None:
    """Masks over the whole prompt, and positions that a model works out itself, need all of it."""

    class Plain:
        pass

    class Positioned:
        def get_rope_index(self) -> None: ...

    assert resumable(Plain(), {"inputs_embeds": mx.zeros((1, 3, 4))})
    assert resumable(Plain(), {"attention_mask_4d": None})
    assert not resumable(Plain(), {"attention_mask_4d": mx.zeros((1, 1, 3, 3))})
    assert not resumable(Positioned(), {"inputs_embeds": mx.zeros((1, 3, 4))})
    assert resumable(Positioned(), {"position_ids": mx.zeros((3, 1, 3))})


def test_what_has_no_column_a_token_stays() -> None:
    """Only what is aligned with the prompt is cut, by name and by length."""
    grid = mx.array([[1, 4, 20]])
    cut = cut_span(
        {
            "inputs_embeds": mx.zeros((1, 20, 3)),
            "position_ids": mx.arange(20)[None],
            "token_type_ids": mx.zeros((1, 20)),
            "per_layer_inputs": mx.zeros((1, 20, 2, 5)),
            "attention_mask": mx.zeros((1, 7)),
            "rope_deltas": mx.array([[4]]),
            "image_grid_thw": grid,
            "pos_hw": None,
            "mm_token_type_ids": mx.zeros((1, 7)),
        },
        5,
        9,
        20,
    )
    shapes = {name: value.shape for name, value in cut.items() if value is not None}
    assert shapes == {
        "inputs_embeds": (1, 4, 3),
        "position_ids": (1, 4),
        "token_type_ids": (1, 4),
        "per_layer_inputs": (1, 4, 2, 5),
        "attention_mask": (1, 7),
        "mm_token_type_ids": (1, 7),
        "rope_deltas": (1, 1),
        "image_grid_thw": (1, 3),
    }
    assert cut["position_ids"].tolist() == [[5, 6, 7, 8]]
    assert cut["image_grid_thw"] is grid


def test_deeper_features_go_with_their_tokens() -> None:
    """Of features that have a row a visual token, each span takes the rows of its own."""
    mask = mx.array([[token in {2, 3, 4, 7, 8} for token in range(10)]])
    layers = [mx.arange(5)[:, None] + 10 * layer for layer in range(2)]
    prompt = {"visual_pos_masks": mask, "deepstack_visual_embeds": layers}
    expected = {(0, 2): [], (0, 4): [0, 1], (3, 8): [1, 2, 3], (5, 7): [], (8, 10): [4]}
    for (start, stop), rows in expected.items():
        cut = cut_span(prompt, start, stop, 10)
        assert cut["visual_pos_masks"].tolist() == [mask[0, start:stop].tolist()]
        for index, layer in enumerate(cut["deepstack_visual_embeds"]):
            assert layer[:, 0].tolist() == [row + 10 * index for row in rows]
    rest = cut_span(prompt, 3, 10, 10)
    assert cut_span(rest, 1, 5, 7)["deepstack_visual_embeds"][0][:, 0].tolist() == [2, 3]
