"""More requests than a provider gets at once: who waits, who overtakes, who is refused."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.children import until
from tests.harness.one_provider import HELLO, STREAMED
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream, hello


class Slow:
    """A provider whose answers come when they are let go, one by one."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Event] = []
        self.order: list[str] = []

    async def __call__(self, conversation: Conversation) -> None:
        """Answer when told to."""
        gate = asyncio.Event()
        self.gates.append(gate)
        self.order.append(conversation.json["user"])
        await gate.wait()
        await hello(conversation)

    def let_go(self, number: int) -> None:
        """Answer the request that came as this one."""
        self.gates[number].set()

    async def serve(self, number: int) -> None:
        """Answer so many requests, in the order in which they come."""
        for each in range(number):
            await until(lambda each=each: len(self.gates) > each)  # type: ignore[misc]
            self.let_go(each)


def lane(fm: ScriptedUpstream, **numbers: Any) -> dict[str, Any]:
    """Return settings with one provider and its lane."""
    return {
        "providers": {"fm": openai_provider(fm.url)},
        "capabilities": {"text": ["fm/m"]},
        "lanes": {"fm": numbers},
    }


def ask(signalbox: RunningRouter, name: str, priority: str) -> asyncio.Task[httpx2.Response]:
    """Send a request that is known by its `user`."""
    body = {**HELLO, "user": name}
    return asyncio.create_task(signalbox.chat(body, **{"x-priority": priority}))


async def waiting(signalbox: RunningRouter, number: int) -> None:
    """Return when so many wait."""
    admission = signalbox.router.reaches["fm"].admission
    assert admission is not None
    await until(lambda: admission.lane.waiting == number)


async def test_row_77_a_full_queue_is_told_at_once(tmp_path: Path) -> None:
    """Two places and two that wait: the others hear 429 before anything was sent, streams too."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=2, queue=2, reserve_high=0)) as signalbox,
    ):
        callers = []
        for number in range(4):
            callers.append(ask(signalbox, str(number), "low"))
            await until(lambda: len(signalbox.router.in_flight) == len(callers))
        await waiting(signalbox, 2)
        refused = [await signalbox.chat(STREAMED) for _ in range(16)]
        assert {each.status_code for each in refused} == {429}
        assert {each.json()["error"]["code"] for each in refused} == {"queue_full"}
        assert {each.json()["error"]["type"] for each in refused} == {"rate_limit_error"}
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert {each.headers["content-type"] for each in refused} == {"application/json"}
        await slow.serve(4)
        assert {(await caller).status_code for caller in callers} == {200}
        assert len(fm.seen) == 4


async def test_row_77_retry_after_is_what_the_queue_will_take(tmp_path: Path) -> None:
    """With answers of 20 s, one place and two waiting, a refused one is told a minute."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=1, queue=2, reserve_high=0)) as signalbox,
    ):
        admission = signalbox.router.reaches["fm"].admission
        assert admission is not None
        admission.has_served(20)
        callers = [ask(signalbox, str(number), "low") for number in range(3)]
        await waiting(signalbox, 2)
        refused = await signalbox.chat(HELLO)
        assert refused.headers["retry-after"] == "60"
        await slow.serve(3)
        await asyncio.gather(*callers)


async def test_row_78_a_wait_that_is_too_long_ends_without_a_place(tmp_path: Path) -> None:
    """After `queue_s` a waiting request hears 503, was never sent, and holds nothing."""
    slow = Slow()
    async with ScriptedUpstream(slow) as fm:
        sections = lane(fm, concurrency=1, queue=5, reserve_high=0)
        async with running_router(tmp_path, **sections, timeouts={"queue_s": 0.1}) as signalbox:
            first = ask(signalbox, "first", "low")
            await until(lambda: len(slow.gates) == 1)
            late = await ask(signalbox, "late", "low")
            assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
            assert int(late.headers["retry-after"]) >= 1
            await waiting(signalbox, 0)
            slow.let_go(0)
            assert (await first).status_code == 200
        assert slow.order == ["first"]


async def test_row_79_interactive_overtakes_batch(tmp_path: Path) -> None:
    """Behind forty batch requests an interactive one is next; what runs is not ended for it."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=2, queue=50, reserve_high=0)) as signalbox,
    ):
        batch = [ask(signalbox, f"low {number}", "low") for number in range(40)]
        await waiting(signalbox, 38)
        high = ask(signalbox, "high", "high")
        await waiting(signalbox, 39)
        slow.let_go(0)
        # One service time of waiting, where two are allowed.
        await until(lambda: len(slow.gates) == 3)
        assert slow.order[2] == "high"
        await slow.serve(41)
        answers = [await caller for caller in [*batch, high]]
        assert {answer.status_code for answer in answers} == {200}


async def test_row_79_a_reserved_place_is_free_at_once(tmp_path: Path) -> None:
    """With the packaged reserve a batch flood leaves a place in which nobody has to wait."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=3, queue=50, reserve_high=1)) as signalbox,
    ):
        batch = [ask(signalbox, f"low {number}", "low") for number in range(10)]
        await waiting(signalbox, 8)
        high = ask(signalbox, "high", "high")
        await until(lambda: "high" in slow.order)
        assert len(slow.order) == 3
        await slow.serve(11)
        await asyncio.gather(*batch, high)


