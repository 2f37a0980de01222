"""Where the pictures of a request lie."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.capabilities import Capability, Dialect
from router.classification.chat import needs_of_chat
from router.classification.messages import needs_of_messages
from router.classification.pictures import Reference, references
from router.classification.responses import needs_of_responses
from tests.router.classification.shapes import BODIES, with_part

NEEDS = {
    Dialect.CHAT: needs_of_chat,
    Dialect.RESPONSES: needs_of_responses,
    Dialect.MESSAGES: needs_of_messages,
}
FIELD = {Dialect.CHAT: "messages", Dialect.RESPONSES: "input", Dialect.MESSAGES: "messages"}
KIND = {Dialect.CHAT: "image_url", Dialect.RESPONSES: "input_image", Dialect.MESSAGES: "image"}


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (
            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
            [("image_url.url", "u")],
        ),
        ({"type": "image_url", "image_url": "u"}, [("image_url", "u")]),
        ({"image_url": {"url": "u"}}, [("image_url.url", "u")]),
        ({"type": None, "image_url": "u"}, [("image_url", "u")]),
        ({"type": "input_image", "image_url": "u", "file_id": "f"}, [("image_url", "u")]),
        ({"type": "input_image", "file_id": "f"}, []),
        ({"type": "image", "image": "u"}, [("image", "u")]),
        ({"type": "image", "url": "u"}, [("url", "u")]),
        ({"type": "image", "path": "u"}, [("path", "u")]),
        ({"type": "image", "image": {"path": "u"}}, [("image.path", "u")]),
        ({"type": "image", "source": {"type": "url", "url": "u"}}, [("source", "u")]),
        ({"type": "image", "source": {"type": "file", "file_id": "u"}}, []),
        ({"type": "image_url", "image_url": {"url": 3}}, []),
        ({"type": "image_url", "image_url": ["u"]}, []),
        (
            {"type": "image", "url": "a", "image_url": {"url": "b"}, "source": "c"},
            [("image_url.url", "b"), ("url", "a"), ("source", "c")],
        ),
        ({"type": "text", "image_url": {"url": "u"}}, []),
    ],
)
def test_each_way_of_naming_a_picture_is_found(
    part: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    """OpenAI's own and those that servers of its dialect take."""
    body = {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": [part]}]}
    told = [(each.param, each.text) for each in references(Dialect.CHAT, body)]
    assert told == [(f"messages[1].content[0].{where}", text) for where, text in found]


def test_base64_of_anthropics_protocol_is_found_with_its_type() -> None:
    """In a tool's result, too; the arguments of its calls are none of its blocks."""
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    image = {"type": "image", "source": source}
    result = {"type": "tool_result", "content": [image]}
    call = {"type": "tool_use", "input": image}
    body = {"messages": [{"role": "user", "content": [result, call]}]}
    place = ("messages", 0, "content", 0, "content", 0, "source")
    assert references(Dialect.MESSAGES, body) == (
        Reference(place, "AAAA", "image/png", is_source=True),
    )
    assert "AAAA" not in repr(references(Dialect.MESSAGES, body))


def test_a_screenshot_is_a_picture_of_the_responses_protocol() -> None:
    """It lies in what came of a call."""
    output = {"type": "computer_screenshot", "image_url": "u"}
    body = {"input": [{"type": "computer_call_output", "output": output}]}
    (found,) = references(Dialect.RESPONSES, body)
    assert (found.param, found.text) == ("input[0].output.image_url", "u")


def test_who_speaks_no_dialect_names_no_picture() -> None:
    """Endpoints that are no conversation."""
    assert references(None, {"input": [{"type": "input_image", "image_url": "u"}]}) == ()


@given(
    body=BODIES,
    place=st.integers(0, 9),
    dialect=st.sampled_from(list(Dialect)),
    known=st.booleans(),
)
def test_what_is_counted_is_found_and_nothing_else(
    body: dict[str, Any], place: int, dialect: Dialect, *, known: bool
) -> None:
    """In a request of any shape each picture's place leads to what names it."""
    if known:
        part = {"type": KIND[dialect], "image_url": "u", "source": {"url": "u"}}
        body = with_part(body, FIELD[dialect], part, place)
    found = references(dialect, body)
    if found:
        assert Capability.VISION in NEEDS[dialect](body).levers
    if known:
        assert found
    for each in found:
        value: Any = body
        for step in each.place:
            value = value[step]
        assert each.text == value or each.text in {
            value.get(key) for key in ("url", "path", "data")
        }
