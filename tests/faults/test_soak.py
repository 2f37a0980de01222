"""Thousands of requests through one router, three in ten of them left by their clients half-way."""

import asyncio
import collections
import contextlib
import gc
import json
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import psutil

from tests.harness.invariants import open_fds
from tests.harness.raw_client import RawClient
from tests.harness.running_router import (
    RunningRouter,
    assert_idle,
    idle,
    openai_provider,
    running_router,
)
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

CHAT = "/v1/chat/completions"
REQUESTS, CLIENTS, PLACES = 5_000, 32, 6
THIRDS = 3
ABORTED = 0.3
# Where a client may be in its request when it leaves.
PHASES = (
    "sending the head",
    "sending the body",
    "queued",
    "before the first byte",
    "mid-stream",
    "after the last byte",
)
ANSWERED = "answered"


# How asyncio and uvloop name the threads of their pools.
_POOL = ("asyncio_", "uvloop_")


@dataclass(frozen=True)
class Plan:
    """One request: how it is answered, and how its client leaves it, if it does.

    `cut` is how much of what it cannot finish sending it does send, from 0 to 1.
    """

    number: int
    phase: str
    stream: bool
    endless: bool
    resets: bool
    cut: float

    @property
    def body(self) -> bytes:
        """The request's body, which names it."""
        asked = {
            "model": "text",
            "messages": [{"role": "user", "content": "x" * (self.number % 7) * 100}],
            "user": str(self.number),
            "stream": self.stream,
        }
        return json.dumps(asked).encode()

    @property
    def answer(self) -> bytes:
        """The answer of a provider that answers whole, which names the request too."""
        return b'{"object":"chat.completion","choices":[],"user":"%d"}' % self.number

    @property
    def event(self) -> bytes:
        """One event of a streamed answer, likewise."""
        return b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % self.number

    @property
    def expected(self) -> bytes:
        """What a client that stays is to get."""
        if not self.stream:
            return self.answer
        return self.event * (1 + self.number % 5) + b"data: [DONE]\n\n"


def plans(seed: int) -> list[Plan]:
    """Return the requests of one run."""
    dice = random.Random(seed)  # noqa: S311 chance, no secret
    made = []
    for number in range(REQUESTS):
        phase = dice.choice(PHASES) if dice.random() < ABORTED else ANSWERED
        made.append(
            Plan(
                number,
                phase,
                stream=phase == "mid-stream" or dice.random() < 0.5,
                endless=dice.random() < 0.5,
                resets=dice.random() < 0.5,
                cut=dice.random(),
            )
        )
    return made


class Soak:
    """One run: the provider's side, the clients' side, and what they have seen of each other."""

    def __init__(self, plans: list[Plan]) -> None:
        self._plans = plans
        self._asked = {
            plan.number: asyncio.Event() for plan in plans if plan.phase == "before the first byte"
        }
        self.left: collections.Counter[str] = collections.Counter()

    async def script(self, conversation: Conversation) -> None:
        """Answer one request as it is planned."""
        plan = self._plans[int(conversation.json["user"])]
        if plan.phase == "before the first byte":
            self._asked[plan.number].set()
            await conversation.left()
        elif not plan.stream:
            await conversation.answer(plan.answer)
        elif plan.phase == "mid-stream":
            await conversation.begin_stream()
            await conversation.event(plan.event)
            while plan.endless:
                await conversation.event(plan.event)
            await conversation.left()
        else:
            await conversation.begin_stream()
            await conversation.event(plan.expected)
            await conversation.end_stream()

    async def client(self, signalbox: RunningRouter, plans: Iterator[Plan]) -> None:
        """Ask for what is planned, one thing after the other, on one connection while it lasts."""
        client: RawClient | None = None
        async with contextlib.AsyncExitStack() as stack:
            for plan in plans:
                if client is None:
                    client = await stack.enter_async_context(RawClient(signalbox.port))
                await self._ask(signalbox, client, plan)
                if plan.phase != ANSWERED:
                    if plan.resets:
                        client.reset()
                    else:
                        client.half_close()
                        await client.rest_or_reset()
                    await stack.aclose()
                    client = None

    async def _ask(self, signalbox: RunningRouter, client: RawClient, plan: Plan) -> None:
        """Go as far in a request as planned."""
        body, name = plan.body, f"soak-{plan.number}"
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"x-request-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        cut = {"sending the head": len(head), "sending the body": len(body)}.get(plan.phase)
        if cut is not None:
            sent = int(cut * plan.cut)
            await client.send(head[:sent] if cut == len(head) else head + body[:sent])
            self.left[plan.phase] += 1
            return
        await client.send(head + body)
        if plan.phase == "queued":
            while (state := _state(signalbox, name)) is None:
                await asyncio.sleep(0)
            self.left[state] += 1
            return
        if plan.phase == "before the first byte":
            await self._asked[plan.number].wait()
        elif plan.phase == "mid-stream":
            await client.head()
            assert (await client.chunk()).startswith(plan.event)
        else:
            status, headers = await client.head()
            assert (status, await client.body(headers)) == (200, plan.expected)
        self.left[plan.phase] += 1


