"""What shims change in a chat request, and that nothing else does."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body import BodyLimits, decode
from router.shims import Shim, change_of
from tests.harness.endpoints import ask_endpoint, bound_to
from tests.harness.one_provider import one_provider
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

TURN = {"role": "user", "content": "hello"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
SCHEMA = {"type": "object", "properties": {"ü": {"type": "string"}}}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
AS_OBJECT = {"type": "json_object"}
ANY_OBJECT = {
    "type": "json_schema",
    "json_schema": {"name": "object", "schema": {"type": "object"}},
}
WORDS = (
    "Call a tool where one is needed. Any other answer is JSON, with no other text around it, and "
    'valid under this JSON Schema:\n{"type": "object", "properties": {"ü": {"type": "string"}}}'
)
FEWER_WORDS = (
    "Call a tool where one is needed. Any other answer is JSON, with no other text around it: one "
    "object."
)


def after(fields: dict[str, Any], *shims: Shim) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields as these shims leave them, and the names of those that acted."""
    change = change_of(fields, frozenset(shims))
    if change is None:
        return fields, ()
    kept = {name: value for name, value in fields.items() if name not in change.without}
    return {**kept, **change.fields}, change.shims


@pytest.mark.parametrize(
    ("shim", "asked", "told"),
    [
        (Shim.JSON_OBJECT, {"response_format": AS_OBJECT}, {"response_format": ANY_OBJECT}),
        (Shim.MAX_TOKENS, {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (
            Shim.MAX_TOKENS,
            {"max_completion_tokens": 5, "max_tokens": 9},
            {"max_tokens": 5},
        ),
        (
            Shim.MAX_TOKENS,
            {"max_completion_tokens": 9, "max_tokens": 5},
            {"max_tokens": 5},
        ),
        (Shim.MAX_TOKENS, {"max_completion_tokens": 5, "max_tokens": None}, {"max_tokens": 5}),
        # What is no limit is the provider's to refuse.
        (Shim.MAX_TOKENS, {"max_completion_tokens": "5"}, {"max_tokens": "5"}),
        (Shim.MAX_COMPLETION_TOKENS, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (
            Shim.MAX_COMPLETION_TOKENS,
            {"max_tokens": 7, "max_completion_tokens": 5},
            {"max_completion_tokens": 5},
        ),
        (
            Shim.TOOLS_WITH_SCHEMA,
            {"tools": TOOLS, "response_format": AS_SCHEMA, "messages": [TURN]},
            {"tools": TOOLS, "messages": [{"role": "system", "content": WORDS}, TURN]},
        ),
        (
            Shim.TOOLS_WITH_SCHEMA,
            {"tools": TOOLS, "response_format": AS_OBJECT, "messages": []},
            {"tools": TOOLS, "messages": [{"role": "system", "content": FEWER_WORDS}]},
        ),
        (
            Shim.TOOLS_WITH_SCHEMA,
            {
                "tools": TOOLS,
                "response_format": AS_SCHEMA,
                "messages": [{"role": "system", "name": "n", "content": "be"}, TURN],
            },
            {
                "tools": TOOLS,
                "messages": [{"role": "system", "name": "n", "content": f"be\n\n{WORDS}"}, TURN],
            },
        ),
        (
            Shim.TOOLS_WITH_SCHEMA,
            {
                "tools": TOOLS,
                "tool_choice": "auto",
                "response_format": AS_SCHEMA,
                "messages": [{"role": "system", "content": [{"type": "text", "text": "be"}]}],
            },
            {
                "tools": TOOLS,
                "tool_choice": "auto",
                "messages": [
                    {
                        "role": "system",
                        "content": [
                            {"type": "text", "text": "be"},
                            {"type": "text", "text": WORDS},
                        ],
                    }
                ],
            },
        ),
    ],
)
def test_a_shim_changes_what_it_is_for(
    shim: Shim, asked: dict[str, Any], told: dict[str, Any]
) -> None:
    """And is told to have acted."""
    assert after({**asked, "seed": 1}, shim) == ({**told, "seed": 1}, (shim,))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": "json_object", "tools": 7, "messages": 7},
        {"response_format": {"type": "text"}, "tools": TOOLS, "messages": [TURN]},
        {"response_format": AS_SCHEMA, "messages": [TURN]},
        {"response_format": AS_SCHEMA, "tools": [], "messages": [TURN]},
        {
            "response_format": AS_SCHEMA,
            "tools": TOOLS,
            "tool_choice": "none",
            "messages": [TURN],
        },
        {"response_format": AS_SCHEMA, "tools": TOOLS, "messages": "hello"},
        {"max_tokens": None, "max_completion_tokens": None},
        {"max_tokens": "many", "max_completion_tokens": 5},
        {"max_tokens": True, "max_completion_tokens": 5},
    ],
)
def test_nothing_is_changed_where_nothing_is_to_be(fields: dict[str, Any]) -> None:
    """Whatever the shims."""
    assert change_of(fields, frozenset(Shim)) is None


def test_a_schema_in_words_leaves_none_to_be_changed() -> None:
    """One that also knows no json_object gets neither."""
    fields = {"tools": TOOLS, "response_format": AS_OBJECT, "messages": [TURN]}
    told, acted = after(fields, Shim.JSON_OBJECT, Shim.TOOLS_WITH_SCHEMA)
    assert acted == (Shim.TOOLS_WITH_SCHEMA,)
    assert "response_format" not in told


_ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers()),
    st.dictionaries(st.sampled_from(("type", "json_schema", "role", "content")), st.text()),
)  # fmt: skip
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "response_format": st.sampled_from([AS_SCHEMA, AS_OBJECT, {"type": "json_schema"}]) | _ODD,
        "tools": st.just(TOOLS) | _ODD,
        "tool_choice": st.sampled_from(["none", "auto"]) | _ODD,
        "messages": st.lists(_ODD | st.just(TURN), max_size=3) | _ODD,
        "max_tokens": st.integers() | _ODD,
        "max_completion_tokens": st.integers() | _ODD,
        "other": _ODD,
    },
)


