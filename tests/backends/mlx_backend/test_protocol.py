import json
from typing import Any

import pytest

from backends.mlx_backend import protocol
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Finished
from backends.mlx_backend.protocol import Wording, parse_chat
from tests.backends.mlx_backend.pictures import data_uri, encoded, image_part

HELLO = [{"role": "user", "content": "hello"}]


def body(**fields: Any) -> bytes:
    """Return a request body."""
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


def parts(*content: Any, role: str = "user") -> bytes:
    """Return a request with one message of these parts."""
    return body(messages=[{"role": role, "content": list(content)}])


def test_a_plain_request() -> None:
    """What a request leaves out is left to the model."""
    chat = parse_chat(body())
    assert chat.model == "m"
    assert chat.messages == ({"role": "user", "content": "hello"},)
    assert chat.images == ()
    assert chat.sampling.temperature is None
    assert (chat.max_tokens, chat.stop, chat.stream, chat.include_usage) == (None, (), False, False)


def test_every_field_that_counts() -> None:
    """The sampling fields, limits and stream options arrive as they were sent."""
    chat = parse_chat(
        body(
            temperature=0,
            top_p=0.5,
            top_k=20,
            min_p=0.1,
            seed=-7,
            max_tokens=5,
            stop=["a", "b"],
            stream=True,
            stream_options={"include_usage": True},
            user="someone",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            n=1,
            logprobs=False,
            presence_penalty=0,
            something_new={"x": [1]},
        )
    )
    sampling = chat.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 20)
    assert (sampling.min_p, sampling.seed) == (0.1, -7)
    assert (chat.max_tokens, chat.stop) == (5, ("a", "b"))
    assert chat.stream
    assert chat.include_usage


def test_max_completion_tokens_is_the_newer_name() -> None:
    """Where both limits are given, the newer field counts."""
    assert parse_chat(body(max_tokens=5, max_completion_tokens=3)).max_tokens == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ("text", "text"),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
    ],
)
def test_content_without_images_becomes_a_string(content: Any, expected: str) -> None:
    """Some templates concatenate the content, so nothing but a string reaches them."""
    chat = parse_chat(body(messages=[{"role": "user", "content": content}]))
    assert chat.messages[0]["content"] == expected


def test_developer_is_the_newer_name_of_system() -> None:
    """Chat templates know the role `system` only."""
    chat = parse_chat(body(messages=[{"role": "developer", "content": "x"}]))
    assert chat.messages[0]["role"] == "system"


def test_images_keep_their_places() -> None:
    """The markers stand where the images stood, and the bytes in their order."""
    first, second = encoded(), encoded(kind="JPEG")
    chat = parse_chat(
        parts(
            image_part(data_uri(first)),
            {"type": "text", "text": "and"},
            image_part(data_uri(second, "image/whatever")),
        )
    )
    kinds = [part["type"] for part in chat.messages[0]["content"]]
    assert kinds == ["image", "text", "image"]
    assert chat.images == (first, second)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
