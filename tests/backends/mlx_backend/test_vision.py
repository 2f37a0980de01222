from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from mlx.utils import tree_flatten  # noqa: E402  imports MLX
from mlx_vlm.models import gemma3, qwen2_5_vl, qwen2_vl  # noqa: E402  likewise

from backends.mlx_backend.images import picture_hash  # noqa: E402  follows them
from backends.mlx_backend.vision import PromptPictures, VisionEncoder  # noqa: E402  likewise
from tests.backends.mlx_backend.seeing import Seeing, pictures  # noqa: E402  likewise
from tests.harness.colours import COLOURS  # noqa: E402  likewise

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def seeing(tiny_vision_model: Path) -> Seeing:
    return Seeing(tiny_vision_model)


def started(
    encoder: VisionEncoder, inputs: dict[str, Any], shown: Sequence[Image.Image]
) -> PromptPictures:
    hashes = [picture_hash(picture) for picture in shown]
    return encoder.start(inputs["pixel_values"], inputs["image_grid_thw"], hashes)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two prompts' embeddings are equal, those for deeper layers included."""
    flat, reference = dict(tree_flatten(one)), dict(tree_flatten(other))
    assert flat.keys() == reference.keys()
    for name, value in flat.items():
        assert mx.allclose(value, reference[name], atol=1e-5).item(), name


@pytest.mark.parametrize("count", [1, 2, 8])
def test_one_by_one_equals_all_at_once(seeing: Seeing, count: int) -> None:
    """Pictures encoded in steps of their own give the embeddings and the answer of one call."""
    shown = pictures(count)
    inputs = seeing.inputs(shown)
    whole = seeing.embeddings(inputs)
    encoder = VisionEncoder(seeing.model)
    waiting = started(encoder, inputs, shown)
    for left in range(count, 0, -1):
        assert (waiting.left, encoder.status.encoded) == (left, count - left)
        waiting.encode_next()
    with waiting.answering():
        apart = seeing.embeddings(inputs)
    assert encoder.status.encoded == count
    assert_same(apart, whole)
    assert seeing.answer(inputs, apart) == seeing.answer(inputs, whole)


def test_what_is_not_encoded_in_time_is_encoded_then(seeing: Seeing) -> None:
    """Whoever asks for the embeddings at once gets them, in as many steps."""
    shown = pictures(2)
    inputs = seeing.inputs(shown)
    encoder = VisionEncoder(seeing.model)
    with started(encoder, inputs, shown).answering():
        apart = seeing.embeddings(inputs)
    assert_same(apart, seeing.embeddings(inputs))
    assert encoder.status.encoded == 2
    assert 0 < encoder.status.worst_encode_s < 60


def test_a_picture_is_encoded_once(seeing: Seeing) -> None:
    """Another prompt with pictures seen before, in another order, encodes only the new one."""
    encoder = VisionEncoder(seeing.model)
    first, second, third = pictures(3)
    with started(encoder, seeing.inputs([first, second]), [first, second]).answering():
        pass
    shown = [second, third, first, second]
    inputs = seeing.inputs(shown, "Describe the image.")
    waiting = started(encoder, inputs, shown)
    assert waiting.left == 1
    with waiting.answering():
        recalled = seeing.embeddings(inputs)
    assert_same(recalled, seeing.embeddings(inputs))
    assert (encoder.status.encoded, encoder.status.recalled) == (3, 2)
    assert encoder.status.pictures == 3


def test_the_same_picture_twice_is_one_step(seeing: Seeing) -> None:
    """Within one prompt, too, a picture that is repeated is encoded once."""
    shown = pictures(1) * 3
    inputs = seeing.inputs(shown)
    waiting = started(VisionEncoder(seeing.model), inputs, shown)
    assert waiting.left == 1
    with waiting.answering():
        once = seeing.embeddings(inputs)
    assert_same(once, seeing.embeddings(inputs))


