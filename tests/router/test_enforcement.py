"""Whole answers held to the schema that they were asked for, pure and through a router."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body import JsonBody
from router.enforcement import Finding, Verdict, asked_again, examine, schema_of
from tests.harness.endpoints import ask_endpoint, bound_to
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "switch", "schema": SCHEMA}}
TURN = {"role": "user", "content": "hello"}
GOOD, BAD, WORSE = '{"on": true}', '{"on": "yes"}', "no JSON"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HEADER = "x-signalbox-enforcement"


def completion(*messages: Any, **choice: Any) -> bytes:
    """Return a chat completion of these contents, or whole messages."""
    choices = [
        {
            "index": number,
            "finish_reason": "stop",
            "message": {"role": "assistant", **_message(message)},
            **choice,
        }
        for number, message in enumerate(messages)
    ]
    told = {"id": "c1", "object": "chat.completion", "choices": choices, "usage": USAGE}
    return json.dumps(told).encode()


def _message(message: Any) -> dict[str, Any]:
    return message if isinstance(message, dict) else {"content": message}


CALL = {"content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (completion(GOOD), "valid"),
        (completion(BAD), "invalid"),
        (completion(WORSE), "invalid"),
        (completion(f"```json\n{GOOD}\n```"), "invalid"),
        (completion('{"on": NaN}'), "invalid"),
        (completion("[" * 5000), "invalid"),
        (completion(""), "invalid"),
        (completion(None), "invalid"),
        (completion(GOOD, GOOD), "valid"),
        (completion(GOOD, BAD), "invalid"),
        (completion(GOOD, CALL), "valid"),
        (completion(CALL), None),
        (completion({"content": BAD, "tool_calls": CALL["tool_calls"]}), None),
        (completion({"content": BAD, "tool_calls": []}), "invalid"),
        (completion({"content": None, "function_call": {"name": "f"}}), None),
        (completion({"content": None, "refusal": "I won't"}), None),
        (completion({"content": GOOD, "refusal": None}), "valid"),
        (completion("cut", finish_reason="content_filter"), None),
        (b"{}", None),
        (b"[]", None),
        (b'{"choices": 7}', None),
        (b'{"choices": [7, {"message": 7}]}', None),
        (completion(f'{{"on": "{"x" * (256 << 10)}"}}'), "unchecked"),
    ],
)
def test_every_choice_is_to_be_valid_but_calls_and_refusals(
    answer: bytes, verdict: str | None
) -> None:
    """None where there was nothing to be valid."""
    finding = examine(SCHEMA, answer)
    assert (None if finding is None else finding.verdict) == verdict


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        (AS_SCHEMA, SCHEMA),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "text"}, None),
        ({"type": "json_schema"}, None),
        ({"type": "json_schema", "json_schema": 7}, None),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, None),
        ("json_object", None),
        (None, None),
    ],
)
def test_the_schema_of_a_request(wanted: Any, schema: Any) -> None:
    """As chat completions ask for one."""
    assert schema_of({"response_format": wanted}) == schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        "none",
        {"$ref": "http://127.0.0.1:9/"},
        {"description": "x" * (256 << 10)},
    ],
)
def test_what_our_validator_cannot_tell_fails_nothing(schema: Any) -> None:
    """The provider has taken the schema: its answer passes."""
    assert examine(schema, completion(GOOD)) == Finding(Verdict.UNCHECKED)


def test_the_model_is_shown_what_it_said_and_what_is_wrong() -> None:
    """Behind the conversation, whose other fields stay as they were."""
    finding = examine(SCHEMA, completion(GOOD, BAD))
    assert finding is not None
    fields = {"messages": [TURN], "seed": 1}
    again = asked_again(JsonBody(fields, fields), finding)
    first, said, complaint = again.fields["messages"]
    assert (first, said) == (TURN, {"role": "assistant", "content": BAD})
    assert complaint["role"] == "user"
    assert "- $['on']: the value is not of type \"boolean\"\n" in complaint["content"]
    assert again.fields["seed"] == 1


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(("choices", "message", "content", "tool_calls", "refusal")), inner
            )
        ),
    )
)
def test_no_answer_fails_the_request(answer: Any) -> None:
    """What is no completion has nothing to be valid, or is what it is."""
    finding = examine(SCHEMA, json.dumps(answer).encode())
    assert finding is None or finding.verdict in set(Verdict)


# Through a router


def says(*answers: bytes | Script) -> Script:
    """Return the script of a provider that gives these answers, one after another."""
    rest = list(answers)

    async def script(conversation: Conversation) -> None:
        answer = rest.pop(0)
        if callable(answer):
            return await answer(conversation)
        return await conversation.answer(answer)

    return script


def bindings(enforce: str, *models: str) -> dict[str, Any]:
    """Return a map whose schemas are enforced."""
    return {"structured_output": {"models": models or ["fm/m"], "enforce": enforce}}


async def _asked(
    folder: Path,
    enforce: str,
    script: Script,
    *,
    fields: dict[str, Any] | None = None,
    provider: dict[str, Any] | None = None,
    then: Callable[[RunningRouter], Any] | None = None,
    **sections: Any,
) -> tuple[Any, list[Conversation], Any]:
    """Ask once for a schema; return the answer, what the provider saw, and what `then` returns."""
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            folder,
            providers={"fm": openai_provider(fm.url, **(provider or {}))},
            capabilities={**bindings(enforce), "text": ["fm/m"]},
            **sections,
        ) as signalbox,
    ):
        asked = {"messages": [TURN], "response_format": AS_SCHEMA, "seed": 7, **(fields or {})}
        answer = await signalbox.chat(asked)
        after = await then(signalbox) if then else None
    return answer, fm.seen, after


def content_of(answer: Any) -> Any:
    """Return what the first choice says."""
    return answer.json()["choices"][0]["message"]["content"]


async def _egress(signalbox: RunningRouter) -> Any:
    return (await signalbox.client.get("/admin/egress")).json()["data"]


@pytest.mark.parametrize(
    ("enforce", "answers", "verdict", "content"),
    [
        ("off", [BAD], None, BAD),
        ("validate", [GOOD], "valid", GOOD),
        ("validate", [BAD], "invalid", BAD),
        ("repair", [GOOD], "valid", GOOD),
        ("repair", [BAD, GOOD], "repaired", GOOD),
        ("repair", [BAD, WORSE], "invalid", BAD),
        # What is no answer at all repairs nothing.
        ("repair", [BAD, CALL], "invalid", BAD),
        ("repair", [CALL], None, None),
    ],
)
async def test_an_answer_is_held_to_its_schema(
    tmp_path: Path, enforce: str, answers: list[Any], verdict: str | None, content: str
) -> None:
    """The header tells the verdict; the answer passes, whatever it is, as the provider gave it."""
    bodies = [completion(each) for each in answers]
    answer, seen, egress = await _asked(tmp_path, enforce, says(*bodies), then=_egress)
    assert (answer.status_code, answer.headers.get(HEADER)) == (200, verdict)
    assert content_of(answer) == content
    assert answer.content in bodies
    assert answer.headers["x-signalbox-attempts"] == str(len(answers)) == str(len(seen))
    [row] = egress
    assert row["requests"] == len(answers)
    assert row["bytes_out"] == sum(len(each.body) for each in seen)
    assert row["completion_tokens"] == 2 * len(answers)
    if len(seen) == 2:
        first, again = (each.json for each in seen)
        assert again["messages"][:2] == [TURN, {"role": "assistant", "content": BAD}]
        assert "boolean" in again["messages"][2]["content"]
        assert {**again, "messages": [TURN]} == first


@pytest.mark.parametrize(
    ("fields", "answer", "verdict"),
    [
        ({"response_format": {"type": "json_object"}}, '{"a": 1}', "valid"),
        ({"response_format": {"type": "json_object"}}, "[]", "invalid"),
        ({"response_format": {"type": "text"}}, WORSE, None),
        ({"response_format": {"type": "json_schema"}}, WORSE, None),
        # Not served by the binding that enforces.
        ({"model": "fm/m"}, BAD, None),
        ({"model": "text"}, BAD, None),
        ({"model": "structured_output"}, BAD, "invalid"),
        (
            {
                "response_format": {
                    "type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "no"}},
                }
            },
            BAD,
            "unchecked",
        ),
    ],
)  # fmt: skip
async def test_what_is_checked_and_what_is_not(
    tmp_path: Path, fields: dict[str, Any], answer: str, verdict: str | None
) -> None:
    """Only what the binding that enforces serves, and a schema was asked for."""
    told, _, _ = await _asked(tmp_path, "validate", says(completion(answer)), fields=fields)
    assert (told.status_code, told.headers.get(HEADER)) == (200, verdict)


async def test_a_stream_passes_unchecked_and_says_so(tmp_path: Path) -> None:
    """It is on its way before it is whole."""

    async def streams(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n')
        await conversation.end_stream()

    told, seen, _ = await _asked(tmp_path, "repair", streams, fields={"stream": True})
    assert (told.headers[HEADER], len(seen)) == ("unchecked", 1)
    told, _, _ = await _asked(tmp_path, "off", streams, fields={"stream": True})
    assert HEADER not in told.headers
    plain = {"stream": True, "model": "structured_output", "response_format": {"type": "text"}}
    told, _, _ = await _asked(tmp_path, "repair", streams, fields=plain)
    assert HEADER not in told.headers


async def test_a_providers_refusal_has_no_verdict(tmp_path: Path) -> None:
    """An error is no answer."""

    async def refuses(conversation: Conversation) -> None:
        await conversation.answer(b'{"error":{"message":"bad schema"}}', 400)

    told, seen, _ = await _asked(tmp_path, "repair", refuses)
    assert (told.status_code, told.headers.get(HEADER), len(seen)) == (400, None, 1)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize(
    ("enforce", "answers", "verdict"),
    [("repair", [BAD, GOOD], "repaired"), ("validate", [BAD], "invalid"), ("off", [BAD], None)],
)
async def test_other_dialects_are_held_to_their_schemas_too(
    tmp_path: Path, path: str, enforce: str, answers: list[str], verdict: str | None
) -> None:
    """As the chats that they become, and the answer comes in the client's words."""
    script = says(*map(completion, answers))
    fields, text_of = _IN_DIALECT[path]
    async with ScriptedUpstream(script) as fm:
        told = bound_to(fm, dialects=["chat"])
        told["capabilities"] |= bindings(enforce)
        async with running_router(tmp_path, **told) as signalbox:
            answer = await ask_endpoint(signalbox.port, path, **fields)
    assert (answer.status, answer.headers.get(HEADER)) == (200, verdict)
    assert text_of(answer.content) == answers[-1]
    assert [each.target for each in fm.seen] == ["/v1/chat/completions"] * len(answers)
    if len(answers) == 2:
        assert [turn["role"] for turn in fm.seen[1].json["messages"]][-2:] == ["assistant", "user"]


