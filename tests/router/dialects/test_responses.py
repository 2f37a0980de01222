"""The responses protocol over chat completions: golden conversations, and any at all."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseIncludable, response_create_params

from router.dialects.responses import translate
from router.dialects.responses.request import FOREIGN, LEFT_OUT, PASSED, REFUSED, TRANSLATED
from router.dialects.translation import Translation
from router.errors import Refused, StreamFailed
from tests.harness.any_json import any_json
from tests.router.dialects import golden_responses as golden
from tests.router.dialects.golden_responses import Answered, Asked, Refusal
from tests.router.dialects.told import accumulated, by_the_sdk, events_of

HI = {"messages": [{"role": "user", "content": "hi"}]}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def translated(**fields: Any) -> Translation:
    return translate({"input": "hi", **fields}, request_id="r", now=1_700_000_000)


def answer(message: dict[str, Any], reason: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason, **more}],
        "usage": USAGE,
    }


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"model": "m", "choices": [{**choice, **more}]}


def streamed(translation: Translation, *chunks: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a stream, by the small accumulator and by the SDK's alike."""
    events = events_of(b"".join(map(translation.feed, chunks)) + translation.finish())
    assert translation.number == len(events)
    by_the_sdk(events)
    return events


@pytest.mark.parametrize("case", golden.ASKED, ids=lambda case: case.feature)
def test_a_request_becomes_a_chat(case: Asked) -> None:
    """What is asked reads in a chat as the table has it."""
    assert translated(**case.fields).chat == {**HI, **case.chat}


@pytest.mark.parametrize("case", golden.REFUSED, ids=lambda case: case.param)
def test_what_no_chat_can_say_is_refused_by_name(case: Refusal) -> None:
    """The refusal names the field, and what to do."""
    with pytest.raises(Refused) as refused:
        translated(**case.fields)
    assert (refused.value.code, refused.value.param) == (case.code, case.param)
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("case", golden.ANSWERED, ids=lambda case: case.feature)
def test_an_answer_becomes_a_response(case: Answered) -> None:
    """What a chat answers stands in the output as the table has it."""
    chat = answer(case.message, case.finish_reason, **case.more)
    response = translated(**case.fields).answer(chat)
    assert response["output"] == case.output
    assert {**response, **case.response} == response
    assert Response.model_validate(response).output_text == (case.message.get("content") or "")


@pytest.mark.parametrize("case", golden.ANSWERED, ids=lambda case: case.feature)
def test_a_stream_ends_as_the_whole_answer_would(case: Answered) -> None:
    """One chunk that says it all is as good as a whole answer."""
    whole = translated(**case.fields).answer(answer(case.message, case.finish_reason, **case.more))
    one = {**chunk(case.message, case.finish_reason, **case.more), "usage": USAGE}
    assert accumulated(streamed(translated(**case.fields), one)) == whole


def test_every_field_of_the_protocol_is_in_one_class() -> None:
    """A field that OpenAI adds is noticed: it is translated, passed, left out or refused."""
    published = {
        *response_create_params.ResponseCreateParamsBase.__annotations__,
        *response_create_params.ResponseCreateParamsStreaming.__annotations__,
    }
    classes = (PASSED, LEFT_OUT - {"client_metadata"}, set(REFUSED), TRANSLATED)
    assert sorted(name for each in classes for name in each) == sorted(published)
    assert not published & FOREIGN.keys()


def test_whatever_may_be_included_is_no_mistake() -> None:
    """What belongs to items that nobody here makes has no effect."""
    for wanted in get_args(ResponseIncludable):
        chat = translated(include=[wanted]).chat
        assert chat == {**HI, **({"logprobs": True} if "logprobs" in wanted else {})}


LONG = "x" * 5000


@pytest.mark.parametrize(
    "fields",
    [
        {"include": [LONG]},
        {"stream_options": {LONG: True}},
        {"tools": [{"type": LONG}]},
        {"tools": [{"type": "custom", "name": LONG}] * 2},
        {"tool_choice": {"type": "function", "name": LONG}},
        {"input": [{"type": LONG}]},
        {"input": [{"role": "system", "content": [{"type": LONG}]}]},
    ],
)
def test_names_of_the_clients_are_not_repeated_without_end(fields: dict[str, Any]) -> None:
    """Their beginning tells which they are."""
    with pytest.raises(Refused) as refused:
        translated(**fields)
    assert LONG[:80] in refused.value.message
    assert len(refused.value.message) < 600


