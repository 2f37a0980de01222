"""Requests of Anthropic's protocol as chat completions, and whole answers back, by tables."""

import time
from contextlib import suppress
from typing import Any, get_type_hints

import pytest
from anthropic.types import Message, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params
from hypothesis import given
from hypothesis import strategies as st

from router.dialects.messages import count, translate
from router.dialects.messages.fields import CHECKED, LEFT_OUT, PASSED, TRANSLATED
from router.dialects.messages.fields import REFUSED as REFUSED_FIELDS
from router.dialects.translation import Translation
from router.errors import Refused, StreamFailed
from tests.harness.any_json import any_json
from tests.router.dialects.golden_messages import (
    ANSWERED,
    ASKED,
    FEATURES,
    REFUSED,
    Answered,
    Asked,
    Refusal,
)

HI = {"messages": [{"role": "user", "content": "hi"}]}
# Headers, which the SDK's types list among the fields.
HEADERS = {"betas", "user_profile_id", "workspace_id"}


def asked(**fields: Any) -> Translation:
    """Return the translation of a request."""
    return translate({**HI, **fields}, request_id="r1", now=0)


def completion(row: Answered) -> dict[str, Any]:
    """Return the chat completion of a row."""
    choice = {"index": 0, "message": row.message, "finish_reason": row.finish_reason, **row.choice}
    return {"model": "m", "choices": [choice], **row.more}


@pytest.mark.parametrize("row", ASKED, ids=lambda row: row.feature)
def test_a_request_becomes_a_chat_completion(row: Asked) -> None:
    """Each one of the table, field by field."""
    made = asked(**row.fields)
    assert (made.chat, made.hints) == ({**HI, **row.chat}, row.hints)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row.feature} {row.param}")
def test_what_cannot_be_said_is_refused_by_name(row: Refusal) -> None:
    """The error names the place, and says what to do."""
    with pytest.raises(Refused) as refused:
        asked(**row.fields)
    assert (refused.value.code, refused.value.param) == (row.code, row.param)
    assert row.param in refused.value.message
    assert "dialects: [messages]" in refused.value.message


@pytest.mark.parametrize("row", ANSWERED, ids=lambda row: row.feature)
def test_an_answer_becomes_a_message(row: Answered) -> None:
    """Each one of the table; the SDK's own type takes it."""
    made = asked(**row.fields).answer(completion(row))
    usage = {
        "input_tokens": 0,
        "output_tokens": 0,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": None,
    }
    assert made == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": row.content,
        "stop_reason": row.stop_reason,
        "stop_sequence": None,
        "stop_details": None,
        "usage": usage,
        **row.answer,
    }
    Message.model_validate(made, strict=True)


def test_the_model_is_the_one_that_was_asked_for_where_none_is_told() -> None:
    """A message always has one."""
    chat = {"choices": [{"message": {"content": "a"}}]}
    assert asked(model="auto").answer(chat)["model"] == "auto"
    assert asked().answer(chat)["model"] == ""


@pytest.mark.parametrize(
    "message",
    [
        {"content": ["a"]},
        {"tool_calls": [{"function": {"name": "f", "arguments": "["}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": "1"}}]},
        {"tool_calls": [{"function": {"name": "f", "arguments": "\ud800"}}]},
    ],
)
def test_what_is_no_answer_is_none(message: dict[str, Any]) -> None:
    """It is an error of the provider's, and never half a message."""
    with pytest.raises(StreamFailed, match="The provider sent"):
        asked().answer({"choices": [{"message": message}]})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [1]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"system": 1}, "system"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tools"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stream": "true"}, "stream"),
        ({"thinking": True}, "thinking"),
        ({"output_config": []}, "output_config"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        (
            {
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
                "output_format": 1,
            },
            "output_format",
        ),
    ],
)
def test_what_is_malformed_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    """In the words of an invalid request."""
    with pytest.raises(Refused) as refused:
        asked(**fields)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


@pytest.mark.parametrize(
    "published",
    [
        message_create_params.MessageCreateParamsNonStreaming,
        message_create_params.MessageCreateParamsStreaming,
        beta_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
    ],
)
def test_each_field_of_the_api_is_in_one_class(published: type) -> None:
    """A field that the SDK brings anew fails this until somebody has decided about it."""
    classes = [TRANSLATED, PASSED, LEFT_OUT, set(CHECKED), REFUSED_FIELDS]
    names = set(get_type_hints(published)) - HEADERS
    assert {name: sum(name in each for each in classes) for name in names} == dict.fromkeys(
        names, 1
    )


@pytest.mark.parametrize("name", sorted(REFUSED_FIELDS))
def test_the_fields_that_are_refused_are(name: str) -> None:
    """By their own name."""
    with pytest.raises(Refused) as refused:
        asked(**{name: "x"})
    assert refused.value.param == name


LONG = "x" * 5000


