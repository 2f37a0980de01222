"""What is measured in which order: every target in turn, so that all of them share the weather."""

import asyncio
import http.client
import itertools
import json
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import uvloop

from bench.mlx import conversations
from bench.mlx.conversations import Conversation, body
from bench.mlx.health import Health, in_flight
from bench.mlx.plans import Plan
from bench.mlx.records import CancelPhase, PriorityRound, ReuseRound, TokenRound
from bench.mlx.steps import TraceReader, wait_of
from bench.mlx.stream import Answer, AnswerFailed, Stream, ask
from bench.mlx.targets import BACKEND, DIRECT, NAMES, SERVER, TRACED, Target
from bench.servers import Failure

SCENARIOS: Final = ("tokens", "priority", "cancel", "reuse")
PHASES: Final = ("decode", "prefill", "queued")
KINDS: Final = ("conversation", "picture")
HIGH: Final = 1
LOW: Final = 10
# So many LOW run at once in a backend as shipped.
_MOST_LOW: Final = 3
_TRIES: Final = 5
# Few enough that those who hold the slots meanwhile do not end.
_CANCELS_AT_A_TIME: Final = 10
_FIRST_TOKENS: Final = 4
_ANSWER_TOKENS: Final = 16
# Of the LOW streams: models end some answers early, and mlx-vlm's server mixes some up.
_MAY_END: Final = 0.1
_T = TypeVar("_T")
Progress = Callable[[str], None]


