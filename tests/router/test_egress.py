"""What went to whom, and what may: figures by provider and day."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.egress import Egress, Key, Price, Row, Sent, SpendLimit, Tariff
from router.errors import Reply, RouteFailed, Unasked
from router.usage import Usage, usage_of

NOON = 1_800_000_000.0


class Clock:
    """Seconds since 1970 that pass when told to."""

    now = NOON

    def __call__(self) -> float:
        return self.now


def ask(egress: Egress, provider: str = "p", *, size: int = 10, usage: Usage | None = None) -> None:
    """Send one request and have it answered."""
    with egress.account(provider, "local", f"{provider}/m", size) as account:
        account.answer = Reply(200, (), b"", usage)


def keyed(rows: list[Row]) -> dict[Key, Sent]:
    """Return rows by day, provider and locality."""
    return {(day, name, locality): sent for day, name, locality, sent in rows}


def test_figures_are_those_of_a_provider_and_a_day() -> None:
    """Requests and bytes add up, tokens where they are told, and a new day begins at midnight."""
    clock = Clock()
    egress = Egress(Tariff(), clock)
    ask(egress, usage=Usage(3, 4))
    ask(egress)
    ask(egress, "q", size=5)
    clock.now += 86_400
    ask(egress, usage=Usage(1, 1))
    rows = [(day, name, sent.requests, sent.bytes_out) for day, name, _, sent in egress.rows()]
    assert rows == [
        ("2027-01-16", "p", 1, 10),
        ("2027-01-15", "q", 1, 5),
        ("2027-01-15", "p", 2, 20),
    ]
    sent = egress.rows()[2][3]
    assert (sent.prompt_tokens, sent.completion_tokens, sent.untold) == (3, 4, 1)


def test_a_request_counts_though_it_fails() -> None:
    """What was sent has left, whatever became of it."""
    egress = Egress(Tariff(), Clock())
    with pytest.raises(RuntimeError), egress.account("p", "local", "p/m", 7):
        raise RuntimeError
    (row,) = egress.rows()
    assert (row[3].requests, row[3].bytes_out, row[3].untold) == (1, 7, 1)


def test_a_request_that_was_not_sent_counts_for_nothing() -> None:
    """Nothing has left where it could not be put for the provider."""
    egress = Egress(Tariff(), Clock())
    for _ in range(2):
        with pytest.raises(Unasked), egress.account("p", "local", "p/m", 7):
            raise Unasked("invalid_request", "It cannot be translated.")
        assert egress.rows() == []
    ask(egress)
    (row,) = egress.rows()
    assert (row[3].requests, row[3].bytes_out, row[3].untold) == (1, 10, 1)


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        (SpendLimit(requests=3), 3),
        (SpendLimit(tokens=30), 3),
        (SpendLimit(tokens=25), 3),
        (SpendLimit(cost=0.0006), 3),
        (SpendLimit(requests=9, tokens=10, cost=9), 1),
        (SpendLimit(), 20),
    ],
)
def test_a_provider_gets_no_more_than_its_share_of_a_day(limit: SpendLimit, allowed: int) -> None:
    """Once it had that much, the next request is refused until midnight; others are not."""
    clock = Clock()
    tariff = Tariff({"p": limit}, {"p/m": Price(prompt=10, completion=30)})
    egress = Egress(tariff, clock)
    for _ in range(allowed):
        egress.check("p")
        ask(egress, usage=Usage(5, 5))
    if limit == SpendLimit():
        egress.check("p")
        return
    with pytest.raises(RouteFailed) as raised:
        egress.check("p")
    refusal = raised.value
    assert refusal.code == "spend_limit_reached"
    assert refusal.retry_after_s == 86_400 - NOON % 86_400
    assert "providers.p.spend_limit" in refusal.message
    egress.check("q")
    clock.now += 86_400
    egress.check("p")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, (3, 4)),
        ({"input_tokens": 3, "output_tokens": 4}, (3, 4)),
        ({"prompt_tokens": 3}, (3, 0)),
        ({"output_tokens": 4}, (0, 4)),
        (
            {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 7},
            (15, 0),
        ),
        ({"input_tokens": 3, "cache_read_input_tokens": None}, (3, 0)),
        ({"type": "duration", "seconds": 9}, None),
        ({"total_tokens": 7}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 1.5}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 1 << 60}, None),
        ([], None),
        (None, None),
    ],
)
def test_tokens_are_those_that_a_provider_tells(told: object, expected: object) -> None:
    """In either protocol's words; a figure that is none counts as not told."""
    assert usage_of({"usage": told}) == expected
    assert usage_of([told]) is None


@given(st.lists(st.tuples(st.sampled_from("pq"), st.integers(0, 99), st.booleans())))
def test_what_is_saved_is_what_was_counted(steps: list[tuple[str, int, bool]]) -> None:
    """However often changes are taken, lost and taken again: the last ones give the whole."""
    egress = Egress(Tariff(), Clock())
    saved: dict[Key, Sent] = {}
    for provider, size, fails in steps:
        ask(egress, provider, size=size)
        changes = egress.take_changes()
        if fails:
            egress.keep_changes(changes)
        else:
            saved.update(keyed(changes))
    saved.update(keyed(egress.take_changes()))
    assert saved == keyed(egress.rows())
    other = Egress(Tariff(), Clock())
    other.restore((*key, sent) for key, sent in saved.items())
    assert other.rows() == egress.rows()
