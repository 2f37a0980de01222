"""The rows of one model: prompts being read, rows that decode together, rows that are paused.

Built on mlx-vlm's models and caches. mlx-vlm's own `BatchGenerator` is not used: it takes a decode
step and a chunk of a prompt in one call, cannot take a row out with its cache, has one sampler for
all, and clears MLX's buffers after every chunk.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
from mlx_vlm.generate.ar import PromptProcessingBatch, _extend_cache, _make_cache
from mlx_vlm.models.cache import BatchQuantizedKVCache, QuantizedKVCache, make_prompt_cache

from backends.mlx_backend.prefill import Prefill, PrefillPace
from backends.mlx_backend.prompt import Prompt

# So many values share a scale in a quantized cache; half of it where heads are no multiple of it.
_GROUP = 64


class Sampler(Protocol):
    """Draws the tokens of one row."""

    needs_tokens: bool

    def first(self, logits: mx.array) -> mx.array:
        """Draw from the logits (1, V) after a prompt; returns the token (1,)."""
        ...

    def next(self, token: int | None, logits: mx.array) -> mx.array:
        """Draw from the logits (1, V) after a token, told where `needs_tokens`."""
        ...


class Drawn(NamedTuple):
    """A token that a row has got; `error` instead of it where its sampler failed."""

    ticket: int
    token: int
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Decoding:
    ticket: int
    sampler: Sampler | None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """A row outside a batch: its cache, the token that it has drawn, and its rope offset."""

    row: _Decoding
    cache: list[Any]
    token: mx.array
    rope: mx.array | None


class Batch:
    """Rows by ticket. A sampler of None takes the likeliest token.

    `keeps`: whether a row's cache can be taken out and put back; else a row that leaves the batch
    is gone, and no cache is ever handed out.

    Every method belongs to the thread that made the batch. A row is known from `begin` to
    `remove`; what a method raises concerns the row that it was called for, and `decode` all of
    them: after that the batch has to be thrown away.
    """

    def __init__(
        self, language_model: Any, *, pace: PrefillPace, kv_bits: int | None, keeps: bool = True
    ) -> None:
        self._model = language_model
        self._keeps = keeps
        self._pace = pace
        self._kv_bits = kv_bits
        self._prefills: dict[int, tuple[Prefill, Sampler | None]] = {}
        self._paused: dict[int, Paused] = {}
        # The rows that decode, and in their order: the tokens to feed next, caches, rope offsets.
        self._rows: list[_Decoding] = []
        self._tokens: mx.array | None = None
        self._cache: list[Any] = []
        self._rope: mx.array | None = None

    def __repr__(self) -> str:
        return (
            f"<Batch prefilling={list(self._prefills)} decoding={[r.ticket for r in self._rows]}"
            f" paused={list(self._paused)}>"
        )

    def __contains__(self, ticket: int) -> bool:
        return (
            ticket in self._prefills
            or ticket in self._paused
            or any(row.ticket == ticket for row in self._rows)
        )

    def __len__(self) -> int:
        return len(self._prefills) + len(self._paused) + len(self._rows)

    @property
    def decoding(self) -> list[int]:
        """The rows that decode, in their order."""
        return [row.ticket for row in self._rows]

    def begin(
        self,
        ticket: int,
        prompt: Prompt,
        sampler: Sampler | None,
        *,
        cache: list[Any] | None = None,
        done: int = 0,
    ) -> None:
        """Take a prompt in; `cache` holds the first `done` tokens of it."""
        if cache is None:
            cache, done = self._new_cache(), 0
        self._prefills[ticket] = (Prefill(self._model, prompt, cache, self._pace, done), sampler)

    def _new_cache(self) -> list[Any]:
        if self._kv_bits is None:
            cache: list[Any] = make_prompt_cache(self._model)
        else:
            wide = getattr(self._model, "head_dim", _GROUP) % _GROUP == 0
            group = _GROUP if wide else _GROUP // 2
            cache = _make_cache(self._model, [0], kv_bits=self._kv_bits, kv_group_size=group)
        return cache

    def prefill(self, ticket: int) -> list[Any] | None:
        """Feed one chunk of a prompt; once it is in, the row decodes and its cache is returned."""
        prefill, sampler = self._prefills[ticket]
        logits = prefill.step()
        if logits is None:
            return None
        del self._prefills[ticket]
        # After the last chunk: some models know the offset only once they were fed the prompt.
        rope = PromptProcessingBatch._capture_rope_deltas_from_prompt_kwargs(  # noqa: SLF001 mlx-vlm's only spelling
            prefill.prompt.embeddings, self._model, 1
        )
        token = mx.argmax(logits, axis=-1) if sampler is None else sampler.first(logits)
        # Read now: once it has joined the batch, the cache's arrays go on changing.
        whole = _copies(prefill.cache) if self._keeps else []
        self._join(Paused(_Decoding(ticket, sampler), prefill.cache, token, rope))
        return whole

    def decode(self) -> list[Drawn]:
        """Hand out the token that each decoding row has drawn, and have the next one drawn."""
        if self._tokens is None:
            return []
        inputs = self._tokens
        rope = {} if self._rope is None else {"rope_deltas": self._rope}
        output = self._model(inputs[:, None], cache=self._cache, **rope)
        logits = getattr(output, "logits", output)[:, -1, :]
        # The tokens of this step were drawn in the one before; what failed there concerns them.
        errors = [row.error for row in self._rows]
        self._tokens = self._draw(inputs, logits)
        # The device goes on with the next tokens while those of this step are read and sent.
        mx.async_eval(self._tokens)  # type: ignore[no-untyped-call]  # mlx's stubs leave it open
        tokens: Any = inputs.tolist()
        return [
            Drawn(row.ticket, token, error)
            for row, token, error in zip(self._rows, tokens, errors, strict=True)
        ]

    def _draw(self, inputs: mx.array, logits: mx.array) -> mx.array:
        likeliest: mx.array = mx.argmax(logits, axis=-1)
        sampled = [(at, row.sampler) for at, row in enumerate(self._rows) if row.sampler]
        if not sampled:
            return likeliest
        needed = any(sampler.needs_tokens for _, sampler in sampled)
        last: Any = inputs.tolist() if needed else [None] * len(self._rows)
        drawn = [likeliest[at : at + 1] for at in range(len(self._rows))]
        for at, sampler in sampled:
            row = self._rows[at]
            if row.error is None:
                try:
                    drawn[at] = sampler.next(last[at], logits[at : at + 1])
                except Exception as error:  # noqa: BLE001  whatever it is, it is this row's alone
                    row.error = error
        return mx.concatenate(drawn).astype(inputs.dtype)

    def pause(self, ticket: int) -> bool:
        """Take a row out; False where its cache cannot be kept and it is gone."""
        index = self._index(ticket)
        if index is None:
            if not self._keeps:
                self._prefills.pop(ticket, None)
            return ticket in self._prefills
        self._settle()
        taken = self._take(index)
        if taken is None:
            return False
        self._paused[ticket] = taken
        return True

    def hand_over(self, ticket: int, other: "Batch") -> bool:
        """Have a row decode in another batch; False where its cache cannot be kept.

        Either way it is gone from here.
        """
        if not self.pause(ticket):
            return False
        other.take_over(self._paused.pop(ticket))
        return True

    def take_over(self, row: Paused) -> None:
        """Let a row that comes from another batch decode here."""
        self._join(row)

    def resume(self, ticket: int) -> None:
        """Let a paused row decode again, with the token that it had drawn."""
        if ticket not in self._prefills:
            self._join(self._paused.pop(ticket))

    def remove(self, ticket: int) -> list[Any] | None:
        """Forget a row; returns the cache of one that decoded, with all that it was fed."""
        self._prefills.pop(ticket, None)
        paused = self._paused.pop(ticket, None)
        if paused is not None:
            return paused.cache
        index = self._index(ticket)
        if index is None:
            return None
        self._settle()
        taken = self._take(index)
        return None if taken is None else taken.cache

    def _index(self, ticket: int) -> int | None:
        return next((at for at, row in enumerate(self._rows) if row.ticket == ticket), None)

    def _take(self, index: int) -> Paused | None:
        """Take a row out of the batch, with its cache where the model's caches allow that."""
        row, tokens = self._rows[index], self._tokens
        if tokens is None:
            raise RuntimeError("a row decodes without a token")
        taken = None
        if self._keeps and all(hasattr(cache, "extract") for cache in self._cache):
            cache = [each.extract(index) for each in self._cache]
            rope = None if self._rope is None else self._rope[index : index + 1]
            taken = Paused(row, cache, tokens[index : index + 1], rope)
            mx.eval([each.state for each in cache], taken.token)
        self._keep([at for at in range(len(self._rows)) if at != index])
        return taken

    def _keep(self, indices: list[int]) -> None:
        self._rows = [self._rows[index] for index in indices]
        if not indices:
            self._tokens, self._cache, self._rope = None, [], None
            return
        if self._tokens is None:
            raise RuntimeError("rows decode without tokens")
        kept = mx.array(indices)
        for cache in self._cache:
            cache.filter(kept)
        self._tokens = self._tokens[kept]
        if self._rope is not None:
            self._rope = self._rope[kept]

    def _join(self, new: Paused) -> None:
        cache = [_joinable(each) for each in new.cache]
        if self._tokens is None:
            self._tokens, self._cache, self._rope = new.token, cache, new.rope
        else:
            self._settle()
            self._cache = _extend_cache(self._cache, cache)
            self._tokens = mx.concatenate([self._tokens, new.token.astype(self._tokens.dtype)])
            if self._rope is not None and new.rope is not None:
                self._rope = mx.concatenate([self._rope, new.rope])
        self._rows.append(new.row)
        mx.eval(self._tokens)

    def _settle(self) -> None:
        # What is under way must be computed before the arrays that it writes to change shape.
        mx.eval(self._tokens, [cache.state for cache in self._cache])


def _copies(cache: list[Any]) -> list[Any]:
    """Return caches of one row that may be kept while the originals go on growing."""
    if all(hasattr(each, "extract") for each in cache):
        return [each.extract(0) for each in cache]
    return []


def _joinable(cache: Any) -> Any:
    """Return a row's cache so that it can join a batch: mlx-vlm cannot merge quantized ones."""
    if not isinstance(cache, QuantizedKVCache) or cache.keys is None:
        return cache
    joined: Any = BatchQuantizedKVCache([0], group_size=cache.group_size, bits=cache.bits)
    joined.keys, joined.values = cache.keys, cache.values
    joined.offset, joined._idx = mx.array([cache.offset]), cache.offset  # noqa: SLF001  as its own `state` sets it
    return joined
