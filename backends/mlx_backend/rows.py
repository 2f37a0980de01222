"""The generations that one loaded model serves, from their prompts to their last tokens."""

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Begun,
    ChosenToken,
    Failed,
    Finished,
    Generation,
    Progress,
    Sink,
    TokenChance,
    Totals,
)
from backends.mlx_backend.models import LoadedModel
from backends.mlx_backend.prompt import Reading
from backends.mlx_backend.row import Row
from backends.mlx_backend.sampling import Chances, RowSampler, SamplingPlan
from backends.mlx_backend.self_test import try_batching

if TYPE_CHECKING:
    from backends.mlx_backend.prefix_cache import Ids

log = logging.getLogger(__name__)

# How often a row may be in a batch that fails: the second time it is taken for the cause.
_FAILURES = 2


@dataclass(frozen=True, slots=True)
class Ended:
    """A row that has ended: with an answer, or with an error."""

    ticket: int
    end: Finished | ChatError

    @property
    def event(self) -> Finished | Failed:
        """What its client hears."""
        return Failed(self.end) if isinstance(self.end, ChatError) else self.end


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows whose caches are gone, and that have to read their prompts again, and those that end."""

    again: list[int]
    ended: list[Ended]


class ModelRows:
    """Rows by ticket; every method belongs to the MLX thread.

    What a method raises concerns the row that it was called for; after `decode` raised, `rebuild`.
    """

    def __init__(self, model: LoadedModel, totals: Totals) -> None:
        self.model = model
        self.why_serial = try_batching(model.open_batch, model.samples()).why
        self._totals = totals
        self._batch = model.open_batch()
        self._rows: dict[int, Row] = {}
        self._plans: dict[int, SamplingPlan] = {}
        # Prompts that are not in the batch yet.
        self._readings: dict[int, Reading] = {}
        self._samplers: dict[int, RowSampler | None] = {}
        # What the tokens of their prompts are in the prefix cache.
        self._keys: dict[int, Ids] = {}

    def __repr__(self) -> str:
        return f"<ModelRows {self.model.name} {self._batch!r}>"

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._rows

    @property
    def decoding(self) -> list[int]:
        """The rows that get a token with each step."""
        return self._batch.decoding

    def admit(self, ticket: int, generation: Generation, sink: Sink) -> float:
        """Read a conversation; returns what its cache may grow to, in MiB.

        ChatError for one that this model cannot answer.
        """
        model = self.model
        reading = Reading(model, generation)
        wanted = generation.sampling
        self._plans[ticket] = model.plan(
            wanted, secrets.randbits(63) if wanted.seed is None else wanted.seed
        )
        self._rows[ticket] = Row(generation, sink, decode=model.decode, ends=model.ends)
        self._readings[ticket] = reading
        return (len(reading.ids) + _wanted(generation, reading)) * model.token_mb

    def prefill(self, ticket: int) -> bool:
        """Take one step with a prompt: encode a picture, or feed a chunk; True once it is in."""
        row = self._rows[ticket]
        if ticket not in self._batch and not self._begin(ticket, row):
            row.sink(Progress())
            return False
        cache = self._batch.prefill(ticket)
        row.sink(Progress())
        if cache is None:
            return False
        self._remember(ticket, row, cache)
        return True

    def _begin(self, ticket: int, row: Row) -> bool:
        """Bring a prompt into the batch; False where this step was needed for a picture."""
        reading = self._readings.get(ticket)
        if reading is None:
            # Its cache was lost: what it has got already is read like its prompt.
            reading = self._readings[ticket] = Reading(self.model, row.generation, row.tokens)
        reading.recall()
        if reading.encode_picture():
            return False
        prompt = reading.prompt()
        sampler = self._sampler(ticket, row, reading)
        self._samplers[ticket] = sampler
        self._batch.begin(ticket, prompt, sampler, cache=reading.cache, done=reading.cached)
        del self._readings[ticket]
        if reading.key_ids is not None:
            self._keys[ticket] = reading.key_ids[: reading.prompt_tokens]
        begun = Begun(reading.prompt_tokens, reading.cached, thinking=reading.thinking)
        self._totals.prompt_tokens += begun.prompt_tokens
        self._totals.cached_tokens += begun.cached_tokens
        row.begin(begun, _wanted(row.generation, reading))
        return True

    def _remember(self, ticket: int, row: Row, cache: list[Any]) -> None:
        """Keep what was made of a prompt, and of its answer so far, for one that begins alike."""
        keys = self._keys.get(ticket)
        if keys is not None:
            self.model.prefixes.put([*keys, *row.tokens], cache)

    def _sampler(self, ticket: int, row: Row, reading: Reading) -> RowSampler | None:
        plan, constraint = self._plans[ticket], row.generation.constraint
        if plan.plain and constraint is None:
            return None
        mask = None
        if constraint is not None:
            mask = self.model.grammars.start(constraint, thinking=reading.thinking)
        return RowSampler(plan, reading.ids, mask=mask, tokens=row.tokens)

    def decode(self) -> list[Ended]:
        """Take one token for each row that decodes; returns those that end with it."""
        ended = []
        drawn = self._batch.decode()
        self._totals.steps += 1
        self._totals.completion_tokens += len(drawn)
        for ticket, token, error in drawn:
            row, sampler = self._rows[ticket], self._samplers[ticket]
            if error is not None:
                log.error("a row's sampler failed", exc_info=error)
                ended.append(Ended(ticket, refusal(error)))
                continue
            chances = None if sampler is None else sampler.chances()
            event, end = row.take(token, None if chances is None else self._told(chances))
            row.sink(event)
            if end is not None:
                ended.append(Ended(ticket, end))
        return ended

    def _told(self, chances: Chances) -> ChosenToken:
        raw = self.model.token_bytes
        return ChosenToken(
            TokenChance(raw(chances.token), chances.logprob),
            tuple(TokenChance(raw(token), chance) for token, chance in chances.top),
        )

    def pause(self, ticket: int) -> bool:
        """Take a row out of the batch; False where its cache could not be kept."""
        return ticket in self._readings or self._batch.pause(ticket)

    def resume(self, ticket: int) -> None:
        """Put a paused row back, if it has its cache."""
        if ticket in self._batch:
            self._batch.resume(ticket)

    def drop(self, ticket: int) -> None:
        """Give a paused row's cache back; its next `prefill` begins anew."""
        self._batch.remove(ticket)
        self._readings.pop(ticket, None)

    def remove(self, ticket: int) -> None:
        """Forget a row, in whatever phase it is."""
        cache = self._batch.remove(ticket)
        row = self._rows.pop(ticket, None)
        if row is not None and cache is not None:
            self._remember(ticket, row, cache)
        self._keys.pop(ticket, None)
        self._plans.pop(ticket, None)
        self._readings.pop(ticket, None)
        self._samplers.pop(ticket, None)

    def rebuild(self, error: Exception) -> Lost:
        """Throw the batch away after a step that failed; who was in it twice ends."""
        in_batch = [ticket for ticket in self._rows if ticket in self._batch]
        self._batch = self.model.open_batch()
        again, ended = [], []
        for ticket in in_batch:
            row = self._rows[ticket]
            row.failures += 1
            if row.failures >= _FAILURES or len(in_batch) == 1:
                ended.append(Ended(ticket, refusal(error)))
            else:
                again.append(ticket)
        return Lost(again, ended)

    def close(self) -> None:
        """Unload the model; no row may be left that anyone waits for."""
        self._rows.clear()
        self._samplers.clear()
        del self._batch
        self.model.close()

    def beat(self) -> None:
        """Tell everyone that they are still being served."""
        for row in self._rows.values():
            row.sink(Progress())


def _wanted(generation: Generation, reading: Reading) -> int:
    """Return how many tokens an answer may have."""
    return min(generation.max_tokens or reading.room, reading.room)


def refusal(error: Exception) -> ChatError:
    """Return what a client is told of a failure: itself where it says so, else little."""
    if isinstance(error, ChatError):
        return error
    kind = type(error).__name__
    return ChatError(
        "generation_failed", f"the model failed while generating ({kind}; the log has more)"
    )
