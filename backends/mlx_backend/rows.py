"""The generations that one loaded model serves, from their prompts to their last tokens."""

import logging
import secrets
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from backends.mlx_backend.batch import Batch
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
from backends.mlx_backend.images import decode_images
from backends.mlx_backend.models import LoadedModel
from backends.mlx_backend.prefix_cache import Ids
from backends.mlx_backend.prompt import Reading
from backends.mlx_backend.row import Row
from backends.mlx_backend.sampling import Chances, RowSampler, SamplingPlan

log = logging.getLogger(__name__)

# How often a step that a row decodes in may fail: the second time it has to decode alone.
_FAILURES = 2
# So many steps it takes alone, and twice as many after every further failure. Two at least: MLX
# computes what one step asks for while the next one is prepared, and fails then.
_ALONE_STEPS = 2
# How long an answer is taken to become whose client names no limit. Its share of the memory would
# else be the model's whole context, gigabytes, and one row at a time would be served.
_EXPECTED_TOKENS = 2048
# How long a step may wait for pictures to be decoded: other rows get their tokens meanwhile.
_LOOK_S = 0.005


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
    """Rows whose caches are gone, and that have to read their prompts again, and those that end.

    Of the former those that are `suspected` decode alone.
    """

    again: list[int]
    ended: list[Ended]
    suspected: set[int]


@dataclass(slots=True)
class _Trial:
    """A batch for one row, and how many steps it still has to take in it."""

    batch: Batch
    steps_left: int


@dataclass(slots=True, eq=False)
class _Served:
    """A row and what belongs to it: its `images` until they are read, and `reading` from then on.

    Neither is kept once its prompt is in the batch.
    """

    row: Row
    plan: SamplingPlan
    images: Future[list[Image.Image]] | None
    reading: Reading | None = None
    sampler: RowSampler | None = None
    # What the tokens of its prompt are in the prefix cache; None where it cannot be there.
    keys: Ids | None = None
    # What the prompt takes in its cache, and what the answer is expected to.
    prompt_tokens: int = 0
    expected_tokens: int = 0
    trial: _Trial | None = None