async def test_row_79_a_queue_full_of_batch_makes_room(tmp_path: Path) -> None:
    """Interactive is not refused for batch that waits: the batch request that came last is."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=1, queue=3, reserve_high=0)) as signalbox,
    ):
        batch = []
        for number in range(4):
            batch.append(ask(signalbox, f"low {number}", "low"))
            await waiting(signalbox, number)
        high = ask(signalbox, "high", "high")
        displaced = await batch[3]
        assert (displaced.status_code, displaced.json()["error"]["code"]) == (429, "queue_full")
        await slow.serve(4)
        assert {(await caller).status_code for caller in [*batch[:3], high]} == {200}
        assert slow.order == ["low 0", "high", "low 1", "low 2"]


async def test_row_80_a_flood_of_interactive_lets_batch_through(tmp_path: Path) -> None:
    """Of 200 requests served in a flood, at least every eighth is one that waits as LOW."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **lane(fm, concurrency=2, queue=300, reserve_high=1)) as signalbox,
    ):
        first = [ask(signalbox, f"high first {number}", "high") for number in range(2)]
        await until(lambda: len(slow.gates) == 2)
        batch = [ask(signalbox, f"low {number}", "low") for number in range(40)]
        await waiting(signalbox, 40)
        flood = [ask(signalbox, f"high {number}", "high") for number in range(200)]
        await waiting(signalbox, 240)
        await slow.serve(242)
        served = slow.order[2:202]
        assert sum(name.startswith("low") for name in served) >= 200 // 8
        # None of them waits longer than for seven others.
        lows = [at for at, name in enumerate(served) if name.startswith("low")]
        assert all(later - earlier <= 9 for earlier, later in itertools.pairwise(lows))
        answers = await asyncio.gather(*first, *batch, *flood)
        assert {answer.status_code for answer in answers} == {200}


KEYS = {
    "api_keys": [{"env": "CHAT", "priority": "high"}, {"env": "BATCH", "priority": "low"}],
    "admin_key": {"env": "BOSS"},
}
ENVIRON = {"CHAT": "chat", "BATCH": "batch", "BOSS": "boss"}


@pytest.mark.parametrize(
    ("key", "model", "headers", "expected"),
    [
        ("chat", "text", {}, 1),
        ("batch", "text", {}, 10),
        # A key says who asks, an alias only by which name.
        ("batch", "chat-ui", {}, 10),
        ("boss", "chat-ui", {}, 1),
        ("boss", "text", {}, 10),
        ("batch", "text", {"x-priority": "high"}, 1),
        ("chat", "text", {"x-priority": "10"}, 10),
        ("boss", "chat-ui", {"x-priority": "low"}, 10),
        ("boss", "text", {"x-priority": "system"}, 0),
    ],
)
async def test_row_81_who_names_no_priority_has_that_of_the_key_or_the_alias(
    tmp_path: Path, key: str, model: str, headers: dict[str, str], expected: int
) -> None:
    """The request's own word counts first, then its key's, its alias's, and the default's."""
    slow = Slow()
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(
            tmp_path,
            **lane(fm),
            server=KEYS,
            aliases={"chat-*": {"to": "auto", "priority": "high"}},
            environ=ENVIRON,
        ) as signalbox,
    ):
        asked = asyncio.create_task(
            signalbox.chat(
                {**HELLO, "model": model, "user": "x"}, authorization=f"Bearer {key}", **headers
            )
        )
        await until(lambda: len(slow.gates) == 1)
        (flight,) = signalbox.router.in_flight
        slow.let_go(0)
        assert (await asked).status_code == 200
        # Nothing of it reaches a provider that is not ours.
        assert not {"x-priority", "authorization"} & fm.seen[0].headers.keys()
    assert flight.priority == expected


@pytest.mark.parametrize(
    ("key", "priority", "status", "code"),
    [
        ("chat", "urgent", 400, "invalid_priority"),
        ("chat", "2", 400, "invalid_priority"),
        ("chat", "system", 403, "priority_not_allowed"),
        ("chat", "0", 403, "priority_not_allowed"),
    ],
)
async def test_row_81_a_priority_that_is_none_or_not_ones_own_is_refused(
    tmp_path: Path, key: str, priority: str, status: int, code: str
) -> None:
    """An unknown word is named with those there are; SYSTEM needs the admin key."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **lane(fm), server=KEYS, environ=ENVIRON) as signalbox,
    ):
        told = {"authorization": f"Bearer {key}", "x-priority": priority}
        answer = await signalbox.chat(HELLO, **told)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert fm.seen == []


async def test_row_81_without_an_admin_key_nobody_is_system(tmp_path: Path) -> None:
    """Open to this machine's users, and still nobody overtakes the router itself."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **lane(fm)) as signalbox,
    ):
        answer = await signalbox.chat(HELLO, **{"x-priority": "system"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "priority_not_allowed")
