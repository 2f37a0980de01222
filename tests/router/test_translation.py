import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.translation import (
    LineEnds,
    Untranslatable,
    arguments_of,
    chunk_body,
    error_body,
    plain_words,
    without,
    words_of,
)


def test_listed_fields_alone_become_arguments() -> None:
    """What is not listed, and what is null, is not in the call."""
    body = {"model": "m", "messages": [], "stream": True, "temperature": 0, "user": None}
    others = {"api_base": "x", "metadata": {}, "service_tier": "flex", "mock_response": "x"}
    assert arguments_of(json.dumps(body | others).encode()) == (
        "m",
        {"messages": [], "stream": True, "temperature": 0},
    )


@pytest.mark.parametrize("stream", [False, None, 1, "true"])
def test_a_stream_is_asked_for_by_true_alone(stream: Any) -> None:
    """Everything else means a whole answer."""
    body = {"model": "m", "messages": [], "stream": stream}
    assert "stream" not in arguments_of(json.dumps(body).encode())[1]


@pytest.mark.parametrize("kind", ["mcp", "custom"])
def test_a_tool_that_is_no_function_here_is_refused(kind: str) -> None:
    """LiteLLM has tools of its own to run by one type, and falls over the other."""
    body = {"model": "m", "tools": [1, {"type": "function"}, {"type": kind}]}
    with pytest.raises(Untranslatable, match=kind):
        arguments_of(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"type":"error","error":{"type":"api_error","message":"no"}}', ("no", "api_error")),
        (b'{"error":{"code":429,"message":"no","status":"BUSY"}}', ("no", "BUSY")),
        (b'[{"error":{"message":"no"}}]', ("no", None)),
        (b'{"message":"no"}', ("no", None)),
        (b'{"error":"no"}', ("", None)),
        (b'{"error":{"message":["no"],"type":1}}', ("", None)),
        (b"[]", ("", None)),
        (b"<html>", ("", None)),
        (b"\xff", ("", None)),
        (b"[" * 9999, ("", None)),
    ],
)
def test_each_cloud_says_in_its_own_way_what_is_wrong(
    body: bytes, words: tuple[str, str | None]
) -> None:
    """The text, and the cloud's name for the error; nothing is made of what has another form."""
    assert words_of(body) == words


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("litellm.BadRequestError: AnthropicException - no", "no"),
        ("litellm.APIConnectionError: APIConnectionError: GroqException - no\nTrace", "no"),
        ("litellm.UnsupportedParamsError: x does not. To drop these, set `y`", "x does not."),
        ("Nothing came. File an issue https://x", "Nothing came."),
        ("One is wanted. Either provide one, or set `x`", "One is wanted."),
        ("it is so: no", "it is so: no"),
        ("\n", "no reason was given"),
    ],
)
def test_an_error_is_told_without_what_is_for_litellms_own_users(said: str, plain: str) -> None:
    """Names of classes, traces and advice are left out."""
    assert plain_words(said) == plain


def test_a_key_is_never_repeated() -> None:
    """It is taken out before a long text is cut, so that no half of it is left."""
    assert without("sk-1", "a sk-1 b") == "a [key] b"
    assert "sk-1" not in without("sk-1234", "x" * 1996 + "sk-1234")
    assert without(None, "a") == without("", "a") == "a"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (429, "rate_limit_error"),
        (529, "server_error"),
    ],
)
def test_an_error_has_openais_shape(status: int, kind: str) -> None:
    """Its type follows the status."""
    told = json.loads(error_body(status, "no", "busy"))["error"]
    assert told == {"message": "no", "type": kind, "param": None, "code": "busy"}


@pytest.mark.parametrize(
    ("chunk", "choices"),
    [
        ({"usage": {"a": 1}, "choices": [{"index": 0, "delta": {}}]}, []),
        ({"usage": {"a": 1}, "choices": [{"index": 0, "delta": {"content": ""}}]}, None),
        ({"usage": {"a": 1}, "choices": [{"delta": {}, "finish_reason": "stop"}]}, None),
        ({"choices": [{"index": 0, "delta": {}}]}, None),
    ],
)
def test_tokens_alone_have_no_choice(chunk: dict[str, Any], choices: list[Any] | None) -> None:
    """So does OpenAI, and so is known what a client has not asked for."""
    told = json.loads(chunk_body(chunk))["choices"]
    assert told == (chunk["choices"] if choices is None else choices)


TEXTS = st.text(st.sampled_from("ab\u0085\u2028\u2029\u2026é🙂"))


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_no_alien_line_end_is_left_and_the_text_is_the_same(text: str, cuts: list[int]) -> None:
    """However a stream is cut into pieces, its JSON means what it meant, on one line."""
    data = json.dumps({"t": text}, ensure_ascii=False).encode()
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    ends = LineEnds()
    pieces = [ends.feed(data[a:b]) for a, b in pairwise(places)]
    out = b"".join([*pieces, ends.rest()])
    assert json.loads(out)["t"] == text
    assert len(out.decode().splitlines()) == 1