def test_prompts_that_wait_side_by_side_share_a_picture(seeing: Seeing) -> None:
    """What one prompt encodes is there for another that had begun to wait for it too."""
    shown = pictures(1)
    inputs = seeing.inputs(shown)
    encoder = VisionEncoder(seeing.model)
    one, other = started(encoder, inputs, shown), started(encoder, inputs, shown)
    one.encode_next()
    held = encoder.status.bytes
    other.encode_next()
    assert (one.left, other.left) == (0, 0)
    assert (encoder.status.encoded, encoder.status.recalled) == (1, 1)
    assert encoder.status.bytes == held


def test_the_grid_is_part_of_the_key(seeing: Seeing) -> None:
    """The same picture cut into another grid of patches has other features."""
    encoder = VisionEncoder(seeing.model)
    narrow, wide = Image.new("RGB", (32, 64)), Image.new("RGB", (64, 32))
    for picture in (narrow, wide):
        inputs = seeing.inputs([picture])
        waiting = encoder.start(inputs["pixel_values"], inputs["image_grid_thw"], [b"same"])
        assert waiting.left == 1
        waiting.encode_next()


def test_memory_is_bounded_and_the_longest_unused_forgotten(seeing: Seeing) -> None:
    """Features never take more than was allowed; what was recalled last stays."""
    shown = [Image.new("RGB", (64, 64), colour) for colour in COLOURS.values()]
    room = VisionEncoder(seeing.model)
    started(room, seeing.inputs(shown[:1]), shown[:1]).encode_next()
    one = room.status.bytes
    assert one == 2 * 4 * 64 * 4  # the features and one deeper layer of four tokens in float32
    encoder = VisionEncoder(seeing.model, max_bytes=2 * one)

    def left(picture: Image.Image) -> int:
        waiting = started(encoder, seeing.inputs([picture]), [picture])
        return waiting.left

    for picture in shown[:2]:
        started(encoder, seeing.inputs([picture]), [picture]).encode_next()
    assert left(shown[0]) == 0
    started(encoder, seeing.inputs(shown[2:3]), shown[2:3]).encode_next()
    assert encoder.status.bytes == 2 * one
    assert [left(picture) for picture in shown[:3]] == [0, 1, 0]
    assert f"2 pictures in {2 * one}" in repr(encoder)


def test_a_picture_larger_than_the_memory_drives_nothing_out(seeing: Seeing) -> None:
    """What cannot be kept at all leaves what is kept alone."""
    small, large = Image.new("RGB", (32, 32)), Image.new("RGB", (128, 128))
    encoder = VisionEncoder(seeing.model, max_bytes=4096)
    for picture in (small, large):
        started(encoder, seeing.inputs([picture]), [picture]).encode_next()
    assert encoder.status.pictures == 1
    assert started(encoder, seeing.inputs([small]), [small]).left == 0


def test_a_prompt_with_more_than_the_memory_is_whole(seeing: Seeing) -> None:
    """A prompt holds its own features: what is forgotten meanwhile is not missing."""
    shown = pictures(4)
    inputs = seeing.inputs(shown)
    encoder = VisionEncoder(seeing.model, max_bytes=1)
    with started(encoder, inputs, shown).answering():
        apart = seeing.embeddings(inputs)
    assert_same(apart, seeing.embeddings(inputs))
    assert (encoder.status.encoded, encoder.status.bytes) == (4, 0)


def test_skipped_pictures_are_not_encoded(seeing: Seeing) -> None:
    """What a prefix cache answers for is left out, and what follows it is as ever."""
    encoder = VisionEncoder(seeing.model, max_bytes=1)
    first, second, third = pictures(3)
    shown = [first, second, third, second]
    inputs = seeing.inputs(shown)
    untaught = started(encoder, inputs, shown)
    untaught.skip(2)
    assert untaught.left == 3  # nobody knows yet what a picture's features look like
    untaught.encode_next()
    waiting = started(encoder, inputs, shown)
    waiting.skip(2)
    assert waiting.left == 2  # the second picture comes again
    with waiting.answering():
        partial = seeing.embeddings(inputs)
    whole = seeing.embeddings(inputs)
    grid = inputs["image_grid_thw"][0].tolist()
    rows = grid[0] * grid[1] * grid[2] // 4
    begin = int(whole["visual_pos_masks"][0].tolist().index(True)) + rows
    assert mx.array_equal(partial["inputs_embeds"][:, begin:], whole["inputs_embeds"][:, begin:])
    for layer, reference in zip(
        partial["deepstack_visual_embeds"], whole["deepstack_visual_embeds"], strict=True
    ):
        assert mx.allclose(layer[rows:], reference[rows:], atol=1e-5).item()
        assert not layer[:rows].any().item()


