"""Conversations in Anthropic's protocol as they have to be put, and the features they show."""

from typing import Any, Final, NamedTuple

from tests.router.dialects.features import Feature

_PIXEL: Final = "iVBORw0KGgo="
_PICTURE: Final = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL},
}
_SHOWN: Final = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}"}}
_LINKED: Final = {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}}
_SHOWN_LINK: Final = {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}}
_INPUT: Final = {"type": "object", "properties": {"at": {"type": "string"}}}
_LOOK: Final = {"name": "look", "description": "Look somewhere.", "input_schema": _INPUT}
_LOOK_IN_CHAT: Final[dict[str, Any]] = {
    "type": "function",
    "function": {"name": "look", "description": "Look somewhere.", "parameters": _INPUT},
}
_OFFERED: Final = {"tools": [_LOOK_IN_CHAT]}
_SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string"}}}
_FORMAT: Final = {"type": "json_schema", "schema": _SCHEMA}
_FORMAT_IN_CHAT: Final = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True},
    }
}
_CACHED: Final = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
_UNTHINKING: Final = {
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
}
_NO_MORE: Final[dict[str, Any]] = {}


class Asked(NamedTuple):
    """A request's fields beside a bare `hi`, and what the chat completion has beside it.

    `hints` are for servers of local models.
    """

    feature: str
    fields: dict[str, Any]
    chat: dict[str, Any]
    hints: dict[str, Any] = _NO_MORE


class Answered(NamedTuple):
    """A chat's message with how it ended, and what the answer has for it.

    `choice` stands in the choice beside the message, `more` beside the choices.
    """

    feature: str
    message: dict[str, Any]
    content: list[dict[str, Any]]
    stop_reason: str = "end_turn"
    finish_reason: str = "stop"
    fields: dict[str, Any] = _NO_MORE
    choice: dict[str, Any] = _NO_MORE
    more: dict[str, Any] = _NO_MORE
    answer: dict[str, Any] = _NO_MORE


class Refusal(NamedTuple):
    """A request that is refused, by which field and with which code."""

    feature: str
    fields: dict[str, Any]
    param: str
    code: str = "unsupported_parameter"


def _user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def _text(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def _calls(*calls: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


_ASK: Final = {"role": "user", "content": "Where?"}
_CALL: Final = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "sea"}}
_CALL_2: Final = {"type": "tool_use", "id": "c2", "name": "look", "input": {}}
# As SDKs send back what they got.
_CALL_AS_SENT: Final = {**_CALL, "caller": {"type": "direct"}, "toolset_name": None}
_CALLED: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": _calls(("c1", "look", '{"at":"sea"}')),
}