_FORMAT = {"type": "json_schema", "name": "switch", "schema": SCHEMA}
_IN_DIALECT: dict[str, tuple[dict[str, Any], Callable[[Any], str]]] = {
    "/v1/responses": (
        {"text": {"format": _FORMAT}},
        lambda told: str(told["output"][0]["content"][0]["text"]),
    ),
    "/v1/messages": (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        lambda told: str(told["content"][0]["text"]),
    ),
}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_what_a_provider_answers_in_its_own_dialect_is_not_checked(
    tmp_path: Path, path: str
) -> None:
    """And the header says so."""
    fields, _ = _IN_DIALECT[path]
    async with ScriptedUpstream(says(completion(BAD))) as fm:
        told = bound_to(fm)
        told["capabilities"] |= bindings("repair")
        async with running_router(tmp_path, **told) as signalbox:
            answer = await ask_endpoint(signalbox.port, path, **fields)
            fm.script = _refuses
            refused = await ask_endpoint(signalbox.port, path, **fields)
    assert (answer.headers[HEADER], len(fm.seen)) == ("unchecked", 2)
    assert (refused.status, HEADER in refused.headers) == (400, False)


async def test_a_schema_that_a_shim_has_put_into_words_is_enforced(tmp_path: Path) -> None:
    """What counts is what the client asked for; asked again, the words are there still."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    answer, seen, _ = await _asked(
        tmp_path,
        "repair",
        says(completion(BAD), completion(GOOD)),
        fields={"tools": tools, "model": "structured_output"},
        provider={"shims": ["tools_with_schema"]},
    )
    assert answer.headers[HEADER] == "repaired"
    assert answer.headers["x-signalbox-shims"] == "tools_with_schema"
    for each in seen:
        assert "response_format" not in each.json
        assert each.json["messages"][0]["role"] == "system"


async def _fails(conversation: Conversation) -> None:
    await conversation.answer(b'{"error":{"message":"down"}}', 500)


async def _refuses(conversation: Conversation) -> None:
    await conversation.answer(b'{"error":{"message":"too long"}}', 400)


async def _hangs_up(conversation: Conversation) -> None:
    conversation.reset()


async def _is_silent(conversation: Conversation) -> None:
    await conversation.left()


@pytest.mark.parametrize("again", [_fails, _refuses, _hangs_up, _is_silent])
async def test_where_asking_again_fails_the_first_answer_passes(
    tmp_path: Path, again: Script
) -> None:
    """Within the time that the whole may take; the breaker hears of what it is to hear of."""

    async def state(signalbox: RunningRouter) -> Any:
        return signalbox.router.reaches["fm"].breaker.state

    answer, seen, breaker = await _asked(
        tmp_path,
        "repair",
        says(completion(BAD), again),
        provider={"timeouts": {"total_s": 0.5}},
        breaker={"failures": 1},
        then=state,
    )
    assert (answer.status_code, answer.headers[HEADER]) == (200, "invalid")
    assert content_of(answer) == BAD
    assert (answer.headers["x-signalbox-attempts"], len(seen)) == ("2", 2)
    # What was waited for is not ours.
    assert float(answer.headers["x-signalbox-overhead-ms"]) < 400
    assert breaker == ("open" if again in {_hangs_up, _is_silent} else "closed")


async def test_a_limit_holds_for_asking_again(tmp_path: Path) -> None:
    """Who has had its share is not asked once more."""
    answer, seen, _ = await _asked(
        tmp_path, "repair", says(completion(BAD)), provider={"spend_limit": {"requests": 1}}
    )
    assert (answer.headers[HEADER], len(seen)) == ("invalid", 1)


async def test_the_next_provider_is_held_to_the_schema_too(tmp_path: Path) -> None:
    """Asked again is the one that has answered; the place before it is kept meanwhile."""
    places: list[int] = []

    async def good(conversation: Conversation) -> None:
        admission = signalbox.router.reaches["next"].admission
        assert admission is not None
        places.append(admission.lane.running)
        await conversation.answer(completion(BAD if len(places) == 1 else GOOD))

    async with (
        ScriptedUpstream(_fails) as fm,
        ScriptedUpstream(good) as other,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url), "next": openai_provider(other.url)},
            capabilities=bindings("repair", "fm/m", "next/m"),
        ) as signalbox,
    ):
        answer = await signalbox.chat({"messages": [TURN], "response_format": AS_SCHEMA})
    assert answer.headers[HEADER] == "repaired"
    assert answer.headers["x-signalbox-provider"] == "next"
    assert answer.headers["x-signalbox-attempts"] == "3"
    assert (len(fm.seen), places) == (1, [1, 1])


async def test_a_client_that_leaves_ends_the_asking_again(tmp_path: Path) -> None:
    """The provider is left at once, and nothing stays behind."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def waits(conversation: Conversation) -> None:
        asked.set()
        await conversation.left()
        left.set()

    async with (
        ScriptedUpstream(says(completion(BAD), waits)) as fm,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url)},
            capabilities=bindings("repair"),
        ) as signalbox,
    ):
        async with RawClient(signalbox.port) as client:
            body = {"messages": [TURN], "response_format": AS_SCHEMA}
            await client.post("/v1/chat/completions", body)
            await asyncio.wait_for(asked.wait(), 5)
        await asyncio.wait_for(left.wait(), 5)


async def test_explain_tells_what_will_be_enforced(tmp_path: Path) -> None:
    """Of each route, and only where a schema is asked for."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={"fm": openai_provider(fm.url)},
            capabilities={**bindings("repair"), "text": ["fm/m"]},
        ) as signalbox,
    ):
        told = []
        for wanted in (AS_SCHEMA, {"type": "text"}):
            body = {"messages": [TURN], "response_format": wanted}
            answer = await signalbox.client.post("/admin/explain", json={"body": body})
            told.append(answer.json()["routes"][0]["enforce"])
    assert told == ["repair", "off"]


def test_the_validator_is_loaded_by_who_needs_it() -> None:
    """A router that enforces nothing never pays for it."""
    code = "import sys, router.app, router.proxy; sys.exit('jsonschema_rs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
