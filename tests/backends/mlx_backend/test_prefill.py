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


def test_chunks_grow_to_what_fits_and_shrink_at_once() -> None:
    """A chunk is the power of two that the time allows, at most four times the last one."""
    pace = PrefillPace(0.1)
    assert pace.tokens == 16
    sizes = []
    for _ in range(5):
        pace.observe(pace.tokens, pace.tokens / 10_000)
        sizes.append(pace.tokens)
    assert sizes == [64, 256, 512, 512, 512]
    pace.observe(512, 0.4)
    assert pace.tokens == 128
    pace.observe(128, 60.0)
    assert pace.tokens == 16


def test_the_rest_of_a_prompt_says_nothing_about_speed() -> None:
    """A last chunk of few tokens does not change the size."""
    pace = PrefillPace(0.1)
    pace.observe(3, 5.0)
    assert pace.tokens == 16


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
    pace = PrefillPace(1e-9)
    pace.tokens = chunk
    prefill = Prefill(text, prompt, make_prompt_cache(text), pace, 0)
    steps = 1
    while (logits := prefill.step()) is None:
        steps += 1
        pace.tokens = chunk
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
