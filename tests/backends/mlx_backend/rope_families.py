"""Tiny models with random weights of families that keep positions inside the language model."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from backends.mlx_backend.batch import Batch
from backends.mlx_backend.embeddings import embed, resumable
from backends.mlx_backend.prefill import PrefillPace
from backends.mlx_backend.prompt import Prompt

_VOCABULARY = 64
_IMAGE, _VIDEO, _START, _END = 60, 61, 62, 63
_TOKENS = {
    "image_token_id": _IMAGE,
    "im_patch_id": _IMAGE,
    "video_token_id": _VIDEO,
    "vision_start_token_id": _START,
    "image_start_token_id": _START,
    "vision_end_token_id": _END,
    "image_end_token_id": _END,
}
# What some have besides the configurations of their parts.
_SIZES = {"pixel_hidden_size": 64, "hidden_size": 64}
_TEXT = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "head_dim": 32,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "use_bias": False,
}
_VISION = {
    "depth": 1,
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "embed_dim": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 56,
    "out_hidden_size": 64,
}
_ROPE = {"rope_type": "default", "type": "default", "mrope_section": [8, 4, 4]}
# By the name of their package in mlx-vlm: what is special in the text's configuration, and the
# form of a patch.
_FAMILIES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "glm4v": (
        {"rope_scaling": {**_ROPE, "mrope_section": [4, 2, 2]}, "partial_rotary_factor": 0.5},
        (3 * 2 * 14 * 14,),
    ),
    "glm_ocr": (
        {"rope_parameters": {**_ROPE, "partial_rotary_factor": 1.0, "rope_theta": 10000.0}},
        (3 * 2 * 14 * 14,),
    ),
    "ernie4_5_moe_vl": ({"mrope_section": [6, 6, 4]}, (3 * 14 * 14,)),
    # The width is written into its code.
    "paddleocr_vl": ({"rope_scaling": _ROPE, "hidden_size": 1024}, (3, 14, 14)),
}
FAMILIES = tuple(_FAMILIES)


class Family:
    """A tiny model of a family, and prompts for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        text, self._patch = _FAMILIES[name]
        package = import_module(f"mlx_vlm.models.{name}")
        mx.random.seed(5)
        known = package.ModelConfig.__dataclass_fields__
        config = package.ModelConfig(
            text_config=package.TextConfig.from_dict({**_TEXT, **text, "model_type": name}),
            vision_config=package.VisionConfig.from_dict({**_VISION, "model_type": name}),
            model_type=name,
            **{key: value for key, value in {**_TOKENS, **_SIZES}.items() if key in known},
        )
        self.model = package.Model(config)
        # Larger than a training begins with, or where a token stands would hardly matter.
        self.model.update(tree_map(lambda weights: 3 * weights, self.model.parameters()))

    def open_batch(self) -> Batch:
        """Return a batch without rows that reads prompts in the smallest chunks."""
        return Batch(self.model.language_model, pace=PrefillPace(1e-9), kv_bits=None)

    def text(self, count: int) -> Prompt:
        """Return a prompt of so many tokens."""
        ids = [2 + (7 * index) % 50 for index in range(count)]
        return Prompt(ids, embed(self.model, mx.array([ids]), None, {}))

    def picture(self, sides: Sequence[int], begin: int = 5, end: int = 6) -> Prompt:
        """Return a prompt with a picture of so many patches high and wide between other tokens."""
        height, width = sides
        places = [_IMAGE] * (height * width // 4)
        ids = [
            *range(2, 2 + begin),
            _START,
            *places,
            _END,
            *(20 + index % 30 for index in range(end)),
        ]
        patches = mx.random.normal((height * width, *self._patch), key=mx.random.key(height))
        if len(self._patch) > 1:
            patches = patches[None]
        options = {"image_grid_thw": mx.array([[1, height, width]])}
        embeddings = embed(self.model, mx.array([ids]), patches, options)
        whole = not resumable(self.model.language_model, embeddings)
        return Prompt(ids, embeddings, whole=whole)
