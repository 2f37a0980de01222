from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from mlx_vlm.models.cache import make_prompt_cache  # noqa: E402  imports MLX

from backends.mlx_backend.generation import Generation, Picture, Sampling  # noqa: E402  likewise
from backends.mlx_backend.images import DEFAULT_LIMITS, decode_images  # noqa: E402  likewise
from backends.mlx_backend.models import LoadedModel  # noqa: E402  likewise
from backends.mlx_backend.prefill import Prefill, PrefillPace  # noqa: E402  likewise
from backends.mlx_backend.prompt import Reading  # noqa: E402  likewise
from backends.wire import Priority  # noqa: E402  follows them
from tests.backends.mlx_backend.pictures import BLUE, RED, encoded  # noqa: E402  likewise

pytestmark = pytest.mark.mlx


class FixedPace(PrefillPace):
    """Chunks of one size, however long they take."""

    def __init__(self, size: int) -> None:
        super().__init__(1e-9)
        self._size = size

    def tokens(self, context: int) -> int:
        """Return the size."""
        del context
        return self._size


def test_chunks_grow_to_what_fits_and_shrink_at_once() -> None:
    """A chunk is the power of two that the time allows, at most four times the last one."""
    pace = PrefillPace(0.1)
    assert pace.tokens(0) == 16
    sizes = []
    for _ in range(5):
        pace.observe(pace.tokens(0), 0, pace.tokens(0) / 10_000)
        sizes.append(pace.tokens(0))
    assert sizes == [64, 256, 512, 512, 512]
    pace.observe(512, 0, 0.4)
    assert pace.tokens(0) == 128
    pace.observe(128, 0, 60.0)
    assert pace.tokens(0) == 16


def test_the_rest_of_a_prompt_says_nothing_about_speed() -> None:
    """A last chunk of few tokens does not change the size."""
    pace = PrefillPace(0.1)
    pace.observe(3, 0, 5.0)
    assert pace.tokens(0) == 16


def test_a_longer_context_begins_with_smaller_chunks() -> None:
    """A prompt that goes on from a long known prefix does not overshoot with its first chunk."""
    pace = PrefillPace(0.1)
    for _ in range(4):
        pace.observe(pace.tokens(0), 0, pace.tokens(0) / 10_000)
    assert [pace.tokens(at) for at in (0, 511, 512, 1024, 2048, 4096, 1 << 20)] == (
        [512, 512, 256, 128, 64, 32, 16]
    )


def test_the_speed_of_each_context_is_its_own() -> None:
    """What was measured after many tokens holds after few where those are not known, only there."""
    pace = PrefillPace(0.1)
    pace.observe(16, 4096, 0.02)
    assert pace.tokens(4096) == pace.tokens(0) == 64
    pace.observe(64, 0, 0.02)
    assert pace.tokens(0) == 256
    assert pace.tokens(4096) == 64
    assert pace.tokens(2048) == 64
    pace.observe(16, 1024, 0.1)
    assert pace.tokens(1024) == 16


def test_what_has_become_slow_is_slow_after_more_tokens_too() -> None:
    """A machine that is busy with something else is noticed once for all contexts."""
    pace = PrefillPace(0.1)
    pace.observe(64, 4096, 0.02)
    assert pace.tokens(4096) == 256
    pace.observe(64, 0, 0.4)
    assert pace.tokens(4096) == pace.tokens(0) == 16


def after_prompt(folder: Path, chunk: int, images: list[bytes]) -> tuple[Any, int]:
    """Return the logits after a prompt with images, and the steps that it took."""
    model = LoadedModel("tiny", folder, chunk_s=1e-9)
    parts = [{"type": "image"} for _ in images]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "colour?"}]}]
    pictures = [Picture(data) for data in images]
    wanted = Generation("tiny", folder, messages, pictures, Sampling(), 1, (), Priority.LOW)
    images_shown = decode_images(pictures, DEFAULT_LIMITS)
    prompt = Reading(model, wanted, images_shown).prompt()
    text: Any = model.model.language_model
    prefill = Prefill(text, prompt, make_prompt_cache(text), FixedPace(chunk), 0)
    steps = 1
    while (logits := prefill.step()) is None:
        steps += 1
    model.close()
    return logits, steps


@pytest.mark.parametrize("colours", [[BLUE] * 8, [RED, BLUE] * 4])
def test_chunks_of_an_image_prompt_equal_the_whole(
    tiny_vision_model: Path, colours: list[tuple[int, int, int]]
) -> None:
    """Image features land on their own tokens in every chunk, not only in the first."""
    images = [encoded(colour, (200, 200)) for colour in colours]
    chunked, many = after_prompt(tiny_vision_model, 16, images)
    whole, one = after_prompt(tiny_vision_model, 2048, images)
    assert one == 1
    assert many > 3
    assert mx.allclose(chunked, whole, atol=1e-3).item()
