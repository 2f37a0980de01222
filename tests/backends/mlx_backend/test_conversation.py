from typing import Any

import pytest

from backends.mlx_backend import conversation
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Detail, Picture
from backends.mlx_backend.protocol import parse_chat
from tests.backends.mlx_backend.pictures import data_uri, encoded, image_part
from tests.backends.mlx_backend.requests import HELLO, body, call, chat, parts, refuses

ROLES = ["system", "developer", "user", "assistant"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ("text", "text"),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_content_without_images_becomes_a_string(role: str, content: Any, expected: str) -> None:
    """Some templates concatenate the content, so nothing but a string reaches them."""
    messages = [{"role": role, "content": content, "name": "someone"}]
    shown = "system" if role == "developer" else role
    assert chat(messages=messages).messages == ({"role": shown, "content": expected},)


def test_what_a_turn_leaves_out() -> None:
    """An assistant's reasoning is not shown again; a refusal is what it said."""
    messages = [{"role": "assistant", "refusal": "no", "reasoning_content": "hm", "content": None}]
    assert chat(messages=messages).messages == ({"role": "assistant", "content": "no"},)


def test_images_keep_their_places() -> None:
    """The markers stand where the images stood, and the bytes in their order."""
    first, second = encoded(), encoded(kind="JPEG")
    request = parse_chat(
        parts(
            image_part(data_uri(first)),
            {"type": "text", "text": "and"},
            image_part(data_uri(second, "image/whatever")),
        )
    )
    kinds = [part["type"] for part in request.messages[0]["content"]]
    assert kinds == ["image", "text", "image"]
    assert request.images == (Picture(first), Picture(second))


@pytest.mark.parametrize(
    ("sent", "taken"), [("low", "low"), ("high", "high"), ("auto", "auto"), (None, "auto")]
)
def test_how_much_of_an_image_is_seen(sent: str | None, taken: Detail) -> None:
    """The detail of each image arrives with it."""
    picture = encoded()
    part = {"type": "image_url", "image_url": {"url": data_uri(picture), "detail": sent}}
    assert parse_chat(parts(part)).images == (Picture(picture, taken),)


def test_calls_and_their_results() -> None:
    """Arguments are objects, as templates want them; results name what they are results of."""
    request = chat(
        messages=[
            *HELLO,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    call("a", arguments='{"city": "Köln"}'),
                    call("b", name="time", arguments=" "),
                ],
            },
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
            {"role": "tool", "tool_call_id": "a", "content": None},
        ]
    )
    assert request.messages[1:] == (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Köln"}},
                },
                {"id": "b", "type": "function", "function": {"name": "time", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "name": "time", "content": "noon"},
        {"role": "tool", "tool_call_id": "a", "name": "weather", "content": ""},
    )


def test_the_older_form_of_calls() -> None:
    """What a stored conversation has as function_call and role function is read as tools."""
    request = chat(
        messages=[
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "x"},
        ]
    )
    assert request.messages[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}
    assert request.messages[1] == {
        "role": "tool",
        "tool_call_id": "f",
        "name": "f",
        "content": "x",
    }


def messages(*more: dict[str, Any]) -> bytes:
    """Return a request with more messages after the first."""
    return body(messages=[*HELLO, *more])