class Rounds:
    """Measures targets in turn; one that fails is left out of that scenario from then on.

    Round 0 of each scenario warms up and is not counted.
    """

    def __init__(self, targets: Mapping[str, Target], plan: Plan, say: Progress) -> None:
        self.failures: list[Failure] = []
        self._failed: set[tuple[str, str]] = set()
        self._targets = targets
        self._plan = plan
        self._say = say
        # Nothing is asked twice unless that is what is measured.
        self._numbers = itertools.count(1)

    def tokens(self) -> Iterator[TokenRound]:
        """Measure how many tokens all streams together get."""
        for number in range(self._plan.rounds + 1):
            for streams in self._plan.streams:
                asked = [self._plan.subject(next(self._numbers)) for _ in range(streams)]
                for target in self._turns(f"{streams} streams", number, NAMES):
                    found = self._try(
                        target, f"{streams} streams", self._generate(target, number, asked)
                    )
                    if found is not None and number:
                        yield found

    async def _generate(
        self, target: Target, number: int, asked: Sequence[Conversation]
    ) -> TokenRound:
        tokens, streams = self._plan.tokens, len(asked)
        if target.name == DIRECT:
            told = await asyncio.to_thread(
                _ask_direct, target, asked, tokens, self._plan.patience_s
            )
            return TokenRound(number, target.name, streams, *told)
        begun = time.perf_counter()
        answers = await asyncio.gather(
            *(ask(target.way, body(target.way.model, one, tokens), LOW) for one in asked)
        )
        seconds = time.perf_counter() - begun
        generated = sum(answer.tokens for answer in answers)
        prompts = sum(answer.prompt_tokens for answer in answers)
        return TokenRound(number, target.name, streams, generated, prompts, seconds)

    def priority(self) -> Iterator[PriorityRound]:
        """Measure how soon HIGH's first token comes, idle and with LOW streams in flight."""
        for number in range(self._plan.rounds + 1):
            for lows in (0, *self._plan.lows):
                scenario = f"HIGH among {lows}"
                for target in self._turns(scenario, number, (TRACED, SERVER)):
                    found = self._try(target, scenario, self._pass(target, number, lows))
                    if found is not None and number:
                        yield found

    async def _pass(self, target: Target, number: int, lows: int) -> PriorityRound:
        plan = self._plan
        streams = [await self._low(target) for _ in range(lows)]
        try:
            await self._settled(target, streams)
            trace = TraceReader(target.trace, from_now=True)
            answers = [await self._high(target) for _ in range(plan.highs)]
            ended = sum(stream.answer.done() for stream in streams)
            if ended > lows * _MAY_END:
                raise AnswerFailed(f"{ended} of {lows} LOW streams ended too early")
        finally:
            for stream in streams:
                stream.close()
        await self._idle(target)
        steps = trace.read()
        waits = [
            wait_of(steps, answer.sent_ns, answer.sent_ns + round(answer.first_s * 1e9))
            for answer in answers
        ]
        first_ms = [answer.first_s * 1e3 for answer in answers]
        found = [wait for wait in waits if wait is not None]
        return PriorityRound(number, target.name, lows, first_ms, found)

    async def _low(self, target: Target) -> Stream:
        asked = self._plan.subject(next(self._numbers))
        request = body(target.way.model, asked, self._plan.low_tokens)
        return await Stream.open(target.way, request, LOW)

    async def _high(self, target: Target) -> Answer:
        asked = self._plan.subject(next(self._numbers))
        return await ask(target.way, body(target.way.model, asked, _FIRST_TOKENS), HIGH)

    async def _settled(self, target: Target, streams: Sequence[Stream]) -> None:
        """Wait until all are in flight and those that can have begun."""
        if target.name == SERVER:
            # It tells nothing of its rows, and all of them run at once.
            await _all_begun(streams, self._plan.patience_s / 4)
            return
        async with Health(target.way.port) as health:
            await health.until(
                lambda now: in_flight(now) == len(streams) and not now["rows"]["prefilling"],
                self._plan.patience_s,
            )

    async def _idle(self, target: Target) -> None:
        if target.name == SERVER:
            await self._high(target)
            return
        async with Health(target.way.port) as health:
            await health.until(lambda now: not in_flight(now), self._plan.patience_s)

    def cancel(self) -> Iterator[CancelPhase]:
        """Measure how soon a row is gone whose client has gone."""
        for phase in PHASES:
            for target in self._turns(f"cancel in {phase}", 1, (TRACED,)):
                found = self._try(target, f"cancel in {phase}", self._cancel(target, phase))
                if found is not None:
                    yield found

    async def _cancel(self, target: Target, phase: str) -> CancelPhase:
        # The first one warms up and is not counted.
        await self._cancel_some(target, phase, 1)
        trace, gone_ms = TraceReader(target.trace, from_now=True), list[float]()
        while left := self._plan.cancels - len(gone_ms):
            gone_ms += await self._cancel_some(target, phase, min(left, _CANCELS_AT_A_TIME))
        longest_ns = max((step.took_ns for step in trace.read() if step.is_work), default=0)
        async with Health(target.way.port) as health:
            looks_ms = [await _look_ms(health) for _ in range(_CANCELS_AT_A_TIME)]
        return CancelPhase(phase, gone_ms, statistics.median(looks_ms), longest_ns / 1e6)

    async def _cancel_some(self, target: Target, phase: str, count: int) -> list[float]:
        # What is queued waits behind as many as may run.
        others = [await self._low(target) for _ in range(_MOST_LOW if phase == "queued" else 0)]
        try:
            await self._settled(target, others)
            async with Health(target.way.port) as health:
                gone_ms = [
                    await self._cancel_one(target, phase, health, len(others)) for _ in range(count)
                ]
        finally:
            for other in others:
                other.close()
        await self._idle(target)
        return gone_ms

    async def _cancel_one(self, target: Target, phase: str, health: Health, others: int) -> float:
        stream = await self._in_phase(target, phase, health, others)
        begun = time.perf_counter()
        stream.close()
        await health.until(lambda now: in_flight(now) == others, self._plan.patience_s)
        return (time.perf_counter() - begun) * 1e3

    async def _in_phase(self, target: Target, phase: str, health: Health, others: int) -> Stream:
        """Return a stream in this phase; AnswerFailed where its prompt is always read already."""
        if phase != "prefill":
            stream = await self._low(target)
            if phase == "decode":
                await stream.first
            await health.until(lambda now: in_flight(now) == others + 1, self._plan.patience_s)
            return stream
        for _ in range(_TRIES):
            trace = TraceReader(target.trace, from_now=True)
            asked = conversations.long_text(next(self._numbers), self._plan.words)
            request = body(target.way.model, asked, self._plan.tokens)
            stream = await Stream.open(target.way, request, LOW)
            # Its tokens are being counted before: that is no step of the model.
            while not any(step.name == "Prefill" for step in trace.read()):
                await health.now()
                if stream.answer.done():
                    await stream.answer
            if (await health.now())["rows"]["prefilling"]:
                return stream
            stream.close()
            await self._idle(target)
        raise AnswerFailed(f"a prompt of {self._plan.words} words is read too fast to be cancelled")

    def reuse(self) -> Iterator[ReuseRound]:
        """Measure the first and the second time of a picture, and of a conversation's beginning."""
        kinds = dict(zip(KINDS, (self._turn_again, self._picture_again), strict=True))
        if not self._plan.sees:
            del kinds["picture"]
        for number in range(self._plan.reuses + 1):
            for kind, measure in kinds.items():
                for target in self._turns(kind, number, (BACKEND, SERVER)):
                    found = self._try(target, kind, measure(target))
                    if found is not None and number:
                        yield _reused(number, target.name, kind, *found)

    async def _turn_again(self, target: Target) -> tuple[Answer, Answer]:
        begin = conversations.long_text(next(self._numbers), self._plan.words)
        first = await self._answer(target, begin)
        return first, await self._answer(target, conversations.second_turn(begin, first.text))

    async def _picture_again(self, target: Target) -> tuple[Answer, Answer]:
        asked = conversations.picture(next(self._numbers))
        return await self._answer(target, asked), await self._answer(target, asked)

    async def _answer(self, target: Target, asked: Conversation) -> Answer:
        return await ask(target.way, body(target.way.model, asked, _ANSWER_TOKENS), HIGH)

    def _turns(self, scenario: str, number: int, names: Sequence[str]) -> Iterator[Target]:
        for name in names:
            if name in self._targets and (name, scenario) not in self._failed:
                self._say(f"{scenario}, round {number}: {name}")
                yield self._targets[name]

    def _try(self, target: Target, scenario: str, measure: Coroutine[None, None, _T]) -> _T | None:
        try:
            found: _T = uvloop.run(_in_time(measure, self._plan.patience_s))
        except (AnswerFailed, OSError, asyncio.IncompleteReadError) as failed:
            self._say(f"{scenario}: {target.name} failed: {failed}")
            self._failed.add((target.name, scenario))
            self.failures.append(Failure(target.name, scenario, str(failed)))
            return None
        return found


