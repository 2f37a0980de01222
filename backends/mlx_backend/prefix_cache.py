"""What models made of earlier prompts, so that a prompt that begins alike is not read again.

A conversation comes back with each turn a little longer, and many begin with the same instructions.
The keys and values of what they share are taken from here; the rest of the prompt goes on from
there. Everything but the pure functions on ids belongs to the MLX thread.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx_vlm.models.cache import KVCache

Ids = npt.NDArray[np.int64]

# Less is not worth an entry: a chat template's opening words are shared by everybody.
MIN_PREFIX_TOKENS = 16

_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class PrefixStatus:
    """What the cache was asked and what it holds now; tokens count what was not read again."""

    hits: int
    misses: int
    tokens: int
    entries: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """Keys and values (1, heads, tokens, width) of each layer, for these ids."""

    ids: Ids
    layers: tuple[tuple[mx.array, mx.array], ...]

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + sum(keys.nbytes + values.nbytes for keys, values in self.layers)


def supports(cache: Sequence[Any]) -> bool:
    """Whether what a model keeps can be cut at any token: plain keys and values in every layer.

    Windows that rotate and recurrent states cannot.
    """
    return bool(cache) and all(type(layer) is KVCache for layer in cache)


class PrefixCache:
    """Keys and values of prompts and answers, at most `max_bytes`, the longest unused dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: list[_Entry] = []  # the last one was used last
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._tokens = 0

    def __repr__(self) -> str:
        kept = f"{len(self._entries)} entries in {self._bytes} of {self._max_bytes} bytes"
        return f"<PrefixCache {kept}>"

    @property
    def status(self) -> PrefixStatus:
        """The counters of /health."""
        return PrefixStatus(self._hits, self._misses, self._tokens, len(self._entries), self._bytes)

    def put(self, key_ids: Sequence[int] | Ids, cache: Sequence[Any]) -> None:
        """Remember what the layers' caches hold for these ids, as far as both go.

        The caches stay the caller's. Nothing is kept of what `supports` denies, of less than
        MIN_PREFIX_TOKENS, and of what is known already; of what is larger than the whole cache,
        the front is.
        """
        if not supports(cache):
            return
        ids = np.asarray(key_ids, np.int64)
        tokens = min(len(ids), *(layer.offset for layer in cache))
        if tokens:
            tokens = min(tokens, self._max_bytes // _bytes_a_token(cache))
        if tokens < MIN_PREFIX_TOKENS:
            return
        ids = ids[:tokens].copy()
        for index, entry in enumerate(self._entries):
            if _common(entry.ids, ids) == tokens:
                self._touch(index)
                return
        self._drop([entry for entry in self._entries if _common(entry.ids, ids) == len(entry.ids)])
        layers = tuple(
            (
                mx.contiguous(layer.keys[..., :tokens, :]),
                mx.contiguous(layer.values[..., :tokens, :]),
            )
            for layer in cache
        )
        # Computed now, or the whole buffers of the caller would be held until then.
        mx.eval(layers)
        entry = _Entry(ids, layers)
        self._entries.append(entry)
        self._bytes += entry.nbytes
        while self._bytes > self._max_bytes:
            self._drop(self._entries[:1])

    def find(self, key_ids: Sequence[int] | Ids) -> tuple[int, list[KVCache] | None]:
        """Return how many of these ids are known, and caches that hold as many: the caller's own.

        Always leaves one id to be fed, and never stops within a picture. (0, None) where fewer than
        MIN_PREFIX_TOKENS are known.
        """
        ids = np.asarray(key_ids, np.int64)
        known = [_common(entry.ids, ids[:-1]) for entry in self._entries]
        longest = max(range(len(known)), key=known.__getitem__, default=-1)
        tokens = before_picture(ids, known[longest]) if known else 0
        if tokens < MIN_PREFIX_TOKENS:
            self._misses += 1
            return 0, None
        entry = self._touch(longest)
        self._hits += 1
        self._tokens += tokens
        return tokens, [_cache(keys, values, tokens) for keys, values in entry.layers]

    def _touch(self, index: int) -> _Entry:
        entry = self._entries.pop(index)
        self._entries.append(entry)
        return entry

    def _drop(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self._entries.remove(entry)
            self._bytes -= entry.nbytes


def _common(known: Ids, ids: Ids) -> int:
    """Return how many ids two sequences have in common from the front."""
    shorter = min(len(known), len(ids))
    differing = known[:shorter] != ids[:shorter]
    first = int(differing.argmax()) if shorter else 0
    return first if shorter and bool(differing[first]) else shorter


def _bytes_a_token(cache: Sequence[Any]) -> int:
    arrays = [array for layer in cache for array in (layer.keys, layer.values)]
    return sum(int(array.nbytes // array.shape[2]) for array in arrays) + _ID_BYTES


def _cache(keys: mx.array, values: mx.array, tokens: int) -> KVCache:
    cache = KVCache()
    cache.state = (keys[..., :tokens, :], values[..., :tokens, :])
    return cache


def placeholder_runs(ids: Sequence[int] | Ids, image_token_id: int) -> list[int]:
    """Return how long each uninterrupted run of picture placeholders is."""
    marked = np.asarray(ids, np.int64) == image_token_id
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    return [int(length) for length in edges[1::2] - edges[::2]]


def picture_key_ids(
    ids: Sequence[int] | Ids, image_token_id: int, hashes: Sequence[bytes], counts: Sequence[int]
) -> Ids:
    """Return the ids with each picture's placeholders replaced by a number made of its hash.

    `counts` says how many placeholders each picture has. The numbers are negative, as no token
    is: the same picture gives the same key, another one of the same size never does. ValueError
    where the placeholders are not as many as the counts say.
    """
    key_ids = np.array(ids, np.int64)
    marked = key_ids == image_token_id
    if int(marked.sum()) != sum(counts):
        raise ValueError(f"{int(marked.sum())} placeholders for pictures of {list(counts)}")
    numbers = [-1 - (int.from_bytes(digest[:8]) >> 1) for digest in hashes]
    key_ids[marked] = np.repeat(np.array(numbers, np.int64), counts)
    return key_ids


def before_picture(key_ids: Ids, tokens: int) -> int:
    """Return a length of prefix that does not end within a picture: cut to before that picture.

    Of some families the tokens of a picture look at each other in both directions.
    """
    if 0 < tokens < len(key_ids):
        inside = key_ids[tokens]
        while tokens > 0 and inside < 0 and key_ids[tokens - 1] == inside:
            tokens -= 1
    return tokens


def pictures_within(key_ids: Ids, tokens: int, counts: Sequence[int]) -> int:
    """Return how many pictures the first `tokens` ids hold whole."""
    return bisect_right(list(accumulate(counts)), int((key_ids[:tokens] < 0).sum()))