def test_the_response_tells_again_what_was_asked() -> None:
    """Whoever reads the answer alone knows the question's terms."""
    asked = {
        "model": "auto",
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "tools": [{"type": "function", "name": "look"}],
        "tool_choice": "required",
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "low"},
    }
    response = translated(**asked).answer(answer({"content": "Hi"}))
    assert Response.model_validate(response)
    assert {name: response[name] for name in ("id", "object", "created_at", "model")} == {
        "id": "resp_r",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": "m",
    }
    assert response["store"] is False
    for name in ("instructions", "metadata", "temperature", "tool_choice"):
        assert response[name] == asked[name]
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    (tool,) = response["tools"]
    assert tool == {
        "type": "function",
        "name": "look",
        **dict.fromkeys(("description", "parameters", "strict")),
    }


def test_usage_is_told_where_it_is_known() -> None:
    """Tokens keep their counts and get the protocol's names; none are made up."""
    assert translated().answer(answer({"content": "Hi"}))["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 12,
    }
    assert translated().answer({**answer({"content": "Hi"}), "usage": None})["usage"] is None


@pytest.mark.parametrize("sealed", ["gAAA", "SG0u", "signalbox.A", "signalbox._w==", "signalbox.é"])
def test_reasoning_that_cannot_be_read_is_told_to_be_left_out(sealed: str) -> None:
    """It is another server's, or broken; the rest of the conversation stands."""
    item = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": sealed}
    translation = translated(input=[item, {"role": "user", "content": "hi"}])
    assert translation.chat == HI
    (told,) = translation.answer(answer({"content": "Hi"}))["input_transformations"]
    assert (told["id"], told["action"]) == ("rs_9", "removed")


def test_the_provider_says_which_tier_it_was_and_counts_when_it_likes() -> None:
    """Its word goes before the request's; what it told once is not forgotten."""
    translation = translated(service_tier="auto")
    chunks = (
        {**chunk({"content": "Hi"}), "service_tier": "default", "usage": USAGE},
        {**chunk({}, "stop"), "usage": None},
    )
    response = accumulated(streamed(translation, *chunks))
    assert response["service_tier"] == "default"
    assert response["usage"]["input_tokens"] == 5


def test_probabilities_that_nobody_asked_for_are_not_told() -> None:
    """As in the protocol itself."""
    told = {"content": [{"token": "Hi", "logprob": -1}]}
    (item,) = translated().answer(answer({"content": "Hi"}, logprobs=told))["output"]
    assert item["content"][0]["logprobs"] == []


def test_a_stream_begins_with_the_first_chunk() -> None:
    """Whoever waits learns at once that something comes; then nothing is told twice."""
    translation = translated()
    begun = events_of(translation.feed({"choices": [], "usage": USAGE}))
    assert [event["type"] for event in begun] == ["response.created", "response.in_progress"]
    assert [event["response"]["usage"] for event in begun] == [None, None]
    assert translation.feed(chunk({"role": "assistant", "content": None})) == b""
    assert translation.number == 2


def test_thinking_is_over_when_something_is_said() -> None:
    """An item ends before the next one begins, so that a client can show where it stands."""
    events = streamed(
        translated(),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "I "}),
        chunk({"content": "look."}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look"}}]}),
        chunk({}, "tool_calls"),
    )
    assert [
        (event["type"].rpartition(".")[2], event["item"]["type"])
        for event in events
        if "item" in event
    ] == [
        ("added", "reasoning"),
        ("done", "reasoning"),
        ("added", "message"),
        ("done", "message"),
        ("added", "function_call"),
        ("done", "function_call"),
    ]