_SETS = st.sets(st.sampled_from(Shim)).filter(
    lambda shims: not {Shim.MAX_TOKENS, Shim.MAX_COMPLETION_TOKENS} <= shims
)


@given(_FIELDS, _SETS)
def test_whatever_is_asked_only_what_a_shim_is_for_changes(
    fields: dict[str, Any], shims: set[Shim]
) -> None:
    """Nothing fails, what is not its own stays the same, and done twice is done once."""
    before = msgspec.json.encode(fields)
    told, acted = after(fields, *shims)
    assert msgspec.json.encode(fields) == before
    assert set(acted) <= shims
    assert (told == fields) is (not acted)
    for name in ("other", "tools", "tool_choice"):
        assert (name in told, told.get(name)) == (name in fields, fields.get(name))
    assert after(told, *shims)[1] == ()


@given(_FIELDS)
def test_a_changed_body_keeps_the_bytes_of_the_rest(fields: dict[str, Any]) -> None:
    """What was left out is gone from both forms, what was changed is in both."""
    data = json.dumps({**fields, "kept": [1.50, "é"]}, indent=1).replace("1.5", "1.50").encode()
    body = decode(data, BodyLimits(1 << 20, 64, 10_000))
    changed = body.changed({"max_tokens": 1}, {"messages"})
    sent = changed.encode({})
    assert json.loads(sent) == changed.fields
    expected = {**fields, "kept": [1.5, "é"], "max_tokens": 1}
    expected.pop("messages", None)
    assert changed.fields == expected
    assert b"1.50" in sent


# Through a router

ASKED = {
    "model": "text",
    "messages": [TURN],
    "tools": TOOLS,
    "response_format": AS_SCHEMA,
    "max_completion_tokens": 5,
}
EVERY = {name: ["fm/m"] for name in ("text", "structured_output", "tool_use")}


async def test_an_ollama_gets_what_it_does(tmp_path: Path) -> None:
    """By default the two shims that it was seen to need; the header names those that acted."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={
                "fm": {"kind": "ollama", "base_url": fm.url.removesuffix("/v1")},
                "off": {"kind": "ollama", "base_url": fm.url.removesuffix("/v1"), "shims": []},
            },
            capabilities=EVERY,
        ) as signalbox,
    ):
        answer = await signalbox.chat(ASKED)
        plain = await signalbox.chat({"model": "text", "messages": [TURN], "max_tokens": 5})
        off = await signalbox.chat({**ASKED, "model": "off/m"})
        chats = [each.json for each in fm.seen if each.target.endswith("completions")]
    seen = chats[0]
    assert answer.headers["x-signalbox-shims"] == "tools_with_schema,max_tokens"
    assert seen["max_tokens"] == 5
    assert [turn["role"] for turn in seen["messages"]] == ["system", "user"]
    assert "max_completion_tokens" not in seen
    assert "response_format" not in seen
    assert "x-signalbox-shims" not in plain.headers
    assert "x-signalbox-shims" not in off.headers
    assert chats[-1] == {**ASKED, "model": "m"}


@pytest.mark.parametrize(
    ("shims", "asked", "told"),
    [
        (["json_object"], {"response_format": AS_OBJECT}, {"response_format": ANY_OBJECT}),
        (["max_completion_tokens"], {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (["max_tokens"], {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ([], {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_has_the_shims_that_are_set(
    tmp_path: Path, shims: list[str], asked: dict[str, Any], told: dict[str, Any], stream: bool
) -> None:
    """Of OpenAI's kind none else; explain says beforehand which would act."""
    fields = {"messages": [TURN], "stream": stream, **asked}
    async with one_provider(tmp_path, None, _either, fm={"shims": shims} if shims else {}) as (
        fm,
        signalbox,
    ):
        await signalbox.client.put(
            "/admin/capabilities/structured_output", json={"models": ["fm/model-1"]}
        )
        explained = await _explained(signalbox, "/v1/chat/completions", fields)
        answer = await signalbox.chat(fields)
    assert answer.status_code == 200
    assert fm.seen[-1].json == {"model": "model-1", "messages": [TURN], "stream": stream, **told}
    assert answer.headers.get("x-signalbox-shims", "") == ",".join(shims)
    assert explained == shims