def _state(signalbox: RunningRouter, name: str) -> str | None:
    """Return the state of a request in flight by its id."""
    flights = signalbox.router.in_flight
    return next((flight.state for flight in flights if flight.request_id == name), None)


@dataclass(frozen=True)
class Held:
    """What a router holds that serves nobody: counts, and its memory in blocks and KiB."""

    counts: dict[str, int]
    blocks: int
    resident_kib: int

    @classmethod
    async def by(
        cls, signalbox: RunningRouter, fm: ScriptedUpstream, before: Self | None = None
    ) -> Self:
        """Count it, once nothing is in flight and no connection is kept for a next request.

        Sockets that are closing may take as long as they need to be what they were `before`.
        """
        state = signalbox.server.server_state
        await idle(signalbox.router)
        for reach in signalbox.router.reaches.values():
            await reach.upstream.aclose()
        async with asyncio.timeout(5):
            while state.connections or state.tasks or fm.open_connections:
                await asyncio.sleep(0.005)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while before is not None and len(open_fds()) > before.counts["descriptors"]:
                    await asyncio.sleep(0.005)
        assert_idle(signalbox.router)
        fm.seen.clear()
        gc.collect()
        counts = {
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(open_fds()),
            # The loop's own pool keeps what it once had use for, and grows to a bound.
            "threads": sum(not each.name.startswith(_POOL) for each in threading.enumerate()),
            "alarms": len(signalbox.router.sweeper),
        }
        return cls(counts, sys.getallocatedblocks(), psutil.Process().memory_info().rss >> 10)


async def test_row_g5_clients_that_leave_in_any_phase_leave_nothing_behind(tmp_path: Path) -> None:
    """After 5,000 requests, 30 % of them left half-way, a router holds what it held before."""
    seed = random.SystemRandom().randrange(1 << 32)
    made = plans(seed)
    soak = Soak(made)
    async with (
        ScriptedUpstream(soak.script) as fm,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url)},
            capabilities={"text": ["fm/model-1"]},
            lanes={"fm": {"concurrency": PLACES, "queue": CLIENTS, "reserve_high": 0}},
            # A place that is never given back is noticed soon.
            timeouts={"queue_s": 10},
        ) as signalbox,
    ):
        try:
            before = await Held.by(signalbox, fm)
            thirds = []
            for third in range(THIRDS):
                share = iter(made[third::THIRDS])
                async with asyncio.TaskGroup() as clients:
                    for _ in range(CLIENTS):
                        clients.create_task(soak.client(signalbox, share))
                thirds.append(await Held.by(signalbox, fm, before))
        finally:
            print(f"seed {seed}: {soak.left}")  # noqa: T201 shown when the test fails
    assert soak.left.total() == REQUESTS
    assert all(soak.left[phase] > REQUESTS // 50 for phase in PHASES), soak.left
    assert [held.counts for held in thirds] == [before.counts] * THIRDS
    # The first third fills what is filled once: tables, pools, the allocator's own. What leaks
    # grows with each of the others; an allocator's ways show in one or the other.
    held = [(third.blocks, third.resident_kib) for third in thirds]
    blocks, kib = (min(b - a for a, b in pairwise(each)) for each in zip(*held, strict=True))
    assert blocks < REQUESTS // 30, thirds
    assert kib < 1 << 10, thirds
