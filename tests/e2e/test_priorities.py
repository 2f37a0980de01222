"""Interactive before batch, from the router's door down to the steps of the engine."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.served import Served, served, tiny

pytestmark = pytest.mark.mlx

LOWS = 64
SEEDS = 8
# As many as rows may run; one of them is kept from LOW.
HIGHS = 4
SLOTS = HIGHS - 1
HIGHS_IN_A_ROW = 16
LOW, HIGH = {"priority": "10"}, {"priority": "1"}
CHAT = "/v1/chat/completions"
WITHIN_S = 240


def counting(seed: int, max_tokens: int, **fields: Any) -> dict[str, Any]:
    """Return a request whose answer depends on each of its tokens."""
    messages = [{"role": "user", "content": "Please count."}]
    sampling = {"temperature": 0.9, "seed": seed, "max_tokens": max_tokens}
    return {"model": "text", "messages": messages, **sampling, **fields}


@asynccontextmanager
async def traced(
    folder: Path, model: Path, **sections: Any
) -> AsyncIterator[tuple[Served, "Trace"]]:
    """Serve the tiny model; also return what its backend's engine does."""
    trace = Trace(folder / "trace.json")
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --trace {trace.path}\n')
    program.chmod(0o700)
    settings = tiny(model, python=str(program))
    capabilities = {"text": ["builtin/tiny"]}
    async with served(folder, **settings, capabilities=capabilities, **sections) as router:
        yield router, trace


@dataclass(frozen=True)
class Step:
    """Something that the engine did, in microseconds of one clock, or what was asked of it."""

    name: str
    begun: float
    ended: float
    arguments: dict[str, Any]


class Trace:
    """What the engine has written of its steps so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self, *names: str) -> list[Step]:
        """Return the steps of these names, in their order."""
        return [step for step in self._all() if step.name in names]

    def _all(self) -> Iterator[Step]:
        whole = self.path.read_text().rpartition("\n")[0]
        for line in whole.splitlines()[1:]:
            event = json.loads(line.rstrip(","))
            ended = event["ts"] + event.get("dur", 0)
            yield Step(event["name"], event["ts"], ended, event["args"])

    def together(self) -> int:
        """Return how many rows the last decode step had."""
        return len(self.steps("Decode")[-1].arguments["tickets"])

    def waits(self) -> list[list[str]]:
        """Return for each HIGH request which steps it waited for."""
        submitted = self.steps("Submit")
        return [self._steps_before(one) for one in submitted if one.arguments["priority"] == 1]

    def _steps_before(self, submitted: Step) -> list[str]:
        """Return which steps of a model ended between a submission and its own first step."""
        ticket = submitted.arguments["ticket"]
        own = min(
            step.begun for step in self.steps("Prefill") if step.arguments["ticket"] == ticket
        )
        return [
            step.name
            for step in self.steps("Prefill", "Decode")
            if submitted.begun < step.ended and step.begun < own
        ]


def text_of(stream: str) -> str:
    """Return the text of a stream that must be whole."""
    *events, done, rest = stream.split("\n\n")
    assert (done, rest) == ("data: [DONE]", ""), stream[-300:]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def ask(router: Served, priority: dict[str, str], body: dict[str, Any]) -> str:
    """Return the text of an answer, whether it is streamed or not."""
    answer = await router.client.post(CHAT, params=priority, json=body)
    assert answer.status_code == 200, answer.text
    if body.get("stream"):
        return text_of(answer.text)
    return str(answer.json()["choices"][0]["message"]["content"])


@asynccontextmanager
async def streaming(router: Served) -> AsyncIterator[None]:
    """Hold a HIGH row, which has begun to answer, until the block ends."""
    # The likeliest answer goes on and on.
    body = counting(0, 2000, temperature=0, stream=True)
    async with router.client.stream("POST", CHAT, params=HIGH, json=body) as answer:
        # Kept: once the iterator is gone, so is the stream.
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield


async def test_a_high_request_waits_for_one_step_at_most(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """With 64 LOW streams in flight its prompt is read next, and the paused go on as if alone."""
    async with traced(tmp_path, tiny_vision_model) as (router, trace), asyncio.timeout(WITHIN_S):
        bodies = [counting(seed, 40, stream=True) for seed in range(SEEDS)]
        alone = [await ask(router, LOW, body) for body in bodies]
        assert len(set(alone)) == SEEDS
        async with asyncio.TaskGroup() as tasks:
            lows = [
                tasks.create_task(ask(router, LOW, bodies[number % SEEDS]))
                for number in range(LOWS)
            ]
            while len(trace.steps("Submit")) < SEEDS + LOWS or trace.together() < SLOTS:
                await asyncio.sleep(0.005)
            # The first has the slot that is reserved for it, each other one that of a LOW.
            async with AsyncExitStack() as highs:
                for _ in range(HIGHS):
                    await highs.enter_async_context(streaming(router))
                pauses = trace.steps("Pause")
            assert sum(low.done() for low in lows) < LOWS / 2
        assert [low.result() for low in lows] == alone * (LOWS // SEEDS)
        waited = trace.waits()
    assert len(waited) == HIGHS
    assert all(len(steps) <= 1 for steps in waited), waited
    assert pauses


async def test_a_high_request_goes_before_prompts_that_are_being_read(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """It waits for one step at most when LOW's long prompts and answers take turns."""
    settings = {"builtin": {"prefill_chunk_ms": 2}}
    async with (
        traced(tmp_path, tiny_vision_model, **settings) as (router, trace),
        asyncio.timeout(WITHIN_S),
    ):
        await ask(router, LOW, counting(0, 1))
        async with asyncio.TaskGroup() as tasks:
            for number in range(LOWS):
                long = f"{number} tell me about the weather in Paris today " * 8
                body = counting(0, 4, messages=[{"role": "user", "content": long}])
                tasks.create_task(ask(router, LOW, body))
            for _ in range(HIGHS_IN_A_ROW):
                await ask(router, HIGH, counting(0, 1))
        waited = trace.waits()
    assert len(waited) == HIGHS_IN_A_ROW
    assert all(len(steps) <= 1 for steps in waited), waited
    assert ["Prefill"] in waited


async def test_low_goes_on_in_a_flood_of_high(tmp_path: Path, tiny_vision_model: Path) -> None:
    """While HIGH requests never end, LOW ones do, with the answers that they have alone."""
    async with traced(tmp_path, tiny_vision_model) as (router, trace), asyncio.timeout(WITHIN_S):
        bodies = [counting(seed, 24) for seed in range(SEEDS)]
        alone = [await ask(router, LOW, body) for body in bodies]
        over = asyncio.Event()

        async def flood(seed: int) -> None:
            while not over.is_set():
                await ask(router, HIGH, counting(seed, 8))

        async with asyncio.TaskGroup() as tasks:
            for seed in range(SEEDS):
                tasks.create_task(flood(seed))
            while len(trace.steps("Submit")) < 3 * SEEDS:
                await asyncio.sleep(0.005)
            lows = [tasks.create_task(ask(router, LOW, body)) for body in bodies]
            await asyncio.wait(lows)
            over.set()
        assert [low.result() for low in lows] == alone