def _result(content: Any, call: str = "c1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content, **more}


def _told(content: str, call: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": content}


def _after_a_call(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": [
            _ASK,
            {"role": "assistant", "content": [_CALL]},
            {"role": "user", "content": list(blocks)},
        ]
    }


def _in_chat(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [_ASK, _CALLED, *messages]}


def _document(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **more}


_PLAIN: Final = {"type": "text", "media_type": "text/plain", "data": "Once."}
_PDF: Final = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
_FILE: Final = {"file_data": "data:application/pdf;base64,JVBERi0="}

ASKED: Final = (
    Asked("text", {}, {}),
    Asked("text", _user(_text("hi")), {}),
    Asked("text", _user(_text("one"), _text(""), _text("two")), _said("one\n\ntwo")),
    Asked("text", _user(), _said("")),
    Asked("text", _said(""), _said("")),
    Asked(
        "system",
        {"system": "Be brief."},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ]
        },
    ),
    Asked(
        "system",
        {
            "system": [
                _text("x-anthropic-billing-header: cc_version=2.1.177.01c; cch=0aaa9;"),
                _text("Be brief.", **_CACHED),
                _text("Be kind."),
            ]
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief.\n\nBe kind."},
                {"role": "user", "content": "hi"},
            ]
        },
    ),
    Asked("system", {"system": ""}, {}),
    Asked(
        "system in the conversation",
        {
            "messages": [
                {"role": "system", "content": "First."},
                {"role": "user", "content": "hi"},
                {"role": "system", "content": [_text("The date is another.")]},
                {"role": "assistant", "content": "Yes?"},
                {"role": "system", "content": "Gone.", "clear_at": "next_user_message"},
                {"role": "user", "content": "Well."},
                {"role": "system", "content": "Stays.", "clear_at": "next_user_message"},
                {"role": "system", "output_config": {"effort": "low"}},
            ]
        },
        {
            "messages": [
                {"role": "system", "content": "First."},
                {
                    "role": "user",
                    "content": "hi\n\n<system-reminder>\nThe date is another.\n</system-reminder>",
                },
                {"role": "assistant", "content": "Yes?"},
                {
                    "role": "user",
                    "content": "Well.\n\n<system-reminder>\nStays.\n</system-reminder>",
                },
            ]
        },
    ),
    Asked(
        "system in the conversation",
        _user(_text("hi"), {"type": "mid_conv_system", "content": [_text("Soon.")]}),
        _said("hi\n\n<system-reminder>\nSoon.\n</system-reminder>"),
    ),
    Asked(
        "turns",
        {
            "messages": [
                {"role": "user", "content": "One."},
                {"role": "user", "content": "Two."},
                {"role": "assistant", "content": "Three."},
                {"role": "assistant", "content": [_text("Fo"), _text("ur.")]},
                {"role": "assistant", "content": []},
                {"role": "user", "content": "Five."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "One.\n\nTwo."},
                {"role": "assistant", "content": "Three.\n\nFour."},
                {"role": "user", "content": "Five."},
            ]
        },
    ),
    Asked(
        "images",
        _user(_text("What is"), _text("this?"), _PICTURE, {**_LINKED, **_CACHED}),
        _said([_text("What is\n\nthis?"), _SHOWN, _SHOWN_LINK]),
    ),
    Asked("images", _user(_PICTURE), _said([_SHOWN])),
    Asked(
        "documents that are text",
        _user(_document(_PLAIN, title="A tale", context="Old.", citations={"enabled": False})),
        _said(
            "<document>\n<title>A tale</title>\n<context>Old.</context>\n<content>\n\nOnce.\n\n"
            "</content>\n</document>"
        ),
    ),
    Asked(
        "documents that are text",
        _user(_document({"type": "content", "content": [_text("See:"), _PICTURE]})),
        _said(
            [
                _text("<document>\n<content>\n\nSee:"),
                _SHOWN,
                _text("</content>\n</document>"),
            ]
        ),
    ),
    Asked(
        "documents that are PDF",
        _user(_document(_PDF)),
        _said([{"type": "file", "file": {"filename": "document.pdf", **_FILE}}]),
    ),
    Asked(
        "documents that are PDF",
        _user(_document(_PDF, title="a.pdf", context="Old.")),
        _said([_text("Old."), {"type": "file", "file": {"filename": "a.pdf", **_FILE}}]),
    ),
    Asked(
        "search results",
        _user({"type": "search_result", "source": "s", "title": "t", "content": [_text("Found.")]}),
        _said(
            "<search_result>\n<source>s</source>\n<title>t</title>\n<content>\n\nFound.\n\n"
            "</content>\n</search_result>"
        ),
    ),
    Asked("tools", {"tools": [_LOOK]}, _OFFERED),
    Asked("tools", {"tools": []}, {}),
    Asked(
        "tools",
        {
            "tools": [
                {
                    **_LOOK,
                    **_CACHED,
                    "type": "custom",
                    "strict": True,
                    "defer_loading": True,
                    "eager_input_streaming": True,
                    "allowed_callers": ["direct"],
                    "input_examples": [{"at": "sea"}],
                }
            ]
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        **_LOOK_IN_CHAT["function"],
                        "parameters": {**_INPUT, "examples": [{"at": "sea"}]},
                        "strict": True,
                    },
                }
            ]
        },
    ),
    Asked(
        "calls and results",
        _after_a_call(_result("a ship")),
        _in_chat(_told("a ship")),
    ),
    Asked(
        "calls and results",
        {
            "messages": [
                _ASK,
                {"role": "assistant", "content": [_text("Let me see."), _CALL, _CALL_2]},
                {
                    "role": "user",
                    "content": [_text("Well?"), _result([_text("a ship")]), _result("fog", "c2")],
                },
            ]
        },
        {
            "messages": [
                _ASK,
                {
                    "role": "assistant",
                    "content": "Let me see.",
                    "tool_calls": _calls(("c1", "look", '{"at":"sea"}'), ("c2", "look", "{}")),
                },
                _told("a ship"),
                _told("fog", "c2"),
                {"role": "user", "content": "Well?"},
            ]
        },
    ),
    Asked(
        "calls and results",
        {
            "messages": [
                _ASK,
                {"role": "assistant", "content": [_CALL_AS_SENT]},
                {"role": "system", "content": "Hurry."},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1"}]},
            ]
        },
        _in_chat(
            _told(""),
            {"role": "user", "content": "<system-reminder>\nHurry.\n</system-reminder>"},
        ),
    ),
    Asked(
        "calls and results",
        _after_a_call(_result("no boat", is_error=True)),
        _in_chat(_told("Error: no boat")),
    ),
    Asked(
        "calls and results",
        _after_a_call(_result([{"type": "tool_reference", "tool_name": "look"}], is_error=False)),
        _in_chat(_told("The tool look can be called.")),
    ),
    Asked(
        "pictures in results",
        _after_a_call(_result([_text("Seen:"), _PICTURE]), _result([_LINKED], "c2"), _text("So?")),
        _in_chat(
            _told("Seen:\n\n[attachment 1]"),
            _told("[attachment 2]", "c2"),
            {
                "role": "user",
                "content": [
                    _text("[attachment 1] of a tool's result:"),
                    _SHOWN,
                    _text("[attachment 2] of a tool's result:"),
                    _SHOWN_LINK,
                    _text("So?"),
                ],
            },
        ),
    ),
    Asked(
        "tool_choice",
        {"tools": [_LOOK], "tool_choice": {"type": "auto"}},
        {**_OFFERED, "tool_choice": "auto"},
    ),
    Asked(
        "tool_choice",
        {"tools": [_LOOK], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {**_OFFERED, "tool_choice": "required", "parallel_tool_calls": False},
    ),
    Asked(
        "tool_choice",
        {"tools": [_LOOK], "tool_choice": {"type": "tool", "name": "look"}},
        {**_OFFERED, "tool_choice": {"type": "function", "function": {"name": "look"}}},
    ),
    Asked(
        "tool_choice",
        {"tools": [_LOOK], "tool_choice": {"type": "none"}},
        {**_OFFERED, "tool_choice": "none"},
    ),
    Asked("tool_choice", {"tool_choice": {"type": "auto"}}, {}),
    Asked("structured output", {"output_config": {"format": _FORMAT}}, _FORMAT_IN_CHAT),
    Asked("structured output", {"output_format": _FORMAT}, _FORMAT_IN_CHAT),
    Asked("effort", {"output_config": {"effort": "high", "format": None}}, {}),
    Asked("thinking", {"thinking": {"type": "enabled", "budget_tokens": 2048}}, {}),
    Asked("thinking", {"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
    Asked(
        "thinking",
        {"thinking": {"type": "disabled"}},
        {},
        _UNTHINKING,
    ),
    Asked(
        "thinking",
        {"thinking": {"type": "disabled"}, "reasoning_effort": "low", "chat_template_kwargs": {}},
        {"reasoning_effort": "low", "chat_template_kwargs": {}},
        _UNTHINKING,
    ),
    Asked(
        "thinking sent back",
        {
            "messages": [
                _ASK,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                        {"type": "redacted_thinking", "data": "x"},
                        _text("There."),
                    ],
                },
                _ASK,
            ]
        },
        {
            "messages": [
                _ASK,
                {"role": "assistant", "content": "There.", "reasoning_content": "Hm."},
                _ASK,
            ]
        },
    ),
    Asked(
        "sampling",
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
    ),
    Asked("sampling of local servers", {"seed": 1, "min_p": 0.1}, {"seed": 1, "min_p": 0.1}),
    Asked("max_tokens", {"max_tokens": 7}, {"max_tokens": 7}),
    Asked("stop_sequences", {"stop_sequences": ["END"]}, {"stop": ["END"]}),
    Asked("stop_sequences", {"stop_sequences": []}, {}),
    Asked("stream", {"stream": True}, {"stream": True}),
    Asked(
        "what changes nothing",
        {
            "model": "auto",
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "speed": "fast",
            "diagnostics": {"previous_message_id": None},
            "fallbacks": "default",
            "container": None,
            "mcp_servers": [],
            **_CACHED,
        },
        {},
    ),
    Asked(
        "context_management",
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {},
    ),
    Asked("context_management", {"context_management": {}}, {}),
)

