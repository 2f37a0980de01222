"""When a provider is left alone, and when it is tried again."""

import asyncio
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.breaker import TRANSPORT_FAILURES, Breaker, State
from router.errors import (
    ClientGone,
    ProviderFailed,
    Refused,
    Reply,
    RouteFailed,
    StreamFailed,
    Unasked,
)

DEAD = RouteFailed("upstream_unreachable", "fm cannot be reached.")


def _end(error: BaseException | None) -> None:
    if error is not None:
        raise error


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Provider:
    """A breaker, its clock, what it said, and requests that end as they are told to."""

    def __init__(self, failures: float = 3, open_s: float = 30) -> None:
        self.clock = Clock()
        self.said: list[str] = []
        self.breaker = Breaker("fm", failures, open_s, emit=self.said.append, clock=self.clock)

    def request(self, error: BaseException | None = None) -> None:
        """Let one request pass and end so; RouteFailed when it may not pass."""
        try:
            with self.breaker.passage():
                _end(error)
        except BaseException as raised:
            if raised is not error:
                raise

    def refused(self) -> RouteFailed:
        """Return what a request hears that may not pass."""
        with pytest.raises(RouteFailed) as raised:
            self.request()
        return raised.value


def test_failures_in_a_row_open_it() -> None:
    """The third failure in a row shuts the way, with the time left and the reason; said once."""
    fm = Provider()
    for _ in range(3):
        assert fm.breaker.state == State.CLOSED
        fm.request(DEAD)
    assert fm.breaker.state == State.OPEN
    fm.clock.now += 10
    refusal = fm.refused()
    assert (refusal.code, refusal.retry_after_s) == ("provider_unavailable", 20)
    assert "fm cannot be reached." in refusal.message
    assert fm.breaker.why == "fm cannot be reached."
    assert len(fm.said) == 1


def test_a_whole_answer_begins_the_count_anew() -> None:
    """Failures count in a row only."""
    fm = Provider()
    for error in (DEAD, DEAD, None, DEAD, DEAD):
        fm.request(error)
    assert fm.breaker.state == State.CLOSED
    assert repr(fm.breaker) == "<Breaker fm closed failures=2>"


def test_one_request_tries_it_when_the_time_is_over() -> None:
    """Half open, exactly one passes; the others hear to ask again soon; its answer closes it."""
    fm = Provider(failures=1)
    fm.request(DEAD)
    fm.clock.now += 30
    assert repr(fm.breaker) == "<Breaker fm half_open failures=1>"
    with fm.breaker.passage() as trial:
        refusals = [fm.refused() for _ in range(49)]
        assert {(each.code, each.retry_after_s) for each in refusals} == {
            ("provider_unavailable", 1.0)
        }
        trial.answered()
        # The answer is still under way, and others may pass already.
        fm.request()
    assert fm.breaker.state == State.CLOSED
    assert fm.breaker.why is None
    assert fm.said[1:] == ["fm answers again"]


def test_a_trial_that_fails_opens_it_again() -> None:
    """The time begins anew, and again one request will try."""
    fm = Provider(failures=2)
    fm.request(DEAD)
    fm.request(DEAD)
    for _ in range(5):
        fm.clock.now += 30
        fm.request(DEAD)
        assert fm.refused().retry_after_s == 30
    fm.clock.now += 30
    fm.request()
    assert fm.breaker.state == State.CLOSED


@pytest.mark.parametrize(
    "error",
    [
        ClientGone(),
        asyncio.CancelledError(),
        Refused("request_cancelled", "by hand"),
        Unasked("upstream_unreachable", "not even tried"),
        Unasked("invalid_request", "no counterpart"),
    ],
)
def test_a_trial_that_left_decides_nothing(error: BaseException) -> None:
    """A request that goes away, or never went, lets the next one try: it shows nothing."""
    fm = Provider(failures=1)
    fm.request(DEAD)
    fm.clock.now += 30
    fm.request(error)
    fm.request(DEAD)
    assert fm.breaker.state == State.OPEN


@pytest.mark.parametrize(
    "error",
    [
        RouteFailed("provider_auth_error", "a wrong key"),
        RouteFailed("upstream_invalid_response", "a page"),
        ProviderFailed("upstream_invalid_response", "500", reply=Reply(500, (), b"")),
        ClientGone(),
        asyncio.CancelledError(),
        None,
    ],
)
def test_what_shows_that_the_provider_is_there_does_not_count(error: BaseException | None) -> None:
    """Wrong keys, refusals, server errors and clients that leave open nothing."""
    fm = Provider(failures=1)
    for _ in range(10):
        fm.request(error)
    assert fm.breaker.state == State.CLOSED


@pytest.mark.parametrize("code", sorted(TRANSPORT_FAILURES - {"upstream_truncated"}))
def test_what_shows_that_it_is_not_there_counts(code: str) -> None:
    """Each failure of the way to it counts."""
    fm = Provider(failures=1)
    fm.request(RouteFailed(code, "broken"))
    assert fm.breaker.state == State.OPEN


def test_an_answer_that_breaks_off_counts_although_it_began() -> None:
    """A provider that cuts every stream short is left alone too."""
    fm = Provider()
    for _ in range(3):
        with fm.breaker.passage() as passage:
            passage.answered()
            passage.broke_off(StreamFailed("upstream_truncated", "cut"))
    assert fm.breaker.state == State.OPEN


def test_who_began_before_it_opened_decides_nothing() -> None:
    """A stream from better times neither closes it nor counts, and fails no trial."""
    fm = Provider(failures=1)
    with fm.breaker.passage(), fm.breaker.passage() as doomed:
        fm.request(DEAD)
        doomed.broke_off(StreamFailed("upstream_truncated", "cut"))
        fm.clock.now += 15
    assert fm.refused().retry_after_s == 15


def test_one_that_knows_no_bound_never_opens() -> None:
    """With endless patience every request passes."""
    fm = Provider(failures=math.inf)
    for _ in range(1000):
        fm.request(DEAD)
    assert fm.breaker.state == State.CLOSED


@given(st.lists(st.sampled_from(["dead", "well", "gone", "wait"]), max_size=60))
def test_it_is_never_shut_for_good(steps: list[str]) -> None:
    """Whatever happened: once the time is over somebody may pass, and a good answer closes it."""
    fm = Provider(failures=2, open_s=30)
    for step in steps:
        if step == "wait":
            fm.clock.now += 10
            continue
        with suppress(RouteFailed):
            fm.request({"dead": DEAD, "well": None, "gone": ClientGone()}[step])
    fm.clock.now += 30
    fm.request()
    assert fm.breaker.state == State.CLOSED