def test_the_tower_stays_where_it_is(seeing: Seeing) -> None:
    """Parameters, their order and their types are the model's own, during and after."""
    model = seeing.model
    before = [name for name, _ in tree_flatten(model.parameters())]
    tower = model.vision_tower
    shown = pictures(1)
    inputs = seeing.inputs(shown)
    encoder = VisionEncoder(model)
    with started(encoder, inputs, shown).answering():
        assert model.vision_tower is not tower
        assert model.vision_tower.spatial_merge_size == tower.spatial_merge_size
        assert [name for name, _ in tree_flatten(model.parameters())] == before
        model.set_dtype(mx.float16)
        assert tower.patch_embed.proj.weight.dtype == mx.float16
        model.set_dtype(mx.float32)
    assert model.vision_tower is tower
    with pytest.raises(ZeroDivisionError), started(encoder, inputs, shown).answering():
        raise ZeroDivisionError
    assert model.vision_tower is tower
    assert [name for name, _ in tree_flatten(model.parameters())] == before


def test_pixels_have_the_type_of_the_weights(tiny_vision_model: Path) -> None:
    """A tower in half precision gets the pixels in it, as within `get_input_embeddings`."""
    seeing = Seeing(tiny_vision_model)
    seeing.model.set_dtype(mx.float16)
    shown = pictures(1)
    inputs = seeing.inputs(shown)
    with started(VisionEncoder(seeing.model), inputs, shown).answering():
        apart = seeing.embeddings(inputs)
    assert apart["deepstack_visual_embeds"][0].dtype == mx.float16
    assert_same(apart, seeing.embeddings(inputs))


