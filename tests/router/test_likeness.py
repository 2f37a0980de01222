"""What may have been meant by a name that is not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.likeness import Names

LISTED = [f"cloud/org/m{number}-{size}b" for number in range(500) for size in (7, 70)]
WRITTEN = ["auto", "text", "vision", "gpt-4o", "ollama/qwen3", "builtin/smollm2-135m"]
NAMES = Names(WRITTEN, [*LISTED, "router/openai/gpt-5-mini", "router/meta/llama-3.3-70b-instruct"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("atuo", "auto"),
        ("vison", "vision"),
        ("qwen-3", "ollama/qwen3"),
        ("smollm2-153m", "builtin/smollm2-135m"),
        ("olama/qwen3", "ollama/qwen3"),
        # By the bare id, in another spelling, and cut short.
        ("gpt-5-mini", "router/openai/gpt-5-mini"),
        ("openai/GPT5_Mini", "router/openai/gpt-5-mini"),
        ("GPT 5 MINI", "router/openai/gpt-5-mini"),
        ("llama-3.3-70b", "router/meta/llama-3.3-70b-instruct"),
        ("m42-7b", "cloud/org/m42-7b"),
    ],
)
def test_the_likeliest_name_comes_first(name: str, expected: str) -> None:
    """A slip of the fingers, a bare id, another spelling, a name cut short."""
    assert NAMES.like(name)[0] == expected


@pytest.mark.parametrize("name", ["", "/", "zzzzzz", "€"])
def test_what_is_like_nothing_is_told_nothing(name: str) -> None:
    """A poor guess helps nobody."""
    assert NAMES.like(name) == []


def test_more_names_than_a_person_writes_are_found_all_the_same() -> None:
    """What is written by a program joins those that are listed."""
    many = Names([f"box/model-{number}" for number in range(1_000)], [])
    assert many.like("model-999")[0] == "box/model-999"


@given(st.text(max_size=2_000), st.lists(st.text(max_size=80), max_size=20))
def test_any_name_is_compared(name: str, names: list[str]) -> None:
    """Nothing that a client may send is refused, and at most three are told."""
    told = Names(names[:3], names[3:]).like(name)
    assert len(told) <= 3
    assert set(told) <= set(names)