def _reused(number: int, target: str, kind: str, first: Answer, again: Answer) -> ReuseRound:
    first_ms, again_ms = first.first_s * 1e3, again.first_s * 1e3
    return ReuseRound(number, target, kind, first_ms, again_ms, first.whole_s * 1e3)


async def _all_begun(streams: Sequence[Stream], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            for stream in streams:
                # Shielded: the stream itself is told by its connection alone.
                await asyncio.shield(stream.first)
    except TimeoutError:
        begun = sum(stream.first.done() for stream in streams)
        text = f"{begun} of {len(streams)} LOW streams had a token after {within_s:.0f} s"
        raise AnswerFailed(text) from None


async def _look_ms(health: Health) -> float:
    begun = time.perf_counter()
    await health.now()
    return (time.perf_counter() - begun) * 1e3


async def _in_time(measure: Coroutine[None, None, _T], patience_s: float) -> _T:
    try:
        async with asyncio.timeout(patience_s):
            return await measure
    except TimeoutError:
        raise AnswerFailed(f"not done in {patience_s:.0f} s") from None


def _ask_direct(
    target: Target, asked: Sequence[Conversation], tokens: int, within_s: float
) -> tuple[int, int, float]:
    connection = http.client.HTTPConnection("127.0.0.1", target.way.port, timeout=within_s)
    try:
        connection.request("POST", "/", json.dumps({"conversations": asked, "tokens": tokens}))
        said = connection.getresponse()
        told = said.read()
    except (OSError, http.client.HTTPException) as error:
        raise AnswerFailed(f"not answered: {error!r}") from error
    finally:
        connection.close()
    if said.status != http.HTTPStatus.OK:
        raise AnswerFailed(f"answered with {said.status}: {told[:300]!r}")
    found = json.loads(told)
    return found["tokens"], found["prompt_tokens"], found["seconds"]