@pytest.mark.parametrize(
    "fields",
    [
        {LONG: 1},
        {"system": [{"type": LONG}]},
        {"thinking": {"type": LONG}},
        {"thinking": {"type": "enabled", LONG: 1}},
        {"context_management": {"edits": [{"type": LONG}]}},
        {"tools": [{"type": LONG}]},
        {"tools": [{"type": [LONG]}]},
        *(
            {"messages": [{"role": role, "content": [each]}]}
            for role, each in (
                ("user", {"type": LONG}),
                ("assistant", {"type": LONG}),
                ("user", {"type": "image", "source": {"type": LONG}}),
                ("user", {"type": "document", "source": {"type": LONG}}),
            )
        ),
    ],
)
def test_names_of_the_clients_are_not_repeated_without_end(fields: dict[str, Any]) -> None:
    """Their beginning tells which they are."""
    with pytest.raises(Refused) as refused:
        asked(**fields)
    assert LONG[:70] in refused.value.message
    assert len(refused.value.message) < 400


def test_every_feature_is_shown() -> None:
    """The table of the docs has the features of the conversations here, and no others."""
    shown = {row.feature for row in (*ASKED, *REFUSED, *ANSWERED)} | {"count_tokens"}
    assert shown == {row.name for row in FEATURES}
    refused = {row.feature for row in REFUSED}
    assert {row.name for row in FEATURES if row.request == "refused"} <= refused


_JSON = any_json(
    [
        *("type", "role", "content", "text", "source", "data", "media_type", "input"),
        *("id", "name", "tool_use_id", "citations", "caller", "thinking", "format"),
        *("edits", "schema", "input_schema", "allowed_callers", "title", "enabled"),
    ],
    [
        *("user", "assistant", "system", "text", "image", "document", "tool_use"),
        *("tool_result", "thinking", "base64", "url", "content", "search_result"),
        *("custom", "auto", "tool", "json_schema", "mid_conv_system", "enabled"),
    ],
)
_FIELDS = sorted({*TRANSLATED, *PASSED, *LEFT_OUT, *CHECKED})


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4), st.lists(_JSON, max_size=3))
def test_no_shape_breaks_the_translation(fields: dict[str, Any], messages: list[Any]) -> None:
    """It is put as a chat, or refused: never anything else."""
    for body in ({"messages": messages, **fields}, {**HI, **fields}):
        with suppress(Refused):
            assert translate(body, request_id="r1", now=0).chat["messages"]


@given(_JSON)
def test_no_answer_breaks_it_either(message: Any) -> None:
    """It is a message, or an error of the provider's; and in a stream events, or that."""
    with suppress(StreamFailed):
        asked().answer({"choices": [{"index": 0, "message": message}]})
    made = asked()
    with suppress(StreamFailed):
        made.feed({"choices": [{"index": 0, "delta": message}]})
        made.finish()


def test_tokens_are_counted_by_the_provider() -> None:
    """In a chat of one token that neither has to follow a schema nor to call anything."""
    question = count(
        {
            **HI,
            "model": "auto",
            "system": "Be brief.",
            "tools": [{"name": "f", "input_schema": {}}],
            "tool_choice": {"type": "any"},
            "thinking": {"type": "disabled"},
            "output_config": {"format": {"type": "json_schema", "schema": {}}},
            "stream": True,
            "max_tokens": 100,
        }
    )
    assert question.chat == {
        "messages": [{"role": "system", "content": "Be brief."}, *HI["messages"]],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "max_tokens": 1,
    }
    assert question.hints == asked(thinking={"type": "disabled"}).hints
    assert question.answer({"usage": {"prompt_tokens": 7}}) == {"input_tokens": 7}
    # A server in whose prompt tools are only where they may be called.
    none = count(
        {**HI, "tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "none"}}
    )
    assert none.chat["tool_choice"] == "none"


def test_a_history_that_ends_with_an_answer_is_counted() -> None:
    """Nothing is to be gone on with."""
    history = [*HI["messages"], {"role": "assistant", "content": "Hello."}]
    assert count({"messages": history}).chat["messages"] == history


@pytest.mark.parametrize("chat", [{}, {"usage": None}, {"usage": {"completion_tokens": 1}}])
def test_tokens_are_not_guessed(chat: dict[str, Any]) -> None:
    """Where the provider tells none there is no answer."""
    with pytest.raises(StreamFailed, match="guessed"):
        count(HI).answer(chat)


def test_a_count_is_not_streamed() -> None:
    """No chunk belongs to one."""
    with pytest.raises(StreamFailed):
        count(HI).feed({})
    assert count(HI).finish() == b""


def test_a_turn_of_many_texts_costs_what_they_are_long() -> None:
    """They become one text, each looked at once."""
    blocks = [{"type": "text", "text": "x" * 20}] * 100_000
    since = time.process_time()
    chat = asked(messages=[{"role": "user", "content": blocks}]).chat
    assert time.process_time() - since < 3
    assert len(chat["messages"][0]["content"]) == 22 * len(blocks) - 2