async def _either(conversation: Conversation) -> None:
    if not conversation.json["stream"]:
        return await conversation.answer()
    await conversation.begin_stream()
    await conversation.event(b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n')
    return await conversation.end_stream()


async def _explained(signalbox: RunningRouter, path: str, fields: dict[str, Any]) -> list[str]:
    told = await signalbox.client.post("/admin/explain", json={"path": path, "body": fields})
    return list(told.json()["routes"][0]["shims"])


@pytest.mark.parametrize(
    ("path", "asked"),
    [("/v1/responses", {"max_output_tokens": 5}), ("/v1/messages", {"max_tokens": 5})],
)
async def test_shims_act_on_what_a_dialect_becomes(
    tmp_path: Path, path: str, asked: dict[str, Any]
) -> None:
    """After the translation; and never on what goes out in a dialect of its own."""
    shims = ["max_completion_tokens"]
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **bound_to(fm, dialects=["chat"], shims=shims)) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, **asked)
        fields = {**asked, **_TURNS[path]}
        explained = await _explained(signalbox, path, fields)
        sent = fm.seen[0].json
    name = path.rpartition("/")[2]
    assert told.headers["x-signalbox-shims"] == f"{name}_to_chat,max_completion_tokens"
    assert explained == [f"{name}_to_chat", "max_completion_tokens"]
    assert (sent["max_completion_tokens"], "max_tokens" in sent) == (5, False)
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **bound_to(fm, shims=shims)) as signalbox,
    ):
        told = await ask_endpoint(signalbox.port, path, **asked)
    assert "x-signalbox-shims" not in told.headers
    assert asked.items() <= fm.seen[0].json.items()


_TURNS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [TURN]},
}


async def test_the_next_provider_gets_the_request_as_it_came(tmp_path: Path) -> None:
    """A shim is of one provider: the header tells what the one that answered got."""

    async def fails(conversation: Conversation) -> None:
        await conversation.answer(b'{"error":{"message":"x"}}', 500)

    async with (
        ScriptedUpstream(fails) as bad,
        ScriptedUpstream() as good,
        running_router(
            tmp_path,
            providers={
                "bad": openai_provider(bad.url, shims=["max_tokens"]),
                "good": openai_provider(good.url),
            },
            capabilities={"text": ["bad/m", "good/m"]},
        ) as signalbox,
    ):
        fields = {"messages": [TURN], "max_completion_tokens": 5}
        answer = await signalbox.chat(fields)
    assert answer.headers["x-signalbox-provider"] == "good"
    assert "x-signalbox-shims" not in answer.headers
    assert bad.seen[0].json == {"messages": [TURN], "max_tokens": 5, "model": "m"}
    assert good.seen[0].json == {**fields, "model": "m"}


async def test_shims_can_be_set_at_run_time(tmp_path: Path) -> None:
    """By those names alone, and no two that undo each other."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path) as signalbox,
    ):

        async def add(name: str, *shims: str) -> Any:
            row = {"name": name, **openai_provider(fm.url), "shims": shims}
            return await signalbox.client.post("/admin/providers", json=row)

        assert (await add("a", "max_tokens")).status_code == 201
        unknown, both = (
            await add("b", "min_tokens"),
            await add("b", "max_tokens", "max_completion_tokens"),
        )
        answer = await signalbox.chat(
            {"model": "a/m", "messages": [TURN], "max_completion_tokens": 5}
        )
    for refused in (unknown, both):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"].startswith("shims")
    assert "choose one" in both.json()["error"]["message"]
    assert answer.headers["x-signalbox-shims"] == "max_tokens"