def test_what_is_said_after_a_call_is_another_message() -> None:
    """A message that has ended is not opened again; the calls are still open."""
    output = accumulated(
        streamed(
            translated(),
            chunk({"content": "I look."}),
            chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "look"}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
            chunk({"content": "I wait."}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}),
            chunk({}, "tool_calls"),
        )
    )["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]


def test_the_probabilities_of_half_a_letter_go_with_the_letter() -> None:
    """No token's is lost because its text came with another's."""
    told = {"token": "\\xc3", "logprob": -1, "bytes": [195], "top_logprobs": []}
    events = streamed(
        translated(include=["message.output_text.logprobs"]),
        chunk({"content": ""}, logprobs={"content": [told]}),
        chunk({"content": "ä"}, logprobs={"content": [told]}),
        chunk({"content": ""}, "stop", logprobs={"content": [told]}),
    )
    (item,) = accumulated(events)["output"]
    assert item["content"][0]["logprobs"] == [told] * 3


def test_what_is_said_after_a_refusal_is_a_part_of_its_own() -> None:
    """And what is known of tokens stays with their text."""
    told = {"token": "a", "logprob": -1, "bytes": [97], "top_logprobs": []}
    events = streamed(
        translated(include=["message.output_text.logprobs"]),
        chunk({"content": "a"}, logprobs={"content": [told]}),
        chunk({"refusal": "No."}),
        chunk({"content": "a"}, "stop", logprobs={"content": [told]}),
    )
    (item,) = accumulated(events)["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal", "output_text"]
    assert [part.get("logprobs") for part in item["content"]] == [[told], None, [told]]


@pytest.mark.parametrize("part", ["message", "delta"])
def test_an_answer_that_is_none_is_not_put_back(part: str) -> None:
    """It is an error of the provider's, in a stream as in a whole answer."""
    translation = translated()
    put_back = translation.answer if part == "message" else translation.feed
    with pytest.raises(StreamFailed, match="The provider sent content that is no text"):
        put_back({"choices": [{part: {"content": 1}}]})


def test_a_stream_with_half_a_call_does_not_end_well() -> None:
    """Nobody could be called."""
    translation = translated()
    translation.feed(chunk({"tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]}))
    with pytest.raises(StreamFailed, match="without a name"):
        translation.finish()


def test_the_input_of_a_custom_tool_may_be_nested_deeply() -> None:
    """It is handed on as it is, like any other that is spelled otherwise."""
    spelled = '{"input":' + "[" * 5000
    call = {"id": "a", "function": {"name": "patch", "arguments": spelled}}
    made = translated(tools=TOOLS).answer(answer({"tool_calls": [call]}))
    assert made["output"][0]["input"] == spelled


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
CALLS = st.builds(
    lambda call_id, name, arguments: {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    st.sampled_from(["a", "b", "", None]),
    st.sampled_from(["look", "patch", "mcp__docs__search", "nobody"]),
    TEXTS | st.just('{"input": "x"}'),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXTS},
    optional={
        "reasoning_content": st.none() | TEXTS,
        "refusal": st.none() | TEXTS,
        "tool_calls": st.lists(CALLS, max_size=3) | st.none(),
    },
)
REASONS = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "eos"])
TOOLS = [golden._LOOK, golden._PATCH, golden._DOCS]


def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return a text in pieces, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def deltas(draw: st.DrawFn, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message in pieces, in the order in which a model says it, its calls mixed."""
    pieces: list[dict[str, Any]] = [
        {"role": "assistant", "content": draw(st.sampled_from(["", None]))}
    ]
    for name in ("reasoning_content", "content", "refusal"):
        if message.get(name) is not None:
            pieces += [{name: piece} for piece in cut(draw, message[name])]
    calls = message.get("tool_calls") or []
    heads = []
    rests: list[list[dict[str, Any]]] = []
    for index, call in enumerate(calls):
        first, *rest = cut(draw, call["function"]["arguments"])
        function = {"name": call["function"]["name"], "arguments": first}
        heads.append({**call, "index": index, "function": function})
        rests.append([{"index": index, "function": {"arguments": piece}} for piece in rest])
    pieces += [{"tool_calls": [head]} for head in heads]
    order = draw(st.permutations([index for index, rest in enumerate(rests) for _ in rest]))
    return pieces + [{"tool_calls": [rests[index].pop(0)]} for index in order]


@settings(deadline=None, max_examples=80)
@given(data=st.data(), message=MESSAGES, reason=REASONS, summary=st.sampled_from([None, "auto"]))
def test_any_stream_ends_as_the_whole_answer_would(
    data: st.DataObject, message: dict[str, Any], reason: str, summary: str | None
) -> None:
    """However an answer is cut, what its pieces add up to is the answer, for the SDK too."""
    asked = {"tools": TOOLS, "reasoning": {"summary": summary}}
    whole = translated(**asked).answer(answer(message, reason))
    chunks = [chunk(delta) for delta in data.draw(deltas(message))]
    end = chunk({}, reason)
    ends = data.draw(
        st.sampled_from([[{**end, "usage": USAGE}], [end, {**answer({}), "choices": []}]])
    )
    events = streamed(translated(**asked), *chunks, *ends)
    assert accumulated(events) == whole
    assert Response.model_validate(whole)
    if whole["status"] == "completed":
        completed = by_the_sdk(events).to_dict()
        assert [item["type"] for item in completed["output"]] == [
            item["type"] for item in whole["output"]
        ]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), message=MESSAGES)
def test_no_order_of_pieces_loses_any(data: st.DataObject, message: dict[str, Any]) -> None:
    """Text between calls, thoughts after text: all of it arrives, in a stream that adds up."""
    pieces = data.draw(deltas(message))
    talk = [piece for piece in pieces if "tool_calls" not in piece]
    calls = [piece for piece in pieces if "tool_calls" in piece]
    turns = data.draw(st.permutations([True] * len(talk) + [False] * len(calls)))
    mixed = [talk.pop(0) if turn else calls.pop(0) for turn in turns]
    events = streamed(translated(tools=TOOLS), *map(chunk, mixed), chunk({}, "stop"))
    output = accumulated(events)["output"]
    whole = translated(tools=TOOLS).answer(answer(message))["output"]
    assert said(output) == said(whole)


def said(output: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all that stands in an output, wherever."""
    found: dict[str, Any] = {"calls": []}
    for item in output:
        if item["type"] in {"message", "reasoning"}:
            for part in item["content"]:
                text = part.get("text", part.get("refusal"))
                found[part["type"]] = found.get(part["type"], "") + text
        else:
            found["calls"].append((item["name"], item.get("arguments"), item.get("input")))
    return found


JSON = any_json(
    [
        *("type", "role", "content", "text", "name", "output", "call_id", "arguments"),
        *("image_url", "input_audio", "detail", "summary", "format", "schema"),
        *("tools", "mode", "namespace", "encrypted_content", "caller", "effort"),
    ],
    [
        *("message", "user", "assistant", "system", "input_text", "output_text"),
        *("input_image", "input_file", "function", "custom", "namespace", "reasoning"),
        *("function_call", "function_call_output", "allowed_tools", "json_schema"),
    ],
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(TRANSLATED | PASSED | REFUSED.keys())), JSON), JSON)
def test_any_json_is_translated_or_refused(fields: dict[str, Any], given_input: Any) -> None:
    """Nothing that a client can write is a mistake of ours."""
    try:
        translation = translated(**{**fields, "input": given_input})
    except Refused as refused:
        assert refused.code in {"unsupported_parameter", "invalid_request"}  # noqa: PT017 either
        return
    json.dumps(translation.chat)
    translation.answer(answer({"content": "Hi"}))


@settings(deadline=None, max_examples=150)
@given(
    st.fixed_dictionaries(
        {
            "choices": st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "message": st.fixed_dictionaries(
                            {},
                            optional=dict.fromkeys(
                                (
                                    "content",
                                    "refusal",
                                    "tool_calls",
                                    "reasoning",
                                    "reasoning_content",
                                ),
                                JSON,
                            ),
                        ),
                        "finish_reason": JSON,
                        "logprobs": JSON,
                    },
                )
                | JSON,
                max_size=2,
            )
            | JSON
        },
        optional={"usage": JSON, "model": JSON},
    )
)
def test_any_json_is_an_answer_or_an_error_of_the_provider(chat: dict[str, Any]) -> None:
    """Nothing that a provider can write is a mistake of ours."""
    try:
        response = translated(include=["message.output_text.logprobs"]).answer(chat)
    except StreamFailed:
        return
    json.dumps(response)


def test_every_feature_that_is_told_is_shown() -> None:
    """A row of docs/dialects.md has a conversation for each direction that it says yes to."""
    asked = {case.feature for case in golden.ASKED}
    answered = {case.feature for case in golden.ANSWERED}
    refused = {case.feature for case in golden.REFUSED}
    told = {feature.name: feature for feature in golden.FEATURES}
    assert len(told) == len(golden.FEATURES)
    assert asked | answered | refused <= told.keys()
    for name, feature in told.items():
        if feature.request in {"yes", "left out"}:
            assert name in asked
        elif feature.request == "refused":
            assert name in refused - asked
        if feature.answer == "yes" and name != "usage":
            assert name in answered
