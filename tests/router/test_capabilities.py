"""The needs that a request is found to have, and their order."""

from hypothesis import given
from hypothesis import strategies as st

from router.capabilities import Capability, Input, Needs

_ANY = st.sampled_from([*Capability, *Input])


@given(st.lists(_ANY))
def test_needs_are_told_in_one_order_however_they_were_found(found: list[Capability]) -> None:
    """What is found first changes nothing, and a request that needs no lever needs text."""
    needs = Needs()
    for need in found:
        needs.add(need)
    assert (needs.levers, needs.inputs) == (Needs(*reversed(found)).levers, Needs(*found).inputs)
    assert [*needs.levers, *needs.inputs] == [
        need
        for need in (*Capability, *Input)
        if need in found or (need is Capability.TEXT and not set(Capability) & set(found))
    ]


def test_each_picture_counts() -> None:
    """Pictures are a need once, and are counted each."""
    needs = Needs()
    needs.add_picture()
    needs.add_picture()
    assert (needs.levers, needs.images) == ((Capability.VISION,), 2)
