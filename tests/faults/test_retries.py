"""Attempts beyond the first, and providers that are left alone."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.harness.children import until
from tests.harness.one_provider import HELLO, STREAMED, last_error
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream, hello
from tests.harness.served import free_port


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def clock_of(signalbox: RunningRouter, provider: str) -> Clock:
    """Give a provider's breaker a clock of the test's own."""
    clock = Clock()
    signalbox.router.reaches[provider].breaker._clock = clock
    return clock


def answers(status: int, body: bytes | None = None, **headers: str) -> Script:
    """Return the script of a provider that always says this."""
    error = json.dumps({"error": {"message": "no", "type": "x", "code": "y"}}).encode()

    async def script(conversation: Conversation) -> None:
        await conversation.answer(body or error, status=status, **headers)

    return script


async def rude(conversation: Conversation) -> None:
    """Break the connection as soon as the request is there."""
    conversation.reset()


async def silent(conversation: Conversation) -> None:
    """Say nothing until the router leaves."""
    await conversation.left()


def two(*upstreams: ScriptedUpstream, **sections: Any) -> dict[str, Any]:
    """Return settings in which `text` is bound to these providers, in order."""
    return {
        "providers": {f"p{n}": openai_provider(each.url) for n, each in enumerate(upstreams)},
        "capabilities": {"text": [f"p{n}/m" for n in range(len(upstreams))]},
        **sections,
    }


async def test_row_71_retries_are_a_share_of_the_requests(tmp_path: Path) -> None:
    """With every provider failing, 100 requests cause 123 attempts: three, and a fifth of them."""
    async with (
        ScriptedUpstream(answers(503)) as first,
        ScriptedUpstream(answers(503)) as second,
        running_router(tmp_path, **two(first, second)) as signalbox,
    ):
        told = [(await signalbox.chat(HELLO)).headers["x-signalbox-attempts"] for _ in range(100)]
        assert len(first.seen) == 100
        assert len(second.seen) == 23
        assert (told.count("1"), told.count("2")) == (77, 23)
        assert told[:3] == ["2"] * 3


async def test_row_71_the_configured_number_bounds_each_request(tmp_path: Path) -> None:
    """Five providers fail, one further attempt is configured: two are asked."""
    async with (
        ScriptedUpstream(answers(503)) as a,
        ScriptedUpstream(answers(503)) as b,
        ScriptedUpstream() as c,
        running_router(tmp_path, **two(a, b, c)) as signalbox,
    ):
        assert (await signalbox.chat(HELLO)).status_code == 503
        assert [len(each.seen) for each in (a, b, c)] == [1, 1, 0]


@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_row_72_the_provider_sees_the_configured_count(tmp_path: Path, attempts: int) -> None:
    """Nothing multiplies: each of the providers sees a failing request once."""
    async with (
        ScriptedUpstream(answers(503)) as a,
        ScriptedUpstream(answers(503)) as b,
        ScriptedUpstream(answers(503)) as c,
        running_router(tmp_path, **two(a, b, c, retry={"attempts": attempts})) as signalbox,
    ):
        await signalbox.chat(HELLO)
        assert [len(each.seen) for each in (a, b, c)] == [1, attempts >= 1, attempts >= 2]


async def test_row_73_five_failures_in_a_row_and_it_is_left_alone(tmp_path: Path) -> None:
    """The sixth call fails at once, says when to come back and why, and connects to nobody."""
    async with (
        ScriptedUpstream(rude) as fm,
        running_router(tmp_path, **two(fm)) as signalbox,
    ):
        clock = clock_of(signalbox, "p0")
        for _ in range(5):
            assert (await signalbox.chat(HELLO)).status_code == 502
        connections = fm.connections
        clock.now += 10.5
        refusal = await signalbox.chat(HELLO)
        error = refusal.json()["error"]
        assert (refusal.status_code, error["code"]) == (503, "provider_unavailable")
        assert refusal.headers["retry-after"] == "20"
        assert refusal.headers["x-signalbox-error"] == "1"
        assert "p0 failed 5 times in a row" in error["message"]
        assert fm.connections == connections


async def test_row_73_a_closed_port_opens_it_too(tmp_path: Path) -> None:
    """Nobody listening counts as a failure of the way."""
    nobody = {"p": openai_provider(f"http://127.0.0.1:{free_port()}/v1")}
    async with running_router(
        tmp_path, providers=nobody, capabilities={"text": ["p/m"]}, breaker={"failures": 2}
    ) as signalbox:
        codes = [(await signalbox.chat(HELLO)).json()["error"]["code"] for _ in range(3)]
    assert codes == ["upstream_unreachable", "upstream_unreachable", "provider_unavailable"]


async def test_row_73_others_serve_meanwhile_without_using_up_retries(tmp_path: Path) -> None:
    """A hundred requests pass over a provider that is left alone: none of them is an attempt."""
    async with (
        ScriptedUpstream(rude) as dead,
        ScriptedUpstream() as other,
        running_router(
            tmp_path, **two(dead, other, breaker={"failures": 1}, retry={"attempts": 0})
        ) as signalbox,
    ):
        assert (await signalbox.chat(HELLO)).status_code == 502
        for _ in range(100):
            response = await signalbox.chat(HELLO)
            assert response.status_code == 200
            assert response.headers["x-signalbox-provider"] == "p1"
            assert response.headers["x-signalbox-attempts"] == "1"
        assert len(dead.seen) == 1
        assert len(other.seen) == 100


async def test_row_71_what_is_passed_over_costs_no_retry(tmp_path: Path) -> None:
    """Behind a failure others serve, whoever else is left alone; only who was asked is paid for."""
    async with (
        ScriptedUpstream(answers(503)) as failing,
        ScriptedUpstream(rude) as dead,
        ScriptedUpstream() as other,
        running_router(
            tmp_path,
            **two(
                *(failing, dead, other),
                breaker={"failures": 1},
                retry={"attempts": 1, "budget": 1.0},
            ),
        ) as signalbox,
    ):
        assert (await signalbox.chat({**HELLO, "model": "p1/m"})).status_code == 502
        for _ in range(20):
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "p2"
        # Nobody but the one that is left alone remains: nothing is paid for nothing.
        await signalbox.client.put("/admin/capabilities/text", json={"models": ["p0/m", "p1/m"]})
        before = repr(signalbox.router._proxy._retries)
        signalbox.router._proxy.limits = replace(signalbox.router._proxy.limits, retry_share=0.0)
        for _ in range(5):
            assert (await signalbox.chat(HELLO)).status_code == 503
        assert repr(signalbox.router._proxy._retries) == before
        assert len(dead.seen) == 1


async def test_row_74_fifty_callers_one_trial(tmp_path: Path) -> None:
    """When the time is over exactly one request is sent; the others hear 503 until it is answered.

    Afterwards everybody passes.
    """
    gate = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await gate.wait()
        await hello(conversation)

    async with (
        ScriptedUpstream(rude) as fm,
        running_router(tmp_path, **two(fm)) as signalbox,
    ):
        clock = clock_of(signalbox, "p0")
        for _ in range(5):
            await signalbox.chat(HELLO)
        fm.script, before = slow, len(fm.seen)
        clock.now += 30
        callers = [asyncio.create_task(signalbox.chat(HELLO)) for _ in range(50)]
        await until(lambda: sum(caller.done() for caller in callers) == 49)
        refused = [caller.result() for caller in callers if caller.done()]
        assert {each.json()["error"]["code"] for each in refused} == {"provider_unavailable"}
        assert {each.headers["retry-after"] for each in refused} == {"1"}
        assert len(fm.seen) == before + 1
        gate.set()
        statuses = [(await caller).status_code for caller in callers]
        assert statuses.count(200) == 1
        assert (await signalbox.chat(HELLO)).status_code == 200


async def test_row_74_a_trial_whose_client_leaves_is_nobodys(tmp_path: Path) -> None:
    """The next request tries it instead."""
    async with (
        ScriptedUpstream(rude) as fm,
        running_router(tmp_path, **two(fm)) as signalbox,
    ):
        clock = clock_of(signalbox, "p0")
        for _ in range(5):
            await signalbox.chat(HELLO)
        fm.script, before = silent, len(fm.seen)
        clock.now += 30
        caller = asyncio.create_task(signalbox.chat(HELLO))
        await until(lambda: len(fm.seen) == before + 1)
        caller.cancel()
        await asyncio.wait([caller])
        fm.script = hello
        await until(lambda: len(signalbox.router.in_flight) == 0)
        assert (await signalbox.chat(HELLO)).status_code == 200


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
async def test_row_75_a_provider_that_refuses_is_there(tmp_path: Path, status: int) -> None:
    """Ten refusals or errors of its own: the eleventh request is sent all the same."""
    async with (
        ScriptedUpstream(answers(status)) as fm,
        running_router(tmp_path, **two(fm)) as signalbox,
    ):
        for _ in range(10):
            await signalbox.chat(HELLO)
        fm.script = hello
        assert (await signalbox.chat(HELLO)).status_code == 200
        assert len(fm.seen) == 11


async def test_row_75_clients_that_leave_open_nothing(tmp_path: Path) -> None:
    """Ten clients lose patience with a slow provider, and the eleventh is sent to it."""
    async with (
        ScriptedUpstream(silent) as fm,
        running_router(tmp_path, **two(fm)) as signalbox,
    ):
        for number in range(10):
            caller = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda number=number: len(fm.seen) == number + 1)  # type: ignore[misc]
            caller.cancel()
            await asyncio.wait([caller])
        fm.script = hello
        await until(lambda: len(signalbox.router.in_flight) == 0)
        assert (await signalbox.chat(HELLO)).status_code == 200


async def test_row_56_a_stream_that_breaks_off_counts(tmp_path: Path) -> None:
    """A provider that cuts every stream short is left alone as one that cannot be reached is."""

    async def cut(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await conversation.end_stream()

    async with (
        ScriptedUpstream(cut) as fm,
        running_router(tmp_path, **two(fm, breaker={"failures": 2})) as signalbox,
    ):
        for _ in range(2):
            body = (await signalbox.chat(STREAMED)).content
            assert last_error(body)["code"] == "upstream_truncated"
        refusal = await signalbox.chat(STREAMED)
        assert refusal.json()["error"]["code"] == "provider_unavailable"


async def test_row_76_the_only_provider_is_tried_again_for_ever(tmp_path: Path) -> None:
    """However often it failed: when the time is over one request goes to it, and heals it."""
    async with (
        ScriptedUpstream(rude) as fm,
        running_router(tmp_path, **two(fm, breaker={"failures": 1, "open_s": 5})) as signalbox,
    ):
        clock = clock_of(signalbox, "p0")
        for trial in range(20):
            assert (await signalbox.chat(HELLO)).json()["error"]["code"] == "upstream_reset"
            assert (await signalbox.chat(HELLO)).status_code == 503
            assert len(fm.seen) == trial + 1
            (row,) = (await signalbox.client.get("/admin/providers")).json()["data"]
            assert (row["state"], row["message"][:3]) == ("open", "p0 ")
            clock.now += 5
        (row,) = (await signalbox.client.get("/admin/providers")).json()["data"]
        assert row["state"] == "half_open"
        fm.script = hello
        assert (await signalbox.chat(HELLO)).status_code == 200
        assert (await signalbox.chat(HELLO)).status_code == 200
