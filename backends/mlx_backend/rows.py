"""The generations that one loaded model serves, from their prompts to their last tokens."""

import logging
import secrets
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from typing import Any

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

# How often a step that a row decodes in may fail: the second time it is taken for the cause.
_FAILURES = 2
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
    """Rows whose caches are gone, and that have to read their prompts again, and those that end."""

    again: list[int]
    ended: list[Ended]


@dataclass(slots=True, eq=False)
class _Served:
    """A row and what belongs to it; `reading` until its prompt is in the batch."""

    row: Row
    plan: SamplingPlan
    images: Future[list[Image.Image]]
    reading: Reading | None = None
    sampler: RowSampler | None = None
    # What the tokens of its prompt are in the prefix cache; None where it cannot be there.
    keys: Ids | None = None
    # What the prompt takes in its cache, and what the answer is expected to.
    prompt_tokens: int = 0
    expected_tokens: int = 0


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

    @property
    def decoding(self) -> list[int]:
        """The rows that get a token with each step."""
        return self._batch.decoding

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
        if not generation.images:
            self._read(served)

    def _decode_images(self, generation: Generation) -> Future[list[Image.Image]]:
        if generation.images:
            limits = self.model.image_limits
            return self._decoders.submit(decode_images, generation.images, limits)
        # Not behind the pictures of others: the MLX thread reads text at once.
        nothing: Future[list[Image.Image]] = Future()
        nothing.set_result([])
        return nothing

    def _read(self, served: _Served) -> Reading:
        generation = served.row.generation
        images = served.images.result()
        reading = Reading(self.model, generation, images, served.row.tokens)
        served.reading = reading
        served.prompt_tokens = reading.prompt_tokens
        served.expected_tokens = min(generation.max_tokens or _EXPECTED_TOKENS, reading.room)
        return reading

    def prefill(self, ticket: int) -> bool:
        """Take one step with a prompt: encode a picture, or feed a chunk; True once it is in."""
        served = self._served[ticket]
        begun = ticket in self._batch or self._begin(ticket, served)
        cache = self._batch.prefill(ticket) if begun else None
        served.row.sink(Progress())
        if cache is None:
            return False
        self._remember(served, cache)
        return True

    def _begin(self, ticket: int, served: _Served) -> bool:
        """Bring a prompt into the batch; False where this step was needed for its pictures."""
        reading = served.reading
        if reading is None:
            if not wait([served.images], _LOOK_S).done:
                return False
            reading = self._read(served)
        reading.recall()
        if reading.encode_picture():
            self._totals.images += 1
            worst_s = self.model.vision.status.worst_encode_s
            self._totals.worst_image_s = max(self._totals.worst_image_s, worst_s)
            return False
        prompt = reading.prompt()
        served.sampler = self._sampler(served, reading)
        self._batch.begin(ticket, prompt, served.sampler, cache=reading.cache, done=reading.cached)
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
            self.model.prefixes.put([*served.keys, *served.row.tokens], cache)

    def _sampler(self, served: _Served, reading: Reading) -> RowSampler | None:
        plan, constraint = served.plan, served.row.generation.constraint
        if plan.plain and constraint is None:
            return None
        mask = None
        if constraint is not None:
            mask = self.model.grammars.start(constraint, thinking=reading.thinking)
        return RowSampler(plan, reading.ids, mask=mask, tokens=served.row.tokens)

    def decode(self) -> list[Ended]:
        """Take one token for each row that decodes; returns those that end with it."""
        if not self._served.keys() >= set(self._batch.decoding):
            raise RuntimeError("a row that ended could not be taken out of the batch")
        ended = []
        drawn = self._batch.decode()
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

    def _told(self, chances: Chances) -> ChosenToken:
        raw = self.model.token_bytes
        return ChosenToken(
            TokenChance(raw(chances.token), chances.logprob),
            tuple(TokenChance(raw(token), chance) for token, chance in chances.top),
        )

    def pause(self, ticket: int) -> bool:
        """Take a row out of the batch; False where its cache could not be kept."""
        if ticket not in self._batch:
            return True
        kept = self._batch.pause(ticket)
        if not kept:
            self._lose(ticket)
        return kept

    def resume(self, ticket: int) -> None:
        """Put a paused row back, if it has its cache."""
        if ticket in self._batch:
            self._batch.resume(ticket)

    def drop(self, ticket: int) -> None:
        """Give a paused row's cache back; its next `prefill` begins anew."""
        if ticket in self._batch:
            self._batch.remove(ticket)
            self._lose(ticket)

    def _lose(self, ticket: int) -> None:
        """Have a row read its prompt again, and what it has got already like a part of it."""
        served = self._served[ticket]
        served.images = self._decode_images(served.row.generation)

    def remove(self, ticket: int) -> None:
        """Forget a row, in whatever phase it is; whatever is raised concerns its cache only.

        Where it is still in the batch after that, the next `decode` raises.
        """
        served = self._served.pop(ticket, None)
        if served is None:
            return
        served.images.cancel()
        cache = self._batch.remove(ticket)
        if cache is not None:
            self._remember(served, cache)

    def rebuild(self, error: Exception) -> Lost:
        """Throw the batch away after a step that failed; who decoded in such a step twice ends."""
        suspects = self._batch.decoding
        in_batch = [ticket for ticket in self._served if ticket in self._batch]
        self._batch = self._open_batch()
        again, ended = [], []
        for ticket in in_batch:
            row = self._served[ticket].row
            # Prompts that are being read, and paused rows, had no part in the step.
            row.failures += ticket in suspects
            if row.failures >= _FAILURES or suspects == [ticket]:
                ended.append(Ended(ticket, refusal(error)))
            else:
                self._lose(ticket)
                again.append(ticket)
        return Lost(again, ended)

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
