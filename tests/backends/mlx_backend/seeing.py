"""The tiny vision model without a backend around it: tokens, embeddings, logits."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_vlm.models.cache import make_prompt_cache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load, prepare_inputs
from PIL import Image

from tests.harness.colours import COLOURS


def pictures(count: int) -> list[Image.Image]:
    """Return pictures of different colours and shapes."""
    rng = random.Random(count)  # noqa: S311 a seed that repeats is the point
    colours = list(COLOURS.values())
    return [
        Image.new("RGB", (rng.randint(20, 300), rng.randint(20, 300)), colours[n % len(colours)])
        for n in range(count)
    ]


class Seeing:
    """The tiny vision model, its processor, and what a prompt makes of them."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = load(str(folder))

    def inputs(self, shown: Sequence[Image.Image], text: str = "colour?") -> dict[str, Any]:
        """Return the tokens and the processed pictures of a prompt of one turn."""
        parts = [{"type": "image"} for _ in shown]
        content = [*parts, {"type": "text", "text": text}]
        return self._processed([{"role": "user", "content": content}], shown)

    def conversation(self, parts: Sequence[str | Image.Image]) -> dict[str, Any]:
        """Return those of a conversation in which each part is a turn."""
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        shown = [part for part in parts if not isinstance(part, str)]
        return self._processed([{"role": "user", "content": [part]} for part in content], shown)

    def _processed(self, messages: list[Any], shown: Sequence[Image.Image]) -> dict[str, Any]:
        prompt = apply_chat_template(
            self.processor, self.model.config, messages, num_images=len(shown)
        )
        inputs: dict[str, Any] = prepare_inputs(
            self.processor,
            images=list(shown) or None,
            prompts=prompt,
            image_token_index=self.model.config.image_token_index,
            add_special_tokens=False,
        )
        return inputs

    def embeddings(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return what the model makes of them before its first layer."""
        features = self.model.get_input_embeddings(
            inputs["input_ids"],
            inputs.get("pixel_values"),
            mask=inputs.get("attention_mask"),
            image_grid_thw=inputs.get("image_grid_thw"),
        )
        return {name: value for name, value in features.to_dict().items() if value is not None}

    def answer(self, inputs: dict[str, Any], embeddings: dict[str, Any]) -> list[int]:
        """Return the likeliest six tokens after a prompt."""
        language: Any = self.model.language_model
        cache, chosen = make_prompt_cache(language), []
        logits = language(inputs["input_ids"], cache=cache, **embeddings).logits
        for _ in range(6):
            chosen.append(int(logits[0, -1].argmax()))
            token = mx.array([chosen[-1:]])
            logits = language(token, cache=cache, rope_deltas=embeddings["rope_deltas"]).logits
        return chosen