REFUSED: list[tuple[bytes, str, str | None]] = [
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b'{"a": NaN}', "invalid_json", None),
    (b'{"a": "\xff"}', "invalid_json", None),
    (b'\xef\xbb\xbf{"model": "m"}', "invalid_json", None),
    (b"[" * 100_000, "json_too_deep", None),
    (b"[]", "invalid_request", None),
    (b"null", "invalid_request", None),
    (b'{"model": "m"}', "invalid_request", "messages"),
    (json.dumps({"messages": HELLO}).encode(), "invalid_request", "model"),
    (body(model=""), "invalid_request", "model"),
    (body(messages=[]), "invalid_request", "messages"),
    (body(messages="hello"), "invalid_request", "messages"),
    (body(messages=[{"role": "king", "content": "x"}]), "invalid_request", "messages[0].role"),
    (body(messages=HELLO * 5000), "invalid_request", "messages"),
    (body(temperature=3), "invalid_request", "temperature"),
    (body(temperature=-0.1), "invalid_request", "temperature"),
    (body(temperature="1"), "invalid_request", "temperature"),
    (body(top_p=0), "invalid_request", "top_p"),
    (body(max_tokens=0), "invalid_request", "max_tokens"),
    (body(max_tokens=1.5), "invalid_request", "max_tokens"),
    (body(stop=[""]), "invalid_request", "stop"),
    (body(stop=["x"] * 100_000), "invalid_request", "stop"),
    (body(stop="x" * 1000), "invalid_request", "stop"),
    (body(seed=2**70), "invalid_request", "seed"),
    (body(tools=[TOOL]), "unsupported_parameter", "tools"),
    (body(functions=[{"name": "f"}]), "unsupported_parameter", "functions"),
    (body(response_format={"type": "json_object"}), "unsupported_parameter", "response_format"),
    (body(response_format={"type": "json_schema"}), "unsupported_parameter", "response_format"),
    (body(n=2), "unsupported_parameter", "n"),
    (body(n=0), "unsupported_parameter", "n"),
    (body(logprobs=True), "unsupported_parameter", "logprobs"),
    (body(logit_bias={"1": 5}), "unsupported_parameter", "logit_bias"),
    (body(frequency_penalty=0.5), "unsupported_parameter", "frequency_penalty"),
    (body(modalities=["text", "audio"]), "unsupported_parameter", "modalities"),
    (body(audio={"voice": "x"}), "unsupported_parameter", "audio"),
    (
        body(messages=[*HELLO, {"role": "tool", "tool_call_id": "1", "content": "x"}]),
        "unsupported_parameter",
        "messages[1]",
    ),
    (
        parts({"type": "input_audio", "input_audio": {}}),
        "unsupported_parameter",
        "messages[0].content[0]",
    ),
    (parts(image_part("http://example.com/a.png")), "image_url_not_allowed", None),
    (parts(image_part("file:///etc/passwd")), "image_url_not_allowed", None),
    (parts(image_part("/etc/passwd")), "image_url_not_allowed", None),
    (parts(image_part("")), "image_url_not_allowed", None),
    (parts(image_part("data:image/png,abc")), "invalid_image", None),
    (parts(image_part("data:image/png;base64,!!!")), "invalid_image", None),
    (parts(image_part("data:image/png;base64,é")), "invalid_image", None),
    (parts(image_part(data_uri(b"<svg/>", "image/svg+xml"))), "invalid_image", None),
    (parts(image_part(data_uri(b"II*\0", "image/png"))), "invalid_image", None),
    (parts(image_part(data_uri(b""))), "invalid_image", None),
    (parts(image_part(data_uri(encoded())), role="system"), "invalid_request", None),
]


@pytest.mark.parametrize(("raw", "code", "param"), REFUSED)
def test_what_is_refused(raw: bytes, code: str, param: str | None) -> None:
    """Each malformed or unsupported request has its code, and names the field that is wrong."""
    with pytest.raises(ChatError) as refusal:
        parse_chat(raw)
    assert refusal.value.code == code
    assert refusal.value.status == 400
    if param is not None:
        assert refusal.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [TOOL], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"modalities": ["text"]},
        {"temperature": None, "stop": None, "tools": None, "stream_options": None},
    ],
)
def test_what_says_nothing_is_not_refused(fields: dict[str, Any]) -> None:
    """A field whose value asks for nothing is no reason to refuse."""
    parse_chat(body(**fields))


def test_too_many_images() -> None:
    """The number of images is capped."""
    image = image_part(data_uri(encoded(size=(1, 1))))
    with pytest.raises(ChatError) as refusal:
        parse_chat(parts(*[image] * (protocol.MAX_IMAGES + 1)))
    assert refusal.value.code == "too_many_images"


def test_image_bytes_are_capped_before_they_are_decoded() -> None:
    """An image beyond the cap is refused by its length alone, base64 or not."""
    huge = "data:image/png;base64," + "!" * (protocol.MAX_IMAGE_BYTES * 4 // 3 + 8)
    with pytest.raises(ChatError, match="at most 20 MiB"):
        parse_chat(parts(image_part(huge)))


def events(raw: bytes) -> list[Any]:
    """Return the payloads of a stream."""
    out = []
    for event in raw.decode().split("\n\n")[:-1]:
        payload = event.removeprefix("data: ")
        out.append(payload if payload == "[DONE]" else json.loads(payload))
    return out


def test_a_stream_that_asked_for_usage() -> None:
    """Usage is null in every chunk and comes in one of its own, with no choices, at the end."""
    wording = Wording("m", include_usage=True)
    raw = wording.role() + wording.text("é") + wording.end(Finished("stop", 3, 2))
    role, text, finish, last, done = events(raw)
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert text["choices"][0]["delta"] == {"content": "é"}
    assert finish["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert [chunk["usage"] for chunk in (role, text, finish)] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in (role, text, finish, last)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (role, text, finish, last)}) == 1


def test_a_stream_that_did_not_ask_for_usage() -> None:
    """Without the option no chunk knows of usage."""
    wording = Wording("m", include_usage=False)
    raw = wording.role() + wording.end(Finished("length", 3, 2))
    assert not any("usage" in event for event in events(raw))


def test_an_error_in_a_stream() -> None:
    """A stream that fails ends with the envelope, which the SDKs raise."""
    (event,) = events(Wording.error(ChatError("generation_failed", "why")))
    assert event["error"]["code"] == "generation_failed"
    assert event["error"]["type"] == "internal_server_error"
