"""A thousand requests, of which many are left alone, leave nothing behind."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.backends.mlx_backend.child import TOKEN, Child, backend
from tests.backends.mlx_backend.mixed import LONG, Answer, ask, every_kind, leave
from tests.backends.mlx_backend.pictures import question

pytestmark = pytest.mark.mlx

REQUESTS = 1000
LEAVING = 0.3
CLIENTS = 32
TOKENS = 6
SETTLE_S = 5
# How long a request waits and runs, roughly, among so many others.
USUAL_S = 1.5
UNREAD, UNREAD_S = 0.5, 0.3
PARTS = 4
FEW_MB = 1.0

# The backend, which writes its event loop's tasks into its log when it gets a signal, and at
# another gives back the memory that it does not need.
TELLING = """
import asyncio, ctypes, gc, signal, sys
from backends.mlx_backend.__main__ import main

def tell(_number, _frame):
    names = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    print("tasks:", *names, file=sys.stderr, flush=True)

def shrink(_number, _frame):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    print("shrunk:", file=sys.stderr, flush=True)

signal.signal(signal.SIGUSR1, tell)
signal.signal(signal.SIGUSR2, shrink)
sys.exit(main())
"""


class Watched:
    """What a child holds when it has nothing to do."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._process = psutil.Process(child.process.pid)

    def said(self, word: str) -> list[str]:
        """Return the lines of its log that hold a word."""
        return [line for line in self._child.log.read_text().splitlines() if word in line]

    def tasks(self) -> list[str]:
        """Return the tasks of its event loop, by what they run."""
        said = self.said("tasks:")
        return said[-1].split()[1:] if said else []

    async def settled(self, known: list[str] | None = None) -> list[str]:
        """Return its tasks, once they are those that are known of."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                self._child.process.send_signal(signal.SIGUSR1)
                await asyncio.sleep(0.02)
                tasks = self.tasks()
                if tasks and (known is None or tasks == known):
                    return tasks

    async def descriptors(self, known: int | None = None) -> int:
        """Return how many files and sockets it has open, once they are as few as before."""
        async with asyncio.timeout(SETTLE_S):
            while (count := self._process.num_fds()) > (known or count):
                await asyncio.sleep(0.02)
        return count

    async def rss_mb(self) -> float:
        """Return the memory of its process, less what it does not need."""
        before = len(self.said("shrunk:"))
        self._child.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(SETTLE_S):
            while len(self.said("shrunk:")) == before:
                await asyncio.sleep(0.02)
        return float(self._process.memory_info().rss) / 1024**2


@asynccontextmanager
async def client(child: Child) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client whose connections are closed at the end."""
    async with httpx2.AsyncClient(
        base_url=child.url,
        headers={"authorization": f"Bearer {TOKEN}"},
        trust_env=False,
        timeout=60,
        limits=httpx2.Limits(max_connections=2 * CLIENTS),
    ) as http:
        yield http


class Soak:
    """Clients who ask at random; `wrong` are the answers that a request does not get alone."""

    def __init__(self, kinds: dict[str, Any], solo: dict[str, Answer]) -> None:
        self._kinds = kinds
        self._solo = solo
        self._rng = random.Random(5)  # noqa: S311  a seed that repeats is the point
        self.wrong: dict[str, Answer] = {}
        self.answered = 0

    async def run(self, http: httpx2.AsyncClient, requests: int) -> None:
        """Ask so often, by many clients at a time."""
        left = iter(range(requests))

        async def one_after_another() -> None:
            for _ in left:
                await self._ask(http)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(one_after_another())

    async def _ask(self, http: httpx2.AsyncClient) -> None:
        rng = self._rng
        name, stream = rng.choice(list(self._kinds)), rng.random() < 0.5
        body = self._kinds[name]
        if rng.random() < LEAVING:
            if rng.random() < UNREAD:
                # A prompt that nobody has read before, and that takes a while.
                new = question(f"{rng.random()} {LONG * 3}")
                await leave(
                    http,
                    {**body, "messages": new},
                    stream=stream,
                    after_s=rng.uniform(0, UNREAD_S),
                    priority="high",
                )
            else:
                await leave(http, body, stream=stream, after_s=rng.uniform(0, USUAL_S))
            return
        priority = rng.choice(["low", "low", "high"])
        answer = await ask(http, body, stream=stream, priority=priority)
        self.answered += 1
        if not answer.is_like(self._solo[name]):
            self.wrong[name] = answer


def phases(trace: Path) -> Counter[str]:
    """Return how far the requests came, by the trace of the engine."""
    events = [
        json.loads(line.rstrip(","))
        for line in trace.read_text().splitlines()[1:]
        if line[-1:] == ","
    ]
    steps: dict[str, set[int]] = {}
    for event in events:
        told = event["args"]
        tickets = told.get("tickets", [told["ticket"]] if "ticket" in told else [])
        steps.setdefault(event["name"], set()).update(tickets)
    return Counter(
        queued=len(steps["Submit"] - steps["Admit"]),
        prefilling=len(steps["Prefill"] - steps["Decode"]),
        decoding=len(steps["Decode"]),
        paused=len(steps["Pause"]),
    )


async def test_a_thousand_requests_leave_nothing_behind(
    tiny_vision_model: Path, tmp_path: Path
) -> None:
    """Everyone who stays has the right answer; memory, tasks and descriptors are as before."""
    trace = tmp_path / "trace"
    arguments = ["--models-dir", str(tmp_path), f"--model-folder=tiny={tiny_vision_model}"]
    # Caches that are full before the first part is over.
    arguments += ["--prefill-chunk-ms", "5", "--memory-mb", "100", "--trace", str(trace)]
    kinds = every_kind(TOKENS, TOKENS)
    with backend(*arguments, log=tmp_path / "log", command=("-c", TELLING)) as child:
        watched = Watched(child)
        async with client(child) as http:
            solo = {name: await ask(http, body, stream=False) for name, body in kinds.items()}
        tasks, descriptors = await watched.settled(), await watched.descriptors()
        soak = Soak(kinds, solo)
        held: list[tuple[float, float]] = []
        for _part in range(PARTS):
            async with client(child) as http:
                await soak.run(http, REQUESTS // PARTS)
                async with asyncio.timeout(SETTLE_S):
                    while (health := (await http.get("/health")).json())["active"]:
                        await asyncio.sleep(0.01)
            assert (health["queue"], health["engine"]) == (0, "batched")
            assert sum(health["rows"].values()) == 0
            await watched.settled(tasks)
            await watched.descriptors(descriptors)
            held.append((health["memory_mb"], await watched.rss_mb()))
    assert not soak.wrong
    assert soak.answered > REQUESTS * (1 - LEAVING) * 0.9
    # What leaks grows with every part; an allocator's own ways show in one or the other.
    for mb in zip(*held, strict=True):
        assert min(after - before for before, after in pairwise(mb)) < FEW_MB, held
    # Each phase was left by some.
    assert all(count > 5 for count in phases(trace).values()), phases(trace)