def calls(*more: Any) -> bytes:
    """Return a request with calls in its second message."""
    return messages({"role": "assistant", "tool_calls": list(more)})


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a dictionary without one of its keys."""
    return {name: item for name, item in value.items() if name != key}


REFUSED: list[tuple[bytes, str, str]] = [
    (body(messages=[]), "invalid_request", "messages"),
    (body(messages="hello"), "invalid_request", "messages"),
    (body(messages=HELLO * 5000), "invalid_request", "messages"),
    (body(messages=["x"]), "invalid_request", "messages[0]"),
    (messages({"role": "king", "content": "x"}), "invalid_request", "messages[1].role"),
    (messages({"content": "x"}), "invalid_request", "messages[1].role"),
    (messages({"role": "user", "content": 5}), "invalid_request", "messages[1].content"),
    (messages({"role": "user", "content": {}}), "invalid_request", "messages[1].content"),
    (parts("x"), "invalid_request", "messages[0].content[0]"),
    (parts({}), "invalid_request", "messages[0].content[0].type"),
    (parts({"type": "text"}), "invalid_request", "messages[0].content[0].text"),
    (
        parts({"type": "image_url", "image_url": "data:"}),
        "invalid_request",
        "messages[0].content[0].image_url",
    ),
    (
        parts({"type": "image_url", "image_url": {"url": "data:", "detail": "huge"}}),
        "invalid_request",
        "messages[0].content[0].image_url.detail",
    ),
    (
        parts({"type": "input_audio", "input_audio": {}}),
        "unsupported_parameter",
        "messages[0].content[0]",
    ),
    (messages({"role": "tool", "content": "x"}), "invalid_request", "messages[1].tool_call_id"),
    (
        messages({"role": "tool", "tool_call_id": "c1", "content": "x"}),
        "invalid_request",
        "messages[1].tool_call_id",
    ),
    (
        messages(
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
            {"role": "assistant", "tool_calls": [call("c1")]},
        ),
        "invalid_request",
        "messages[1].tool_call_id",
    ),
    (messages({"role": "function", "content": "x"}), "invalid_request", "messages[1].name"),
    (
        messages({"role": "user", "content": "x", "tool_calls": [call()]}),
        "invalid_request",
        "messages[1].tool_calls",
    ),
    (
        calls(call(), call(arguments="{")),
        "invalid_request",
        "messages[1].tool_calls[1].function.arguments",
    ),
    (
        calls(call(arguments="[1]")),
        "invalid_request",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        calls(call(arguments="[" * 100_000)),
        "json_too_deep",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (calls(call(name="")), "invalid_request", "messages[1].tool_calls[0].function.name"),
    (calls(without(call(), "id")), "invalid_request", "messages[1].tool_calls[0].id"),
    (calls({**call(), "type": "custom"}), "invalid_request", "messages[1].tool_calls[0].type"),
    *(
        (parts(image_part(url)), code, "messages[0].content[0].image_url.url")
        for url, code in (
            ("http://example.com/a.png", "image_url_not_allowed"),
            ("file:///etc/passwd", "image_url_not_allowed"),
            ("/etc/passwd", "image_url_not_allowed"),
            ("", "image_url_not_allowed"),
            ("data:image/png,abc", "invalid_image"),
            ("data:image/png;base64,!!!", "invalid_image"),
            ("data:image/png;base64,é", "invalid_image"),
            (data_uri(b"<svg/>", "image/svg+xml"), "invalid_image"),
            (data_uri(b"II*\0", "image/png"), "invalid_image"),
            (data_uri(b""), "invalid_image"),
        )
    ),
    *(
        (
            parts({"type": "text", "text": "x"}, image_part(data_uri(encoded())), role=role),
            "invalid_request",
            "messages[0].content[1]",
        )
        for role in ("system", "developer", "assistant", "tool", "function")
    ),
]


@pytest.mark.parametrize(("raw", "code", "param"), REFUSED)
def test_what_is_refused(raw: bytes, code: str, param: str) -> None:
    """Each message that cannot be shown to a model is refused by the place that is wrong."""
    assert refuses(raw, code, param)


def test_the_error_in_a_part_is_told() -> None:
    """Of a list of parts, what is wrong with the part is said, not that it is no string."""
    text = refuses(parts({"type": "text"}), "invalid_request", "messages[0].content[0].text")
    assert "required" in text


def test_a_result_without_a_call() -> None:
    """What is missing is said: the id, or the call that it names."""
    where = "messages[1].tool_call_id"
    raw = messages({"role": "tool", "content": "x"})
    assert "must say which call" in refuses(raw, "invalid_request", where)
    raw = messages({"role": "tool", "content": "x", "tool_call_id": "c7"})
    assert "'c7'" in refuses(raw, "invalid_request", where)


def test_too_many_images() -> None:
    """The number of images is capped."""
    image = image_part(data_uri(encoded(size=(1, 1))))
    assert len(parse_chat(parts(*[image] * conversation.MAX_IMAGES)).images) == 64
    with pytest.raises(ChatError) as refusal:
        parse_chat(parts(*[image] * (conversation.MAX_IMAGES + 1)))
    assert refusal.value.code == "too_many_images"


def test_image_bytes_are_capped_before_they_are_decoded() -> None:
    """An image beyond the cap is refused by its length alone, base64 or not."""
    huge = "data:image/png;base64," + "!" * (conversation.MAX_IMAGE_MB * 1_000_000 * 4 // 3 + 8)
    with pytest.raises(ChatError, match="at most 20 MB"):
        parse_chat(parts(image_part(huge)))


@pytest.mark.parametrize("size", [2998, 2999, 3000])
def test_the_cap_on_image_bytes_is_the_one_that_is_given(size: int) -> None:
    """A picture of so many bytes is taken and one of a byte more is not, whatever its padding."""
    image = encoded(size=(1, 1))
    fits, larger = (parts(image_part(data_uri(image.ljust(n, b"\0")))) for n in (size, size + 1))
    assert len(parse_chat(fits, size / 1e6).images[0].data) == size
    with pytest.raises(ChatError, match="send a smaller one") as refusal:
        parse_chat(larger, size / 1e6)
    assert refusal.value.code == "invalid_image"
    assert refusal.value.param == "messages[0].content[0].image_url.url"
