import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.mlx_backend import protocol
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint, Sampling, Tool
from backends.mlx_backend.protocol import parse_chat
from backends.wire import Priority
from tests.backends.mlx_backend.requests import (
    HELLO,
    PARAMETERS,
    body,
    call,
    chat,
    named,
    refuses,
    tool,
)


def test_a_plain_request() -> None:
    """What a request leaves out is left to the model."""
    plain = chat()
    assert plain.model == "m"
    assert plain.messages == ({"role": "user", "content": "hello"},)
    assert plain.images == ()
    assert plain.sampling == Sampling()
    assert (plain.max_tokens, plain.stop, plain.stop_ids) == (None, (), frozenset())
    assert (plain.tools, plain.constraint, plain.named) == ((), None, False)
    assert (plain.choices, plain.stream, plain.include_usage) == (1, False, False)


def test_every_field_that_counts() -> None:
    """The sampling fields, limits and stream options arrive as they were sent."""
    full = chat(
        temperature=0,
        top_p=0.5,
        top_k=20,
        min_p=0.1,
        seed=-7,
        frequency_penalty=-2,
        presence_penalty=0.5,
        repetition_penalty=1.1,
        logit_bias={"0": -100, "17": 2.5},
        logprobs=True,
        top_logprobs=20,
        n=3,
        max_tokens=5,
        stop=["a", "b"],
        stop_token_ids=[4, 2],
        stream=True,
        stream_options={"include_usage": True},
        modalities=["text"],
        user="someone",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        reasoning_effort="low",
        something_new={"x": [1]},
    )
    assert full.sampling == Sampling(
        temperature=0.0,
        top_p=0.5,
        top_k=20,
        min_p=0.1,
        seed=-7,
        frequency_penalty=-2,
        presence_penalty=0.5,
        repetition_penalty=1.1,
        logit_bias={0: -100, 17: 2.5},
        top_logprobs=20,
    )
    assert (full.max_tokens, full.stop, full.stop_ids) == (5, ("a", "b"), frozenset({4, 2}))
    assert (full.choices, full.stream, full.include_usage) == (3, True, True)


def test_max_completion_tokens_is_the_newer_name() -> None:
    """Where both limits are given, the newer field counts."""
    assert chat(max_tokens=5, max_completion_tokens=3).max_tokens == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": True, "top_logprobs": 3}, 3),
    ],
)
def test_log_probabilities(fields: dict[str, Any], expected: int | None) -> None:
    """They are told where they are asked for, alternatives only in the number asked for."""
    assert chat(**fields).sampling.top_logprobs == expected


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
    (body(temperature=3), "invalid_request", "temperature"),
    (body(temperature=-0.1), "invalid_request", "temperature"),
    (body(temperature=1e308), "invalid_request", "temperature"),
    (body(temperature="1"), "invalid_request", "temperature"),
    (body(temperature=True), "invalid_request", "temperature"),
    (body(top_p=0), "invalid_request", "top_p"),
    (body(top_p=1.01), "invalid_request", "top_p"),
    (body(top_k=-1), "invalid_request", "top_k"),
    (body(top_k=2**70), "invalid_request", "top_k"),
    (body(min_p=-0.1), "invalid_request", "min_p"),
    (body(seed=2**70), "invalid_request", "seed"),
    (body(seed=2**63), "invalid_request", "seed"),
    (body(seed=0.5), "invalid_request", "seed"),
    (body(seed=False), "invalid_request", "seed"),
    (body(frequency_penalty=2.1), "invalid_request", "frequency_penalty"),
    (body(presence_penalty=-2.1), "invalid_request", "presence_penalty"),
    (body(response_format={"type": []}), "invalid_request", "response_format.type"),
    (
        body(messages=[{"role": "user", "content": [{"type": {}}]}]),
        "invalid_request",
        "messages[0].content[0].type",
    ),
    (body(repetition_penalty=0), "invalid_request", "repetition_penalty"),
    (body(repetition_penalty=0.009), "invalid_request", "repetition_penalty"),
    (body(repetition_penalty=2.1), "invalid_request", "repetition_penalty"),
    (body(logit_bias={"1": 101}), "invalid_request", "logit_bias"),
    (body(logit_bias={"1": "5"}), "invalid_request", "logit_bias"),
    (body(logit_bias={"1": True}), "invalid_request", "logit_bias"),
    (body(logit_bias={"word": 1}), "invalid_request", "logit_bias"),
    (body(logit_bias={"-1": 1}), "invalid_request", "logit_bias"),
    (body(logit_bias={"٣": 1}), "invalid_request", "logit_bias"),
    (body(logit_bias={str(2**31): 1}), "invalid_request", "logit_bias"),
    (body(logit_bias={"9" * 5000: 1}), "invalid_request", "logit_bias"),
    (body(logit_bias={str(n): 1 for n in range(1025)}), "invalid_request", "logit_bias"),
    (body(logprobs=1), "invalid_request", "logprobs"),
    (body(top_logprobs=2), "invalid_request", "top_logprobs"),
    (body(logprobs=True, top_logprobs=21), "invalid_request", "top_logprobs"),
    (body(logprobs=True, top_logprobs=-1), "invalid_request", "top_logprobs"),
    (body(n=0), "invalid_request", "n"),
    (body(n=9), "invalid_request", "n"),
    (body(n=True), "invalid_request", "n"),
    (body(max_tokens=0), "invalid_request", "max_tokens"),
    (body(max_tokens=1.5), "invalid_request", "max_tokens"),
    (body(max_tokens=True), "invalid_request", "max_tokens"),
    (body(max_completion_tokens=2**70), "invalid_request", "max_completion_tokens"),
    (body(stop=[""]), "invalid_request", "stop"),
    (body(stop=["x"] * 100_000), "invalid_request", "stop"),
    (body(stop="x" * 1000), "invalid_request", "stop"),
    (body(stop=5), "invalid_request", "stop"),
    (body(stop_token_ids=[-1]), "invalid_request", "stop_token_ids[0]"),
    (body(stop_token_ids=[1, 2**40]), "invalid_request", "stop_token_ids[1]"),
    (body(stop_token_ids=[1] * 65), "invalid_request", "stop_token_ids"),
    (body(stream="yes"), "invalid_request", "stream"),
    (body(stream_options={"include_usage": 1}), "invalid_request", "stream_options.include_usage"),
    (body(functions=[{"name": "f"}]), "unsupported_parameter", "functions"),
    (body(modalities=["text", "audio"]), "unsupported_parameter", "modalities"),
    (body(audio={"voice": "x"}), "unsupported_parameter", "audio"),
    (body(prediction={"type": "content"}), "unsupported_parameter", "prediction"),
    (body(web_search_options={"x": 1}), "unsupported_parameter", "web_search_options"),
]


