"""The bucket of further attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.retry_budget import RetryBudget


def test_three_are_in_hand_at_the_start() -> None:
    """A first request may fail and be tried again at once; a fourth in a row may not."""
    budget = RetryBudget()
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    assert repr(budget) == "<RetryBudget 0.0>"


@pytest.mark.parametrize(("share", "most"), [(0.0, 3), (0.2, 23), (1.0, 100)])
def test_a_hundred_failing_requests_make_so_many_further_attempts(share: float, most: int) -> None:
    """When everything fails, the attempts beyond the first are a share of the requests."""
    budget = RetryBudget()
    spent = 0
    for _ in range(100):
        budget.earn(share)
        spent += budget.spend()
    assert spent == most


def test_a_quiet_hour_saves_up_no_more_than_twenty() -> None:
    """Requests that went well do not add up to a storm."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn(0.2)
    assert sum(budget.spend() for _ in range(100)) == 20


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=300))
def test_never_more_is_spent_than_was_earned(share: float, spends: list[bool]) -> None:
    """Whatever the order of requests and attempts: three, and a share of the requests."""
    budget = RetryBudget()
    spent = 0
    for requests, wants in enumerate(spends, 1):
        budget.earn(share)
        spent += wants and budget.spend()
        assert spent <= 3 + share * requests + 1e-6