class ModelRows:
    """Rows by ticket; every method belongs to the MLX thread.

    `why_serial` says why they may not share a batch, and is empty where they may. `decoders` decode
    pictures meanwhile. What a method raises concerns the row that it was called for; after `decode`
    raised, `rebuild`.
    """

    def __init__(
        self, model: LoadedModel, decoders: Executor, totals: Totals, why_serial: str
    ) -> None:
        self.model = model
        self.why_serial = why_serial
        self._decoders = decoders
        self._totals = totals
        self._batch = self._open_batch()
        self._served: dict[int, _Served] = {}

    def __repr__(self) -> str:
        return f"<ModelRows {self.model.name} {self._batch!r}>"

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._served

    def _open_batch(self) -> Batch:
        # Where the self-test failed, taking a row out with its cache may be what went wrong.
        return self.model.open_batch(keeps=not self.why_serial)

    def taking_part(self, alone: int | None = None) -> list[int]:
        """Return the rows that get a token with a step: all, or those of one that decodes alone."""
        return self._batch_of(alone).decoding

    def _batch_of(self, ticket: int | None) -> Batch:
        served = None if ticket is None else self._served.get(ticket)
        if served is None or served.trial is None:
            return self._batch
        return served.trial.batch

    def cache_mb(self, ticket: int) -> tuple[float, float]:
        """Return what a row's cache is expected to grow to, and has come to, in MiB.

        Both are 0 while pictures are decoded. An answer that has become longer than was expected
        counts as long as it is.
        """
        served = self._served[ticket]
        got = len(served.row.tokens)
        expected = served.prompt_tokens + max(served.expected_tokens, got)
        return expected * self.model.token_mb, (served.prompt_tokens + got) * self.model.token_mb

    def admit(self, ticket: int, generation: Generation, sink: Sink) -> None:
        """Take in a generation; ChatError for one that this model cannot answer."""
        model, wanted = self.model, generation.sampling
        if generation.images and not model.sees:
            text = f"{generation.model} does not take images; assign vision to a model that does"
            raise ChatError("capability_mismatch", text, "model")
        seed = secrets.randbits(63) if wanted.seed is None else wanted.seed
        row = Row(generation, sink, decode=model.decode, ends=model.ends)
        served = _Served(row, model.plan(wanted, seed), self._decode_images(generation))
        self._served[ticket] = served
        if served.images is None:
            self._read(served)

    def _decode_images(self, generation: Generation) -> Future[list[Image.Image]] | None:
        if not generation.images:
            return None
        limits = self.model.image_limits
        return self._decoders.submit(decode_images, generation.images, limits)

    def _read(self, served: _Served) -> Reading | None:
        """Make tokens of a conversation once its pictures are decoded; None until then."""
        generation = served.row.generation
        images: list[Image.Image] = []
        if served.images is not None:
            if not wait([served.images], _LOOK_S).done:
                return None
            # Not kept: a picture takes megabytes, and an answer minutes.
            images, served.images = served.images.result(), None
        reading = Reading(self.model, generation, images, served.row.tokens)
        served.reading = reading
        served.prompt_tokens = reading.prompt_tokens
        served.expected_tokens = min(generation.max_tokens or _EXPECTED_TOKENS, reading.room)
        return reading

    def prefill(self, ticket: int) -> bool:
        """Take one step with a prompt: encode a picture, or feed a chunk; True once it is in."""
        served = self._served[ticket]
        batch = self._batch_of(ticket)
        begun = ticket in batch or self._begin(ticket, served)
        cache = batch.prefill(ticket) if begun else None
        served.row.sink(Progress())
        if cache is None:
            return False
        self._remember(served, cache)
        return True

    def _begin(self, ticket: int, served: _Served) -> bool:
        """Bring a prompt into the batch; False where this step was needed for its pictures."""
        reading = served.reading or self._read(served)
        if reading is None:
            return False
        reading.recall()
        if reading.encode_picture():
            self._totals.images += 1
            worst_s = self.model.vision.status.worst_encode_s
            self._totals.worst_image_s = max(self._totals.worst_image_s, worst_s)
            return False
        prompt = reading.prompt()
        served.sampler = self._sampler(served, reading)
        self._batch_of(ticket).begin(
            ticket, prompt, served.sampler, cache=reading.cache, done=reading.cached
        )
        served.reading = None
        if reading.key_ids is not None:
            served.keys = reading.key_ids[: reading.prompt_tokens]
        begun = Begun(reading.prompt_tokens, reading.cached, thinking=reading.thinking)
        if served.row.begin(begun, _wanted(served.row.generation, reading)):
            self._totals.prompt_tokens += begun.prompt_tokens
            self._totals.cached_tokens += begun.cached_tokens
        return True

    def _remember(self, served: _Served, cache: list[Any]) -> None:
        """Keep what was made of a prompt, and of its answer so far, for one that begins alike."""
        if served.keys is not None:
            answer = np.array(served.row.tokens, np.int64)
            self.model.prefixes.put(np.concatenate([served.keys, answer]), cache)

    def _sampler(self, served: _Served, reading: Reading) -> RowSampler | None:
        plan, constraint = served.plan, served.row.generation.constraint
        if plan.plain and constraint is None:
            return None
        mask = None
        if constraint is not None:
            mask = self.model.grammars.start(constraint, thinking=reading.thinking)
        return RowSampler(plan, reading.ids, mask=mask, tokens=served.row.tokens)

    def decode(self, alone: int | None = None) -> list[Ended]:
        """Take one token for each row that decodes, or for one alone; returns who ends with it."""
        batch = self._batch_of(alone)
        if not self._served.keys() >= set(batch.decoding):
            raise RuntimeError("a row that ended could not be taken out of the batch")
        ended = []
        drawn = batch.decode()
        trial = None if alone is None else self._served[alone].trial
        if trial is not None:
            trial.steps_left -= 1
        self._totals.steps += 1
        self._totals.completion_tokens += len(drawn)
        for ticket, token, error in drawn:
            served = self._served[ticket]
            if error is not None:
                log.error("a row's sampler failed", exc_info=error)
                ended.append(Ended(ticket, refusal(error)))
                continue
            chances = None if served.sampler is None else served.sampler.chances()
            told = None if chances is None else self._told(chances)
            event, end = served.row.take(token, told)
            served.row.sink(event)
            if end is not None:
                ended.append(Ended(ticket, end))
        return ended

    def is_acquitted(self, ticket: int) -> bool:
        """Tell whether a row has decoded alone for long enough, and has not ended."""
        served = self._served.get(ticket)
        return served is not None and served.trial is not None and not served.trial.steps_left

    def rejoin(self, ticket: int) -> bool:
        """Have a row decode with the others again; False where its cache could not be kept."""
        batch = self._batch_of(ticket)
        self._served[ticket].trial = None
        kept = batch.hand_over(ticket, self._batch)
        if not kept:
            self._lose(ticket)
        return kept

    def _told(self, chances: Chances) -> ChosenToken:
        raw = self.model.token_bytes
        return ChosenToken(
            TokenChance(raw(chances.token), chances.logprob),
            tuple(TokenChance(raw(token), chance) for token, chance in chances.top),
        )

    def pause(self, ticket: int) -> bool:
        """Take a row out of the batch; False where its cache could not be kept."""
        batch = self._batch_of(ticket)
        if ticket not in batch:
            return True
        kept = batch.pause(ticket)
        if not kept:
            self._lose(ticket)
        return kept

    def resume(self, ticket: int) -> None:
        """Put a paused row back, if it has its cache."""
        batch = self._batch_of(ticket)
        if ticket in batch:
            batch.resume(ticket)

    def drop(self, ticket: int) -> None:
        """Give a paused row's cache back; its next `prefill` begins anew."""
        batch = self._batch_of(ticket)
        if ticket in batch:
            batch.remove(ticket)
            self._lose(ticket)

    def _lose(self, ticket: int) -> None:
        """Have a row read its prompt again, and what it has got already like a part of it."""
        served = self._served[ticket]
        served.images = self._decode_images(served.row.generation)

    def remove(self, ticket: int) -> None:
        """Forget a row, in whatever phase it is; whatever is raised concerns its cache only.

        Where it is still in the batch after that, the next `decode` raises.
        """
        batch = self._batch_of(ticket)
        served = self._served.pop(ticket, None)
        if served is None:
            return
        if served.images is not None:
            served.images.cancel()
        cache = batch.remove(ticket)
        if cache is not None:
            self._remember(served, cache)

    def rebuild(self, error: Exception, alone: int | None = None) -> Lost:
        """Throw the batch away after a step that failed.

        A row that decoded in it alone ends. Who decoded in such a step in company, twice, has a
        batch of its own from now on, until `is_acquitted`. A row that `rejoin` failed for is in no
        batch any more, and ends too.
        """
        failed = self._batch_of(alone)
        lost = Lost([], [], set())
        if alone is not None and alone not in failed:
            lost.ended.append(Ended(alone, refusal(error)))
            return lost
        decoding = failed.decoding
        in_batch = [ticket for ticket in self._served if ticket in failed]
        if failed is self._batch:
            self._batch = self._open_batch()
        for ticket in in_batch:
            served = self._served[ticket]
            served.trial = None
            if decoding == [ticket]:
                lost.ended.append(Ended(ticket, refusal(error)))
                continue
            self._lose(ticket)
            lost.again.append(ticket)
            # Prompts that are being read, and paused rows, had no part in the step.
            served.row.failures += ticket in decoding
            further = served.row.failures - _FAILURES
            if ticket in decoding and further >= 0:
                served.trial = _Trial(self._open_batch(), _ALONE_STEPS << further)
                lost.suspected.add(ticket)
        return lost

    def close(self) -> None:
        """Unload the model; no row may be left that anyone waits for."""
        self._served.clear()
        del self._batch
        self.model.close()

    def beat(self) -> None:
        """Tell everyone that they are still being served."""
        for served in self._served.values():
            served.row.sink(Progress())


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
