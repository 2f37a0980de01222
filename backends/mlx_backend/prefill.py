"""Prompts in chunks: how large a chunk is, and what a chunk of an image prompt takes along."""

import sys
import time
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_vlm.generate.ar import PromptProcessingBatch

_SMALLEST = 16
_LARGEST = 2048


class PrefillPace:
    """How many tokens of a prompt fit into one step, from the measured speed.

    Powers of two, so that few shapes are ever compiled; at most four times the last chunk, so
    that one lucky measurement cannot make a step of seconds.
    """

    def __init__(self, chunk_s: float) -> None:
        self._chunk_s = chunk_s
        self.tokens = _SMALLEST

    def observe(self, tokens: int, elapsed_s: float) -> None:
        """Take note of how long a chunk took."""
        if tokens < _SMALLEST:
            # The rest of a prompt costs mostly overhead and says nothing about speed.
            return
        fitting = max(1, int(tokens * self._chunk_s / max(elapsed_s, 1e-6)))
        fitting = min(fitting, 4 * self.tokens)
        self.tokens = min(_LARGEST, max(_SMALLEST, 1 << (fitting.bit_length() - 1)))


class PacedPrompt(PromptProcessingBatch):  # type: ignore[misc]  # mlx-vlm ships no types
    """mlx-vlm's prompt batch with chunks of measured size and right for images in any chunk.

    mlx-vlm 0.7.10 passes the features that Qwen3-VL adds to its first layers ("deepstack") whole
    to each chunk; from the second chunk on they would land on the wrong tokens.
    """

    pace: PrefillPace
    prefill_step_size: int | None

    def prompt_step(self) -> int:
        """Feed one chunk and wait until it is computed; return its tokens."""
        if self.prefill_step_size is not None:  # None: this model must not be fed in chunks
            self.prefill_step_size = self.pace.tokens
        begun = time.perf_counter()
        tokens = int(super().prompt_step())
        mx.eval([cache.state for cache in self.prompt_cache])
        self.pace.observe(tokens, time.perf_counter() - begun)
        self._drop_features()
        return tokens

    def _drop_features(self) -> None:
        # The model takes as many features from the front as the chunk's mask counts. The mask has
        # been cut to the rest of the prompt; so many features are still needed.
        features = self._prompt_kwargs.get("deepstack_visual_embeds")
        if features is None:
            return
        left = _count(self._prompt_kwargs["visual_pos_masks"])
        self._prompt_kwargs["deepstack_visual_embeds"] = [
            layer[layer.shape[0] - left :] for layer in features
        ]


def _count(mask: mx.array) -> int:
    return int(np.array(mask).sum())


def use_pace(pace: PrefillPace) -> None:
    """Have batch generators take their prompts in at this pace.

    mlx-vlm looks the class of its prompt batch up in this module for that purpose; there is one
    generator at a time.
    """
    # Not `import mlx_vlm.generate`: the package has a function of that name.
    module: Any = sys.modules["mlx_vlm.generate"]
    module.PromptProcessingBatch = type("PacedPrompt", (PacedPrompt,), {"pace": pace})
