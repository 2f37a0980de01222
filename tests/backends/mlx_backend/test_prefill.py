import sys
from pathlib import Path
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.generation import Generation, Picture, Sampling  # noqa: E402  imports MLX
from backends.mlx_backend.models import LoadedModel  # noqa: E402  likewise
from backends.mlx_backend.prefill import PrefillPace  # noqa: E402  likewise
from backends.mlx_backend.prompt import prepare  # noqa: E402  likewise
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


class Recorder:
    """A logits processor that keeps the logits after the prompt."""

    def __init__(self) -> None:
        self.logits: Any = None

    def __call__(self, _tokens: Any, logits: Any) -> Any:
        self.logits = logits
        return logits

    def process_last_token(self, _token: int, logits: Any) -> Any:
        return logits


def after_prompt(folder: Path, chunk_s: float, images: list[bytes]) -> tuple[Any, int]:
    """Return the logits after a prompt with images, and the steps that it took."""
    model = LoadedModel("tiny", folder, rows=1, chunk_s=chunk_s)
    parts = [{"type": "image"} for _ in images]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "colour?"}]}]
    pictures = [Picture(data) for data in images]
    wanted = Generation("tiny", folder, messages, pictures, Sampling(), 1, (), Priority.LOW)
    prompt = prepare(model, wanted)
    recorder = Recorder()
    if chunk_s > 1:
        # As large as a chunk gets: the whole prompt at once.
        paced: Any = sys.modules["mlx_vlm.generate"]
        paced.PromptProcessingBatch.pace.tokens = 2048
    model.generator.insert(
        [prompt.ids],
        max_tokens=[1],
        prompt_kwargs=[prompt.embeddings],
        logits_processors=[[recorder]],
    )
    steps = 0
    while model.generator.has_work:
        model.generator.next()
        steps += 1
    logits = mx.array(recorder.logits)
    model.close()
    return logits, steps


@pytest.mark.parametrize("colours", [[BLUE] * 8, [RED, BLUE] * 4])
def test_chunks_of_an_image_prompt_equal_the_whole(
    tiny_vision_model: Path, colours: list[tuple[int, int, int]]
) -> None:
    """Image features land on their own tokens in every chunk, not only in the first."""
    images = [encoded(colour, (200, 200)) for colour in colours]
    chunked, many = after_prompt(tiny_vision_model, 1e-9, images)
    whole, few = after_prompt(tiny_vision_model, 1e9, images)
    assert many > few + 2
    assert mx.allclose(chunked, whole, atol=1e-3).item()