@pytest.mark.parametrize("raw", [b"[]", b"1", b"null", b'"model"'])
def test_a_body_that_is_no_object(raw: bytes) -> None:
    """It is named in words of the protocol, not of ours."""
    with pytest.raises(ChatError, match="the body must be a JSON object"):
        parse_chat(raw)


@pytest.mark.parametrize(("raw", "code", "param"), REFUSED)
def test_what_is_refused(raw: bytes, code: str, param: str | None) -> None:
    """Each malformed or unsupported request has its code, and names the field that is wrong."""
    assert refuses(raw, code, param)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "Infinity"])
@pytest.mark.parametrize("field", ["temperature", "frequency_penalty", "seed", "max_tokens"])
def test_numbers_beyond_all_bounds(field: str, number: str) -> None:
    """A number that no machine holds is refused, not read as infinity."""
    raw = b'{"model": "m", "messages": [], "%s": %s}' % (field.encode(), number.encode())
    with pytest.raises(ChatError) as refusal:
        parse_chat(raw)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"functions": []},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"response_format": {"type": "text"}},
        {"logit_bias": {}},
        {"modalities": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "parallel_tool_calls": False},
        {"web_search_options": {}},
        dict.fromkeys(protocol.ChatBody.model_fields.keys() - {"model", "messages"}),
    ],
)
def test_what_says_nothing_is_not_refused(fields: dict[str, Any]) -> None:
    """A field whose value asks for nothing is no reason to refuse, and changes nothing."""
    assert chat(**fields) == chat()


def test_generations_of_one_choice(tmp_path: Path) -> None:
    """A generation carries all that the request says."""
    request = chat(tools=[tool()], stop_token_ids=[3], max_tokens=4, stop="x")
    (generation,) = request.generations(tmp_path, Priority.HIGH, queue_s=5)
    weather = Tool("weather", "d", PARAMETERS)
    assert (generation.model, generation.folder) == ("m", tmp_path)
    assert (generation.priority, generation.queue_s) == (Priority.HIGH, 5)
    assert generation.messages == request.messages
    assert generation.images == request.images
    assert generation.sampling == request.sampling
    assert (generation.max_tokens, generation.stop, generation.stop_ids) == (
        4,
        ("x",),
        frozenset({3}),
    )
    assert generation.tools == (weather,)
    assert generation.constraint == Constraint(tools=(weather,))


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (None, [None] * 3),
        (7, [7, 8, 9]),
        (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63)]),
    ],
)
def test_each_choice_has_a_seed_of_its_own(
    seed: int | None, expected: list[int | None], tmp_path: Path
) -> None:
    """Choices of a seeded request differ, and each repeats; seeds stay within 64 bits."""
    generations = chat(n=3, seed=seed).generations(tmp_path, Priority.LOW)
    assert [one.sampling.seed for one in generations] == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "name", "function", "content", "role", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
USUAL: dict[str, Any] = {
    "messages": [*HELLO, {"role": "assistant", "tool_calls": [call()]}],
    "tools": [tool()],
    "tool_choice": named("weather"),
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
}


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """Return a request of which some place holds any JSON."""
    request = json.loads(json.dumps(USUAL))
    field = draw(st.sampled_from([*protocol.ChatBody.model_fields]))
    place, key = request, field
    while isinstance(place.get(key), dict | list) and draw(st.booleans()):
        inner = place[key]
        if isinstance(inner, list):
            inner = inner[-1]
        if not isinstance(inner, dict) or not inner:
            break
        place, key = inner, draw(st.sampled_from(sorted(inner)))
    place[key] = draw(JSON)
    return {"model": "m", **request}


@given(spoiled())
def test_any_json_is_read_or_refused(request: dict[str, Any]) -> None:
    """Whatever stands in a field, the answer is a request or a refusal that says why."""
    try:
        parse_chat(json.dumps(request).encode())
    except ChatError as error:
        refusal = error
    else:
        return
    assert refusal.status == 400
    assert refusal.message
