"""A prompt on its way into a cache, in chunks that are sized by the measured speed."""

import time
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import _chunked_prefill_enabled

from backends.mlx_backend.embeddings import cut_span
from backends.mlx_backend.prompt import Prompt

_SMALLEST = 16
_LARGEST = 2048
# Contexts below this many tokens are alike.
_SHORT = 512


class PrefillPace:
    """How many tokens of a prompt fit into one step, from the measured speed.

    A token costs the more, the longer the context is that it looks back at, so the speed is known
    for each doubling of the context. Powers of two, so that few shapes are ever compiled; at most
    four times the last chunk, so that one lucky measurement cannot make a step of seconds.
    """

    def __init__(self, chunk_s: float) -> None:
        self._chunk_s = chunk_s
        # By how often the context has doubled.
        self._fitting: dict[int, int] = {}

    def tokens(self, context: int) -> int:
        """Return how many tokens may follow after so many."""
        level = _level(context)
        if level in self._fitting:
            return self._fitting[level]
        # What fits after more tokens fits here; of what fits after less, a half each time that the
        # context doubles: so it would be were attention all that a token costs.
        sure = (size >> max(0, level - known) for known, size in self._fitting.items())
        return max(_SMALLEST, max(sure, default=0))

    def observe(self, tokens: int, context: int, elapsed_s: float) -> None:
        """Take note of how long a chunk took after so many tokens."""
        if tokens < _SMALLEST:
            # The rest of a prompt costs mostly overhead and says nothing about speed.
            return
        level = _level(context)
        fitting = max(1, int(tokens * self._chunk_s / max(elapsed_s, 1e-6)))
        fitting = min(fitting, 4 * max(tokens, self.tokens(context)))
        size = min(_LARGEST, max(_SMALLEST, 1 << (fitting.bit_length() - 1)))
        self._fitting[level] = size
        # What has become slower here is no faster after more.
        for longer in filter(level.__lt__, self._fitting):
            self._fitting[longer] = min(self._fitting[longer], size)


def _level(context: int) -> int:
    return (context // _SHORT).bit_length()


class Prefill:
    """One prompt and its cache, which may hold the first `done` tokens of it already.

    The last token is fed by itself, because most models compute logits for all that they are fed.
    """

    def __init__(
        self, language_model: Any, prompt: Prompt, cache: list[Any], pace: PrefillPace, done: int
    ) -> None:
        self._model = language_model
        self.prompt = prompt
        self._pace = pace
        self.cache = cache
        self.done = done
        self._ids = mx.array([prompt.ids])
        self._in_chunks = not prompt.whole and _chunked_prefill_enabled(
            language_model,
            input_ids=self._ids,
            inputs_embeds=prompt.embeddings.get("inputs_embeds"),
            prompt_cache=cache,
            prefill_kwargs=prompt.embeddings,
        )

    def __repr__(self) -> str:
        return f"<Prefill {self.done}/{len(self.prompt.ids)}>"

    def step(self) -> mx.array | None:
        """Feed one chunk and wait for it; return the last logits (1, V) once the prompt is in."""
        last = len(self.prompt.ids) - 1
        chunk = min(self._pace.tokens(self.done), last - self.done) if self._in_chunks else 0
        if chunk > 0:
            begun, context = time.perf_counter(), self.done
            self._feed(self.done + chunk, n_to_process=chunk)
            mx.eval([cache.state for cache in self.cache])
            self._pace.observe(chunk, context, time.perf_counter() - begun)
            if self.done < last:
                return None
        logits: mx.array = self._feed(last + 1)[:, -1, :]
        mx.eval(logits, [cache.state for cache in self.cache])
        return logits

    def _feed(self, stop: int, **options: Any) -> mx.array:
        start, self.done = self.done, stop
        pieces = cut_span(self.prompt.embeddings, start, stop, len(self.prompt.ids))
        output = self._model(self._ids[:, start:stop], cache=self.cache, **pieces, **options)
        logits: mx.array = getattr(output, "logits", output)
        return logits