TEXT = {
    "model_type": "text",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "vocab_size": 16,
}
PATCHES = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_patch_size": 4}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "qwen2_vl": (qwen2_vl, {**PATCHES, "embed_dim": 32, "hidden_size": 32}),
    "qwen2_5_vl": (
        qwen2_5_vl,
        {
            **PATCHES,
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_whose_tower_answers_with_features_alone(family: str) -> None:
    """Qwen2-VL and Qwen2.5-VL, which have no deeper features, are encoded one by one too."""
    module, vision = FAMILIES[family]
    mx.random.seed(7)
    config = module.ModelConfig(
        text_config=module.TextConfig(
            **TEXT, rope_scaling={"type": "default", "mrope_section": [4, 2, 2]}
        ),
        vision_config=module.VisionConfig(**vision),
        model_type=family,
        image_token_id=4,
        video_token_id=5,
        vision_start_token_id=3,
    )
    model = module.Model(config)
    grids = mx.array([[1, 4, 6], [1, 8, 4], [1, 2, 2]])
    counts = [6, 8, 1]
    pixels = mx.random.normal((24 + 32 + 4, 3 * 2 * 4 * 4))
    ids = mx.array([[1, *(token for count in counts for token in (3, *[4] * count, 6)), 2]])
    whole = model.get_input_embeddings(ids, pixels, image_grid_thw=grids).to_dict()
    encoder = VisionEncoder(model)
    assert encoder.splits
    waiting = encoder.start(pixels, grids, [b"a", b"b", b"c"])
    assert waiting.left == 3
    with waiting.answering():
        apart = model.get_input_embeddings(ids, pixels, image_grid_thw=grids).to_dict()
    assert mx.allclose(apart["inputs_embeds"], whole["inputs_embeds"], atol=1e-5).item()
    assert encoder.status.encoded == 3


def test_another_kind_of_tower_is_left_alone() -> None:
    """Gemma 3's tower takes whole images and no grids: nothing is split, counted or replaced."""
    config = gemma3.ModelConfig(
        text_config=gemma3.TextConfig(**{**TEXT, "head_dim": 16, "mm_tokens_per_image": 4}),
        vision_config=gemma3.VisionConfig("siglip_vision_model", 1, 32, 32, 2, 8, image_size=32),
        model_type="gemma3",
        hidden_size=32,
        image_token_index=4,
    )
    model = gemma3.Model(config)
    pixels = mx.random.normal((2, 3, 32, 32))
    ids = mx.array([[1, *[4] * 4, 2, *[4] * 4, 6]])
    mask = mx.ones(ids.shape)
    whole = model.get_input_embeddings(ids, pixels, mask=mask).inputs_embeds
    encoder = VisionEncoder(model)
    assert not encoder.splits
    assert "whole" in repr(encoder)
    waiting = encoder.start(pixels, None, [b"a", b"b"])
    assert waiting.left == 0
    waiting.skip(1)
    with waiting.answering():
        assert mx.array_equal(
            model.get_input_embeddings(ids, pixels, mask=mask).inputs_embeds, whole
        )
    assert encoder.status.encoded == 0


@pytest.mark.parametrize(
    ("shape", "grids"),
    [((24, 3, 2, 2), [[1, 4, 6]]), ((25, 96), [[1, 4, 6]]), ((24, 96), None)],
    ids=["no rows", "another number", "no grids"],
)
def test_pictures_of_another_form_are_left_alone(
    seeing: Seeing, shape: tuple[int, ...], grids: list[list[int]] | None
) -> None:
    """Where pixels are not the rows that the grids count, the family is one that is not split."""
    encoder = VisionEncoder(seeing.model)
    assert encoder.splits
    grid_thw = None if grids is None else mx.array(grids)
    assert encoder.start(mx.zeros(shape), grid_thw, [b"a"]).left == 0
    assert not encoder.splits


class Patches:
    """Flattens nothing; only its name is looked at."""

    proj = mx.zeros(1)


class TakesGrids:
    """A tower of the right form."""

    patch_embed = Patches()

    def __call__(self, pixels: Any, grid_thw: Any, *, output_hidden_states: bool = False) -> Any:
        raise NotImplementedError


class TakesShapes(TakesGrids):
    """A tower that wants to know something else."""

    def __call__(  # type: ignore[override]  # another form is the point
        self, pixels: Any, spatial_shapes: Any, grid_thw: Any
    ) -> Any:
        raise NotImplementedError


class HasOtherPatches(TakesGrids):
    """A tower whose weights are elsewhere, so that nobody knows their type."""

    patch_embed = None  # type: ignore[assignment]  # likewise


@pytest.mark.parametrize(
    ("tower", "splits"),
    [(TakesGrids(), True), (TakesShapes(), False), (HasOtherPatches(), False), (None, False)],
)
def test_the_form_of_the_tower_decides(tower: Any, splits: bool) -> None:
    """A tower is asked for one picture only if it takes (patches, grid_thw)."""

    class Model:
        vision_tower = tower

    assert VisionEncoder(Model()).splits is splits


def test_a_model_without_a_tower_is_left_alone() -> None:
    """A model that sees nothing has nothing to encode."""
    assert not VisionEncoder(object()).splits


def test_a_step_is_over_when_the_features_are_there(seeing: Seeing) -> None:
    """Encoding is waited for, so that its time is its own and nothing is left to a later step."""
    shown = [Image.new("RGB", (128, 128))]
    inputs = seeing.inputs(shown)
    mx.eval(list(inputs.values()))
    encoder = VisionEncoder(seeing.model)
    waiting = started(encoder, inputs, shown)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    waiting.encode_next()
    # The peak, because what other tests left may be freed meanwhile.
    assert mx.get_peak_memory() - before >= encoder.status.bytes == 2 * 16 * 64 * 4
