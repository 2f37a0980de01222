"""What the answer to a trial shows, from right ones to garbage."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from router.capabilities import Capability
from router.trial import (
    COLOURS,
    Finding,
    Shown,
    Trial,
    png,
    schema_trial,
    settled,
    text_trial,
    tool_trial,
    vision_trial,
)

CAN, REFUSED, IGNORED, NOTHING = Shown.CAN, Shown.REFUSED, Shown.IGNORED, Shown.NOTHING


def answer(content: object = None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}


def call(arguments: object, name: str = "report_number") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return answer(tool_calls=[{"id": "c", "type": "function", "function": function}])


def error(message: object) -> dict[str, Any]:
    return {"error": {"message": message, "code": None}}


TEXT, RED = text_trial(), vision_trial("red")
TOOL, SCHEMA = tool_trial(4173, "auto"), schema_trial("has_x")


@pytest.mark.parametrize(
    ("trial", "status", "told", "shown"),
    [
        (TEXT, 200, answer("Hello"), CAN),
        (TEXT, 200, answer(None, reasoning_content="Well"), CAN),
        (TEXT, 200, answer(" "), NOTHING),
        (TEXT, 404, error("no such model"), NOTHING),
        (RED, 200, answer("Red."), CAN),
        (RED, 200, answer("The picture is RED"), CAN),
        (RED, 200, answer("blue"), NOTHING),
        (RED, 200, answer("red, green or blue"), NOTHING),
        (RED, 200, answer("not purple but red"), NOTHING),
        (RED, 200, answer("a hundred"), NOTHING),
        (RED, 200, answer(None), NOTHING),
        (RED, 400, error("This model does not support image input."), REFUSED),
        (RED, 422, error("unknown variant `image_url`, expected `text`"), REFUSED),
        (RED, 500, error("image input is not supported - hint: provide the mmproj"), REFUSED),
        (RED, 400, error("Invalid image: too small"), NOTHING),
        (RED, 400, error("max_tokens is not supported"), NOTHING),
        (RED, 403, error("images are not allowed for your key"), NOTHING),
        (RED, 429, error("images not supported at this rate"), NOTHING),
        (RED, 500, error("out of memory"), NOTHING),
        (TOOL, 200, call('{"number": 4173}'), CAN),
        (TOOL, 200, call('{"number": 4174}'), NOTHING),
        (TOOL, 200, call('{"number": "4173"}'), NOTHING),
        (TOOL, 200, call("{"), IGNORED),
        (TOOL, 200, call('{"number": 4173}', name="other"), IGNORED),
        (TOOL, 200, answer('report_number({"number": 4173})'), IGNORED),
        (TOOL, 200, answer("Well, let me", finish="length"), NOTHING),
        (TOOL, 400, error("registry/smol does not support tools"), REFUSED),
        (TOOL, 400, error("tool_choice is unknown"), NOTHING),
        (SCHEMA, 200, answer('{"has_x": true}'), CAN),
        (SCHEMA, 200, answer('{"legs": true}'), IGNORED),
        (SCHEMA, 200, answer('{"has_x": 4}'), IGNORED),
        (SCHEMA, 200, answer('{"has_x": true, "cat": 1}'), IGNORED),
        (SCHEMA, 200, answer("Four."), IGNORED),
        (SCHEMA, 200, answer('{"has_', finish="length"), NOTHING),
        (SCHEMA, 400, error("response_format type json_schema is not supported"), REFUSED),
        (SCHEMA, 400, error("prompt is empty"), NOTHING),
    ],
)
def test_an_answer_shows_only_what_it_proves(
    trial: Trial, status: int, told: Any, shown: Shown
) -> None:
    """A right answer shows that it can; a refusal that names the thing shows that it cannot."""
    finding = trial.judge(status, told)
    assert finding.shown is shown, finding.why
    assert finding.why


def _found(*shown: Shown) -> list[Finding]:
    return [Finding(each, "") for each in shown]


@pytest.mark.parametrize(
    ("capability", "shown", "value"),
    [
        (Capability.VISION, (CAN,), None),
        (Capability.VISION, (CAN, CAN), True),
        (Capability.VISION, (CAN, NOTHING), None),
        (Capability.VISION, (CAN, REFUSED), False),
        (Capability.TOOL_USE, (CAN,), True),
        (Capability.TOOL_USE, (IGNORED,), None),
        (Capability.TOOL_USE, (IGNORED, CAN), True),
        (Capability.TOOL_USE, (IGNORED, IGNORED), False),
        (Capability.TOOL_USE, (IGNORED, NOTHING), None),
        (Capability.TOOL_USE, (REFUSED,), False),
        (Capability.STRUCTURED_OUTPUT, (NOTHING, CAN), True),
    ],
)
def test_a_verdict_takes_as_much_as_it_takes(
    capability: Capability, shown: tuple[Shown, ...], value: bool | None
) -> None:
    """One lucky colour is no sight, and one answer without the schema is no inability."""
    assert settled(capability, _found(*shown), 2) is value


@pytest.mark.parametrize("name", COLOURS)
def test_the_picture_is_a_picture_of_its_colour(name: str) -> None:
    """Any decoder sees what was meant."""
    image = Image.open(io.BytesIO(png(COLOURS[name])))
    assert image.format == "PNG"
    assert image.size == (64, 64)
    assert image.getcolors() == [(64 * 64, COLOURS[name])]


def test_what_is_to_be_found_out_is_not_given_away() -> None:
    """The key stands in the schema alone, the colour in the picture alone."""
    assert "has_x" not in json.dumps(SCHEMA.body["messages"])
    assert "red" not in SCHEMA.body["messages"][0]["content"]
    assert RED.body["messages"][0]["content"][0]["text"].count("red") == 0


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("choices", "message", "content", "tool_calls", "function", "name"),
                    *("arguments", "error", "finish_reason", "reasoning_content"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.sampled_from([200, 400, 429, 500]), _ANY)
def test_no_answer_is_too_odd_to_be_judged(status: int, told: Any) -> None:
    """Garbage shows nothing, and never that a model sees or calls tools."""
    for trial in (TEXT, RED, TOOL, SCHEMA):
        for content in (told, {"choices": [{"message": told}]}, {"error": told}):
            finding = trial.judge(status, content)
            assert finding.shown is not CAN or trial is TEXT
            assert finding.why.isprintable()