REFUSED: Final = (
    Refusal(
        "prefill", {"messages": [_ASK, {"role": "assistant", "content": "In "}]}, "messages[1]"
    ),
    Refusal(
        "Anthropic's own tools",
        {"tools": [_LOOK, {"type": "web_search_20250305", "name": "web_search"}]},
        "tools[1]",
    ),
    Refusal("Anthropic's own tools", {"tools": [{"type": "bash_20250124"}]}, "tools[0]"),
    Refusal(
        "Anthropic's own tools",
        {"tools": [{**_LOOK, "allowed_callers": ["code_execution_20260120"]}]},
        "tools[0].allowed_callers",
    ),
    Refusal(
        "Anthropic's own tools",
        {
            "messages": [
                _ASK,
                {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s"}]},
            ]
        },
        "messages[1].content[0]",
    ),
    Refusal(
        "Anthropic's own tools",
        _user(_text("hi"), {"type": "web_search_tool_result"}),
        "messages[0].content[1]",
    ),
    Refusal(
        "Anthropic's own tools",
        {"messages": [{"role": "assistant", "content": [{**_CALL, "caller": {"type": "x"}}]}]},
        "messages[0].content[0].caller",
    ),
    Refusal("containers", {"container": "c"}, "container"),
    Refusal("containers", _user({"type": "container_upload"}), "messages[0].content[0]"),
    Refusal("MCP servers", {"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    Refusal(
        "context_management",
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        "context_management.edits[0]",
    ),
    Refusal("inference_geo", {"inference_geo": "eu"}, "inference_geo"),
    Refusal(
        "citations",
        _user(_document(_PLAIN, citations={"enabled": True})),
        "messages[0].content[0].citations",
    ),
    Refusal(
        "files",
        _user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        "messages[0].content[0].source",
    ),
    Refusal(
        "files",
        _user(_document({"type": "url", "url": "https://a.example/a.pdf"})),
        "messages[0].content[0].source",
    ),
    Refusal(
        "files",
        _user(_document({**_PDF, "media_type": "text/html"})),
        "messages[0].content[0].source",
    ),
    Refusal("system", {"system": [_text("a"), _PICTURE]}, "system[1]"),
    Refusal("task budgets", {"output_config": {"task_budget": {}}}, "output_config.task_budget"),
    Refusal("thinking", {"thinking": {"type": "deep"}}, "thinking.type"),
    Refusal("max_tokens", {"max_tokens": 0}, "max_tokens"),
    Refusal("what is not known", {"brand_new": 1}, "brand_new"),
    Refusal(
        "what is not known",
        {"messages": [{**_ASK, "clear_at": "never"}]},
        "messages[0].clear_at",
    ),
    Refusal(
        "what is not known",
        {"messages": [_ASK, {"role": "system", "output_config": {"format": {}}}]},
        "messages[1].output_config.format",
    ),
    Refusal(
        "what is not known", _user(_text("a", brand_new=1)), "messages[0].content[0].brand_new"
    ),
)

_THOUGHT: Final = {"type": "thinking", "thinking": "Hm.", "signature": "r1"}

ANSWERED: Final = (
    Answered("text", {"content": "Hello."}, [_text("Hello.")]),
    Answered("text", {"content": ""}, []),
    Answered("text", {"content": None}, [], finish_reason="tool_calls"),
    Answered("max_tokens", {"content": "He"}, [_text("He")], "max_tokens", "length"),
    Answered(
        "calls and results",
        {"content": None, "tool_calls": _calls(("c1", "look", '{"at":"sea"}'))},
        [_CALL],
        "tool_use",
        "tool_calls",
    ),
    Answered(
        "calls and results",
        {
            "content": "See.",
            "tool_calls": _calls(("c1", "look", '{"at":"sea"}'), ("c2", "look", "")),
        },
        [_text("See."), _CALL, _CALL_2],
        "tool_use",
    ),
    Answered(
        "calls and results",
        {"tool_calls": _calls(("", "look", "null"), ("", "look", "{}"))},
        [{**_CALL_2, "id": "toolu_r1_0"}, {**_CALL_2, "id": "toolu_r1_1"}],
        "tool_use",
    ),
    Answered(
        "calls and results",
        {"tool_calls": _calls(("c2", "look", '{"at":"se'))},
        [_CALL_2],
        "max_tokens",
        "length",
    ),
    Answered(
        "thinking",
        {"reasoning_content": "Hm.", "content": "Yes."},
        [_THOUGHT, _text("Yes.")],
    ),
    Answered("thinking", {"reasoning": "Hm.", "content": "Yes."}, [_THOUGHT, _text("Yes.")]),
    Answered(
        "thinking",
        {"reasoning_content": "Hm.", "content": "Yes."},
        [_text("Yes.")],
        fields={"thinking": {"type": "disabled"}},
    ),
    Answered(
        "thinking",
        {"reasoning_content": "Hm.", "content": "Yes."},
        [_text("Yes.")],
        fields={"thinking": {"type": "adaptive", "display": "omitted"}},
    ),
    Answered("refusals", {"content": None, "refusal": "No."}, [_text("No.")], "refusal"),
    Answered("refusals", {"content": "Wel"}, [_text("Wel")], "refusal", "content_filter"),
    Answered(
        "stop_sequences",
        {"content": "a"},
        [_text("a")],
        "stop_sequence",
        fields={"stop_sequences": ["END", "FIN"]},
        choice={"stop_reason": "FIN"},
        answer={"stop_sequence": "FIN"},
    ),
    Answered(
        "stop_sequences",
        {"content": "a"},
        [_text("a")],
        "stop_sequence",
        fields={"stop_sequences": ["END"]},
        choice={"matched_stop": "END"},
        answer={"stop_sequence": "END"},
    ),
    Answered(
        "stop_sequences",
        {"content": "a"},
        [_text("a")],
        fields={"stop_sequences": ["END"]},
        choice={"matched_stop": 2},
    ),
    Answered(
        "usage",
        {"content": "a"},
        [_text("a")],
        more={
            "usage": {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 8},
                "completion_tokens_details": {"reasoning_tokens": 3},
            }
        },
        answer={
            "usage": {
                "input_tokens": 2,
                "output_tokens": 5,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": 8,
                "output_tokens_details": {"thinking_tokens": 3},
            }
        },
    ),
)

_IN, _BOTH, _OUT, _NO = (
    ("yes", "", ""),
    ("yes", "yes", "yes"),
    ("", "yes", "yes"),
    ("refused", "", ""),
)
_NOTHING = ("left out", "", "")


def _row(name: str, cells: tuple[str, str, str], note: str = "") -> Feature:
    return Feature(name, "messages", *cells, note)


FEATURES: Final = (
    _row("text", _BOTH),
    _row(
        "turns", _IN, "neighbours of one role become one message: many templates take them by turns"
    ),
    _row(
        "system",
        _IN,
        "blocks become one message; Claude Code's `x-anthropic-billing-header`, another one in "
        "each request, is left out",
    ),
    _row(
        "system in the conversation",
        _IN,
        "in the user's turn, between `<system-reminder>`: many templates take a system message "
        "only at the beginning",
    ),
    _row("images", _IN, "base64 and URL"),
    _row("documents that are text", _IN, "told between tags; they need no `file`"),
    _row("documents that are PDF", _IN, "as a `file` part, base64 only"),
    _row("search results", _IN, "told between tags"),
    _row("tools", _IN, "those with an `input_schema`; `input_examples` become the schema's"),
    _row(
        "calls and results",
        _BOTH,
        "results come right after their calls; `is_error` is told in words. Arguments that the "
        "length has cut are empty in an answer, and as far as they came in a stream",
    ),
    _row("pictures in results", _IN, "follow in the user's message, with a name for each"),
    _row("tool_choice", _IN, "`disable_parallel_tool_use` too"),
    _row("structured output", _IN, "`output_config.format`, or `output_format`"),
    _row(
        "effort",
        _NOTHING,
        "a hint; servers refuse `reasoning_effort` for models that do not reason. It passes when "
        "it is sent by that name",
    ),
    _row(
        "thinking",
        _BOTH,
        "shown unless `disabled` or `display: omitted`; `disabled` becomes `reasoning_effort: "
        "none` and `enable_thinking: false` for local servers; `budget_tokens` is left out",
    ),
    _row("thinking sent back", _IN, "as `reasoning_content`; `redacted_thinking` is left out"),
    _row("sampling", _IN, "`temperature`, `top_p`, `top_k`"),
    _row(
        "sampling of local servers",
        _IN,
        "`seed`, `min_p`, penalties, `logit_bias`, `reasoning_effort`, `chat_template_kwargs` pass",
    ),
    _row("max_tokens", _BOTH, "0 is refused"),
    _row(
        "stop_sequences",
        _BOTH,
        "which one ended an answer is told where the server tells (vLLM, SGLang); else `end_turn`",
    ),
    _row("stream", ("yes", "", "yes"), "the tokens come at the end"),
    _row("refusals", _OUT),
    _row("usage", _OUT, "what was known of the prompt counts apart, as `cache_read_input_tokens`"),
    _row("count_tokens", ("yes", "yes", ""), "counted by the provider, in an answer of one token"),
    _row(
        "what changes nothing",
        _NOTHING,
        "`metadata`, `cache_control`, `service_tier`, `speed`, `diagnostics`, `fallbacks`",
    ),
    _row("context_management", _NOTHING, "`clear_thinking`; other edits are refused"),
    _row("prefill", _NO, "a last message of the assistant, for it to go on"),
    _row("Anthropic's own tools", _NO, "web search, code execution, bash, computer …"),
    _row("containers", _NO),
    _row("MCP servers", _NO),
    _row("citations", _NO),
    _row("files", _NO, "`file_id`, and documents by URL"),
    _row("inference_geo", _NO),
    _row("task budgets", _NO),
    _row("what is not known", _NO, "at any depth, by its name"),
)
