"""Which tokens may come next in a constrained answer."""

import functools
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from backends.mlx_backend.deltas import CALL, END_CALL, END_THINK, THINK
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint
from backends.mlx_backend.grammar import (
    LIMITS,
    Markers,
    explain,
    write_grammar,
)


class TokenMask:
    """Holds one answer to its grammar, token by token.

    It counts on `accept` for every token that was generated, exactly once, and on nothing else: a
    row that is paused takes it along. It keeps no MLX array.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._raise_failure("invalid_request")

    def __repr__(self) -> str:
        return f"<TokenMask {self._matcher.stop_reason()}>"

    @property
    def done(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self._matcher.is_stopped())

    def apply(self, logits: mx.array) -> mx.array:
        """Return logits, shaped (1, columns), with -inf for each token that may not come next.

        Columns beyond the vocabulary are -inf. ChatError `generation_failed` where the grammar
        has become too complex; the answer cannot go on.
        """
        packed = self._matcher.compute_bitmask()
        # An error would read as: only the end is allowed.
        self._raise_failure("generation_failed")
        bits = np.unpackbits(
            np.frombuffer(packed, np.uint8), count=logits.shape[-1], bitorder="little"
        )
        return mx.where(mx.array(bits.view(np.bool_))[None, :], logits, -mx.inf)

    def accept(self, token: int) -> None:
        """Take a token that was generated; ChatError `generation_failed` for one not allowed."""
        self._matcher.consume_token(token)
        self._raise_failure("generation_failed")

    def _raise_failure(self, code: str) -> None:
        if self._matcher.is_error():
            reason = explain(self._matcher)
            raise ChatError(code, f"the answer cannot be held to its structure: {reason}")


class Grammars:
    """What answers of one model can be held to.

    `tokenizer` is the model's fast Hugging Face tokenizer, `vocab_size` the columns of its logits,
    `eos_ids` the tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, len(tokenizer))
        self._eos_ids = sorted(set(eos_ids))

    def prepare(self) -> None:
        """Make llguidance's form of the vocabulary now: 0.3 s for 50,000 tokens.

        Else the first answer that needs it makes everyone in its batch wait.
        """
        _ = self._vocabulary

    def start(self, constraint: Constraint, *, thinking: bool = False) -> TokenMask:
        """Return the mask of an answer that begins; `thinking` where its prompt ends in reasoning.

        ChatError `invalid_request` for a constraint that `grammar.check` would have refused.
        """
        grammar = write_grammar(constraint, self._markers, thinking=thinking)
        # Compiled anew for each answer: copies of a matcher share their lexer, and an answer that
        # exhausts it would end the others.
        return TokenMask(LLMatcher(self._vocabulary, grammar, limits=LIMITS, log_level=0))

    @functools.cached_property
    def _vocabulary(self) -> LLTokenizer:
        return from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids)

    @functools.cached_property
    def _markers(self) -> Markers:
        ids = {
            token.content: index for index, token in self._tokenizer.added_tokens_decoder.items()
        }
        special = {index for index in ids.values() if self._vocabulary.is_special_token(index)}
        return Markers(
            call=ids.get(CALL),
            call_end=ids.get(END_CALL),
            thought=ids.get(THINK),
            thought_end=ids.get(END_THINK),
            special=frozenset(special.difference(self._eos_ids)),
        )
