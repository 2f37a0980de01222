"""Conversations in the responses protocol as they have to be put, and the features they show."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.router.dialects.features import Feature

_PIXEL: Final = "data:image/png;base64,iVBORw0KGgo="
_LOOK: Final = {
    "type": "function",
    "name": "look",
    "description": "Look somewhere.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": True,
}
_LOOK_IN_CHAT: Final = {
    "type": "function",
    "function": {key: value for key, value in _LOOK.items() if key != "type"},
}
_PATCH: Final = {
    "type": "custom",
    "name": "patch",
    "description": "Change files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
_DOCS: Final = {
    "type": "namespace",
    "name": "mcp__docs__",
    "description": "What is written.",
    "tools": [{"type": "function", "name": "search", "description": "Find a page."}],
}
_SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string"}}}


class Asked(NamedTuple):
    """A request, and what the chat completion has instead of a bare `hi`."""

    feature: str
    fields: dict[str, Any]
    chat: dict[str, Any]


class Answered(NamedTuple):
    """A chat's message with how it ended, and what stands in the output and beside it."""

    feature: str
    message: dict[str, Any]
    output: list[dict[str, Any]]
    finish_reason: str = "stop"
    fields: Mapping[str, Any] = MappingProxyType({})
    response: Mapping[str, Any] = MappingProxyType({})
    more: Mapping[str, Any] = MappingProxyType({})


class Refusal(NamedTuple):
    """A request that is refused, by which code and which field."""

    feature: str
    fields: dict[str, Any]
    param: str
    code: str = "unsupported_parameter"


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


def _said(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def _calls(*calls: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


_ASK: Final = {"role": "user", "content": "Where?"}
_CALL: Final = {
    "type": "function_call",
    "call_id": "c1",
    "name": "look",
    "arguments": '{"at":"sea"}',
}
_CALLED: Final = {
    "role": "assistant",
    "content": None,
    "tool_calls": _calls(("c1", "look", '{"at":"sea"}')),
}
_RESULT: Final = {"type": "function_call_output", "call_id": "c1", "output": "a ship"}
_TOLD: Final = {"role": "tool", "tool_call_id": "c1", "content": "a ship"}

ASKED: Final = (
    Asked("text", {"input": "hi"}, {}),
    Asked("text", _user({"type": "input_text", "text": "hi"}), {}),
    Asked(
        "text",
        _user({"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}),
        _said([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
    ),
    Asked("text", _user(), _said("")),
    Asked("text", {"input": []}, {"messages": []}),
    Asked(
        "instructions",
        {"instructions": "Be brief."},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
            ]
        },
    ),
    Asked(
        "instructions",
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": "Be kind."},
                {
                    "type": "message",
                    "role": "system",
                    "content": [
                        {"type": "input_text", "text": "Be quick."},
                        {"type": "input_text", "text": "Be here."},
                    ],
                },
                {"role": "user", "content": "hi"},
                {"role": "developer", "content": "Be gone."},
            ],
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief.\n\nBe kind.\n\nBe quick.\nBe here."},
                {"role": "user", "content": "hi"},
                {"role": "system", "content": "Be gone."},
            ]
        },
    ),
    Asked(
        "conversations",
        {
            "input": [
                {"role": "user", "content": "hi"},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "phase": "final_answer",
                    "content": [
                        {"type": "output_text", "text": "Hel", "annotations": [], "logprobs": []},
                        {"type": "output_text", "text": "lo.", "annotations": []},
                    ],
                },
                {"role": "assistant", "content": "And?"},
                {"role": "user", "content": "bye"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "assistant", "content": "And?"},
                {"role": "user", "content": "bye"},
            ]
        },
    ),
    Asked(
        "pictures",
        _user(
            {"type": "input_text", "text": "What?"},
            {"type": "input_image", "image_url": _PIXEL, "detail": "low", "file_id": None},
            {"type": "input_image", "image_url": "https://pictures.example/1.png"},
        ),
        _said(
            [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": _PIXEL, "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}},
            ]
        ),
    ),
    Asked(
        "sound",
        _user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        _said([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    ),
    Asked(
        "files",
        _user(
            {"type": "input_file", "file_data": "AAAA", "filename": "a.pdf", "detail": "auto"},
            {"type": "input_file", "file_id": "file-1"},
        ),
        _said(
            [
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ]
        ),
    ),
    Asked(
        "marks of what to cache",
        _user(
            {"type": "input_text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
        ),
        _said([{"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}]),
    ),
    Asked(
        "functions",
        {"tools": [_LOOK], "tool_choice": "auto", "parallel_tool_calls": False},
        {"tools": [_LOOK_IN_CHAT], "tool_choice": "auto", "parallel_tool_calls": False},
    ),
    Asked(
        "functions",
        {"tools": [{"type": "function", "name": "stop", "parameters": None, "strict": None}]},
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "stop",
                        "parameters": {"type": "object", "properties": {}},
                    },
                }
            ]
        },
    ),
    Asked("functions", {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
    Asked(
        "calls and their results",
        {"input": [_ASK, _CALL, _RESULT]},
        {"messages": [_ASK, _CALLED, _TOLD]},
    ),
    Asked(
        "several calls at once",
        {
            "input": [
                _ASK,
                {"role": "assistant", "content": "I look."},
                _CALL,
                {**_CALL, "call_id": "c2", "arguments": ""},
                {"role": "assistant", "content": "I wait."},
                _RESULT,
                {
                    **_RESULT,
                    "call_id": "c2",
                    "output": [
                        {"type": "input_text", "text": "a"},
                        {"type": "input_text", "text": "b"},
                    ],
                },
            ]
        },
        {
            "messages": [
                _ASK,
                {
                    "role": "assistant",
                    "content": "I look.\n\nI wait.",
                    "tool_calls": _calls(("c1", "look", '{"at":"sea"}'), ("c2", "look", "{}")),
                },
                _TOLD,
                {
                    "role": "tool",
                    "tool_call_id": "c2",
                    "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                },
            ]
        },
    ),
    Asked(
        "pictures among results",
        {
            "input": [
                _ASK,
                _CALL,
                {**_RESULT, "output": [{"type": "input_image", "image_url": _PIXEL}]},
                {**_RESULT, "call_id": "c2"},
                {"role": "user", "content": "And now?"},
            ]
        },
        {
            "messages": [
                _ASK,
                _CALLED,
                {
                    **_TOLD,
                    "content": "[Attachment 1, of the result of call c1: in the message that "
                    "follows]",
                },
                {**_TOLD, "tool_call_id": "c2"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Attachment 1, of the result of call c1:"},
                        {"type": "image_url", "image_url": {"url": _PIXEL}},
                        {"type": "text", "text": "And now?"},
                    ],
                },
            ]
        },
    ),
    Asked(
        "the choice of a tool",
        {"tools": [_LOOK], "tool_choice": {"type": "function", "name": "look"}},
        {
            "tools": [_LOOK_IN_CHAT],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
    ),
    Asked(
        "the choice of a tool",
        {"tools": [_LOOK], "tool_choice": "required"},
        {"tools": [_LOOK_IN_CHAT], "tool_choice": "required"},
    ),
    Asked(
        "the choice of a tool",
        {"tools": [_LOOK], "tool_choice": "none"},
        {"tools": [_LOOK_IN_CHAT], "tool_choice": "none"},
    ),
    Asked(
        "allowed tools",
        {
            "tools": [_LOOK, {**_LOOK, "name": "listen"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "look"}],
            },
        },
        {"tools": [_LOOK_IN_CHAT], "tool_choice": "required"},
    ),
    Asked(
        "custom tools",
        {
            "tools": [_PATCH],
            "tool_choice": {"type": "custom", "name": "patch"},
            "input": [
                _ASK,
                {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"'},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
            ],
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "patch",
                        "description": "Change files.",
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "input": {
                                    "type": "string",
                                    "description": "What the tool is given: text of this lark "
                                    "grammar.\n\nstart: /.+/",
                                }
                            },
                            "required": ["input"],
                            "additionalProperties": False,
                        },
                    },
                }
            ],
            "tool_choice": {"type": "function", "function": {"name": "patch"}},
            "messages": [
                _ASK,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": _calls(("c1", "patch", '{"input":"a \\"b\\""}')),
                },
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
            ],
        },
    ),
    Asked(
        "namespaces of tools",
        {
            "tools": [_DOCS],
            "input": [{**_CALL, "name": "search", "namespace": "mcp__docs__"}],
            "tool_choice": {"type": "function", "name": "search", "namespace": "mcp__docs__"},
        },
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "mcp__docs__search",
                        "description": "What is written.\n\nFind a page.",
                        "parameters": {"type": "object", "properties": {}},
                    },
                }
            ],
            "tool_choice": {"type": "function", "function": {"name": "mcp__docs__search"}},
            "messages": [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": _calls(("c1", "mcp__docs__search", '{"at":"sea"}')),
                }
            ],
        },
    ),
    Asked(
        "JSON by a schema",
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "place",
                    "schema": _SCHEMA,
                    "strict": True,
                    "description": None,
                }
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": _SCHEMA, "strict": True},
            }
        },
    ),
    Asked(
        "JSON of any kind",
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
    ),
    Asked("text", {"text": {"format": {"type": "text"}, "verbosity": None}}, {}),
    Asked("verbosity", {"text": {"verbosity": "low"}}, {"verbosity": "low"}),
    Asked("reasoning", {"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    Asked(
        "reasoning",
        {"reasoning": {"effort": None, "context": "all_turns", "mode": "standard"}},
        {},
    ),
    Asked("reasoning as a summary", {"reasoning": {"summary": "auto"}}, {}),
    Asked(
        "reasoning sent back",
        {
            "include": ["reasoning.encrypted_content"],
            "input": [
                _ASK,
                {
                    "type": "reasoning",
                    "id": "rs_1",
                    "summary": [{"type": "summary_text", "text": "Hm."}],
                    "content": [{"type": "reasoning_text", "text": "Hm. The sea."}],
                },
                _CALL,
                _RESULT,
                # As Codex sends it: the raw text is left out.
                {
                    "type": "reasoning",
                    "summary": [],
                    "encrypted_content": "signalbox.VGhlIHNoaXAu",
                },
                {"role": "assistant", "content": "There."},
                {
                    "type": "reasoning",
                    "id": "rs_3",
                    "summary": [
                        {"type": "summary_text", "text": "One."},
                        {"type": "summary_text", "text": "Two."},
                    ],
                    "encrypted_content": "gAAA",
                },
                {"role": "assistant", "content": "And there."},
            ],
        },
        {
            "messages": [
                _ASK,
                {**_CALLED, "reasoning_content": "Hm. The sea."},
                _TOLD,
                {"role": "assistant", "content": "There.", "reasoning_content": "The ship."},
                {"role": "assistant", "content": "And there.", "reasoning_content": "One.\n\nTwo."},
            ]
        },
    ),
    Asked(
        "refusals",
        {
            "input": [
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
                _ASK,
            ]
        },
        {"messages": [{"role": "assistant", "content": "No."}, _ASK]},
    ),
    Asked(
        "log probabilities",
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 2},
    ),
    Asked("log probabilities", {"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    Asked("log probabilities", {"top_logprobs": 1}, {"logprobs": True, "top_logprobs": 1}),
    Asked("log probabilities", {"top_logprobs": 0}, {}),
    Asked("the longest answer", {"max_output_tokens": 64}, {"max_tokens": 64}),
    Asked(
        "sampling",
        {"temperature": 0, "top_p": 0.5, "seed": 7, "stop": ["."]},
        {"temperature": 0, "top_p": 0.5, "seed": 7, "stop": ["."]},
    ),
    Asked(
        "hints of caching",
        {
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        },
        {
            "prompt_cache_key": "k",
            "prompt_cache_retention": "24h",
            "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
        },
    ),
    Asked(
        "whom it is for",
        {"user": "u", "safety_identifier": "s", "metadata": {"a": "b"}},
        {"user": "u", "safety_identifier": "s"},
    ),
    Asked("service tiers", {"service_tier": "flex"}, {"service_tier": "flex"}),
    Asked("streams", {"stream": True}, {"stream": True}),
    Asked("streams", {"stream": False}, {}),
    Asked("streams", {"stream_options": {}}, {}),
    Asked(
        "streams",
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"stream": True},
    ),
    Asked(
        "what keeps nothing",
        {
            "background": False,
            "store": False,
            "truncation": "disabled",
            "conversation": None,
            "max_tool_calls": 3,
            "client_metadata": {"x": "y"},
            "model": "auto",
        },
        {},
    ),
)

_MESSAGE: Final = {"id": "msg_r_0", "type": "message", "role": "assistant", "status": "completed"}
_CUT: Final = {
    "status": "incomplete",
    "incomplete_details": {"reason": "max_output_tokens"},
}


def _text(text: str, logprobs: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _function_call(index: int, call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"fc_r_{index}",
        "type": "function_call",
        "status": "completed",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


_MORE: Final = '{"input": "x", "why": "y"}'
_CHANCE: Final = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}

ANSWERED: Final = (
    Answered("text", {"content": "Hi"}, [{**_MESSAGE, "content": [_text("Hi")]}]),
    Answered("text", {"content": None}, []),
    Answered(
        "functions",
        {"content": "", "tool_calls": _calls(("a", "look", ""))},
        [_function_call(0, "a", "look", "{}")],
        "tool_calls",
    ),
    Answered(
        "several calls at once",
        {
            "content": "I look.",
            # One without an id, and two with the same.
            "tool_calls": [
                *_calls(("a", "look", "{}"), ("a", "look", '{"at":"sea"}')),
                {"function": {"name": "look", "arguments": "{}"}},
            ],
        },
        [
            {**_MESSAGE, "content": [_text("I look.")]},
            _function_call(1, "a", "look", "{}"),
            _function_call(2, "call_r_1", "look", '{"at":"sea"}'),
            _function_call(3, "call_r_2", "look", "{}"),
        ],
    ),
    Answered(
        "custom tools",
        {
            "tool_calls": _calls(
                ("a", "patch", '{"input": "x\\ny"}'), ("b", "patch", "{x"), ("c", "patch", _MORE)
            )
        },
        [
            {
                "id": f"ctc_r_{index}",
                "type": "custom_tool_call",
                "status": "completed",
                "call_id": call_id,
                "name": "patch",
                "input": text,
            }
            for index, (call_id, text) in enumerate((("a", "x\ny"), ("b", "{x"), ("c", _MORE)))
        ],
        "tool_calls",
        {"tools": [_PATCH]},
    ),
    Answered(
        "namespaces of tools",
        {"tool_calls": _calls(("a", "mcp__docs__search", "{}"))},
        [{**_function_call(0, "a", "search", "{}"), "namespace": "mcp__docs__"}],
        "tool_calls",
        {"tools": [_DOCS]},
    ),
    *(
        Answered(
            "reasoning",
            {"content": "Hi", **dict.fromkeys(names, "Hm.")},
            [
                {
                    "id": "rs_r_0",
                    "type": "reasoning",
                    "status": "completed",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": "Hm."}],
                    "encrypted_content": "signalbox.SG0u",
                },
                {**_MESSAGE, "id": "msg_r_1", "content": [_text("Hi")]},
            ],
        )
        for names in (["reasoning_content"], ["reasoning"], ["reasoning", "reasoning_content"])
    ),
    Answered(
        "reasoning as a summary",
        {"content": "Hi", "reasoning_content": "Hm."},
        [
            {
                "id": "rs_r_0",
                "type": "reasoning",
                "status": "completed",
                "summary": [{"type": "summary_text", "text": "Hm."}],
                "encrypted_content": "signalbox.SG0u",
            },
            {**_MESSAGE, "id": "msg_r_1", "content": [_text("Hi")]},
        ],
        fields={"reasoning": {"summary": "auto"}},
        response={"reasoning": {"effort": None, "summary": "auto"}},
    ),
    Answered(
        "reasoning sent back",
        {"content": "Hi"},
        [{**_MESSAGE, "content": [_text("Hi")]}],
        fields={
            "input": [
                {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "gAAA"}
            ]
        },
        response={
            "input_transformations": [
                {
                    "id": "rs_9",
                    "type": "reasoning",
                    "action": "removed",
                    "reason": "model_mismatch",
                }
            ]
        },
    ),
    Answered(
        "refusals",
        {"content": "Well.", "refusal": "No."},
        [{**_MESSAGE, "content": [_text("Well."), {"type": "refusal", "refusal": "No."}]}],
    ),
    Answered(
        "the longest answer",
        {"content": "Hi"},
        [{**_MESSAGE, "status": "incomplete", "content": [_text("Hi")]}],
        "length",
        {"max_output_tokens": 1},
        {**_CUT, "max_output_tokens": 1},
    ),
    Answered(
        "the longest answer",
        {"content": "Hi", "tool_calls": _calls(("b", "look", ""), ("a", "look", '{"at":'))},
        [
            {**_MESSAGE, "content": [_text("Hi")]},
            _function_call(1, "b", "look", "{}"),
            {**_function_call(2, "a", "look", '{"at":'), "status": "incomplete"},
        ],
        "length",
        response=_CUT,
    ),
    Answered(
        "the longest answer",
        {"tool_calls": _calls(("a", "look", ""))},
        [{**_function_call(0, "a", "look", ""), "status": "incomplete"}],
        "length",
        response=_CUT,
    ),
    Answered(
        "what a filter holds back",
        {"content": "H"},
        [{**_MESSAGE, "status": "incomplete", "content": [_text("H")]}],
        "content_filter",
        response={"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
    ),
    Answered(
        "log probabilities",
        {"content": "Hi"},
        [
            {
                **_MESSAGE,
                "content": [_text("Hi", ({**_CHANCE, "top_logprobs": [_CHANCE]},))],
            }
        ],
        fields={"include": ["message.output_text.logprobs"]},
        more={"logprobs": {"content": [{**_CHANCE, "top_logprobs": [_CHANCE]}], "refusal": None}},
    ),
    Answered(
        "log probabilities",
        {"content": "Hi"},
        [
            {
                **_MESSAGE,
                "content": [_text("Hi", ({**_CHANCE, "bytes": [], "top_logprobs": []},))],
            }
        ],
        fields={"include": ["message.output_text.logprobs"]},
        more={"logprobs": {"content": [{**_CHANCE, "bytes": None}]}},
    ),
    Answered(
        "service tiers",
        {"content": "Hi"},
        [{**_MESSAGE, "content": [_text("Hi")]}],
        fields={"service_tier": "auto"},
        response={"service_tier": "auto"},
    ),
)

_HOSTED: Final = (
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "image_generation",
    "computer",
    "computer_use_preview",
    "mcp",
    "local_shell",
    "shell",
    "apply_patch",
    "tool_search",
    "programmatic_tool_calling",
)
_STRANGE_ITEMS: Final = (
    "item_reference",
    "web_search_call",
    "file_search_call",
    "computer_call",
    "computer_call_output",
    "image_generation_call",
    "code_interpreter_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "tool_search_call",
    "tool_search_output",
    "additional_tools",
    "configuration_update",
    "compaction",
    "compaction_trigger",
    "program",
    "program_output",
)

REFUSED: Final = (
    Refusal("what keeps something", {"previous_response_id": "resp_1"}, "previous_response_id"),
    Refusal("what keeps something", {"conversation": "conv_1"}, "conversation"),
    Refusal("what keeps something", {"conversation": {"id": "conv_1"}}, "conversation"),
    Refusal("what keeps something", {"store": True}, "store"),
    Refusal("what keeps something", {"background": True}, "background"),
    Refusal("what keeps something", {"background": 0}, "background"),
    Refusal("what keeps something", {"prompt": {"id": "pmpt_1"}}, "prompt"),
    Refusal("cutting and compacting", {"truncation": "auto"}, "truncation"),
    Refusal(
        "cutting and compacting",
        {"context_management": [{"type": "compaction"}]},
        "context_management",
    ),
    Refusal("moderation", {"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
    Refusal("streams", {"stream_options": {"odd": True}}, "stream_options.odd"),
    Refusal("streams", {"stream_options": True}, "stream_options", "invalid_request"),
    Refusal("pictures", {"image": {"context_compression": "auto"}}, "image"),
    Refusal("access programs", {"access_programs": {"cyber": "standard"}}, "access_programs"),
    *(Refusal("hosted tools", {"tools": [{"type": kind}]}, "tools[0]") for kind in _HOSTED),
    Refusal("hosted tools", {"tools": [_LOOK], "tool_choice": {"type": "mcp"}}, "tool_choice"),
    *(
        Refusal("items of hosted tools", {"input": [{"type": kind}]}, "input[0]")
        for kind in _STRANGE_ITEMS
    ),
    Refusal("functions", {"tools": [{**_LOOK, "defer_loading": True}]}, "tools[0].defer_loading"),
    Refusal("functions", {"tools": [{**_LOOK, "async": True}]}, "tools[0].async"),
    Refusal(
        "functions",
        {"tools": [{**_LOOK, "allowed_callers": ["programmatic"]}]},
        "tools[0].allowed_callers",
    ),
    Refusal(
        "functions",
        {"input": [{**_CALL, "caller": {"type": "program", "caller_id": "p"}}]},
        "input[0].caller",
    ),
    Refusal("functions", {"tools": [_LOOK, _LOOK]}, "tools[1].name", "invalid_request"),
    Refusal("functions", {"tools": "look"}, "tools", "invalid_request"),
    Refusal("functions", {"tools": False}, "tools", "invalid_request"),
    Refusal("functions", {"tools": {}}, "tools", "invalid_request"),
    Refusal("functions", {"tools": [{"type": "function"}]}, "tools[0].name", "invalid_request"),
    Refusal("the choice of a tool", {"tool_choice": "required"}, "tool_choice", "invalid_request"),
    Refusal("the choice of a tool", {"tool_choice": "some"}, "tool_choice", "invalid_request"),
    Refusal(
        "the choice of a tool",
        {"tools": [_LOOK], "tool_choice": {"type": "function", "name": "listen"}},
        "tool_choice",
        "invalid_request",
    ),
    Refusal(
        "allowed tools",
        {"tools": [_LOOK], "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}},
        "tool_choice.mode",
        "invalid_request",
    ),
    Refusal(
        "pictures",
        _user({"type": "input_image", "file_id": "file-1"}),
        "input[0].content[0].file_id",
    ),
    Refusal(
        "files",
        _user({"type": "input_file", "file_url": "https://files.example/1"}),
        "input[0].content[0].file_url",
    ),
    Refusal(
        "files",
        _user({"type": "input_file", "file_data": "AAAA", "detail": "low"}),
        "input[0].content[0].detail",
    ),
    Refusal("files", _user({"type": "input_file"}), "input[0].content[0]", "invalid_request"),
    Refusal(
        "pictures",
        {"input": [{"role": "system", "content": [{"type": "input_image", "image_url": _PIXEL}]}]},
        "input[0].content[0]",
    ),
    Refusal(
        "text", _user({"type": "text", "text": "hi"}), "input[0].content[0].type", "invalid_request"
    ),
    Refusal("text", {"input": None}, "input", "invalid_request"),
    Refusal("text", {"input": {"role": "user"}}, "input", "invalid_request"),
    Refusal("text", {"input": ["hi"]}, "input[0]", "invalid_request"),
    Refusal("text", {"input": [{"content": "hi"}]}, "input[0].type", "invalid_request"),
    Refusal("text", {"input": [{"role": "tool"}]}, "input[0].role", "invalid_request"),
    Refusal("instructions", {"instructions": ["x"]}, "instructions", "invalid_request"),
    Refusal("text", {"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_request"),
    Refusal("reasoning", {"reasoning": {"context": "current_turn"}}, "reasoning.context"),
    Refusal("reasoning", {"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    Refusal("log probabilities", {"include": ["x"]}, "include[0]"),
    Refusal(
        "hints of caching",
        {"prompt_cache_options": {"prewarm": True}},
        "prompt_cache_options.prewarm",
    ),
    *(
        Refusal("fields of chat completions", {name: 1}, name)
        for name in ("messages", "max_tokens", "n", "response_format", "logprobs")
    ),
)


def _of(
    name: str, request: str, answer: str = "", stream: str | None = None, note: str = ""
) -> Feature:
    return Feature(name, "responses", request, answer, answer if stream is None else stream, note)


FEATURES: Final = [
    _of("text", "yes", "yes"),
    _of(
        "instructions",
        "yes",
        note="`instructions` and the `system` and `developer` messages at the beginning become one "
        "`system` message: many templates take no second, and none called `developer`",
    ),
    _of(
        "conversations",
        "yes",
        note="the client keeps them, and sends the items back; `id`, `status` and `phase` are left "
        "out",
    ),
    _of("pictures", "yes", note="as `image_url`, a `data:` URI too; `file_id` is refused"),
    _of("sound", "yes"),
    _of(
        "files",
        "yes",
        note="as `file_data`, or the provider's own `file_id`; `file_url` is refused",
    ),
    _of(
        "functions",
        "yes",
        "yes",
        note="`strict` as it is sent: where it is not, nothing is enforced",
    ),
    _of("calls and their results", "yes"),
    _of("several calls at once", "yes", "yes", note="two calls never share a `call_id`"),
    _of(
        "pictures among results",
        "yes",
        note="a `tool` message holds text alone: pictures and files follow in a `user` message, "
        "named in both",
    ),
    _of("the choice of a tool", "yes"),
    _of("allowed tools", "yes", note="only these are offered"),
    _of(
        "custom tools",
        "yes",
        "yes",
        note="as a function of one text; a grammar is told to the model and held by nobody. The "
        "input is streamed as a whole, at its end",
    ),
    _of("namespaces of tools", "yes", "yes", note="`search` in `docs` is `docs__search`"),
    _of(
        "hosted tools",
        "refused",
        note="web search, MCP by OpenAI, code interpreter …: OpenAI runs them",
    ),
    _of("items of hosted tools", "refused", note="and references to items, which nobody keeps"),
    _of("JSON by a schema", "yes", "", note="`text.format`; the answer is text"),
    _of("JSON of any kind", "yes"),
    _of("verbosity", "yes", note="for models that know it"),
    _of(
        "reasoning",
        "yes",
        "yes",
        note="`reasoning.effort`; back comes what the provider calls `reasoning_content` or "
        "`reasoning`",
    ),
    _of(
        "reasoning as a summary",
        "yes",
        "yes",
        note="with `reasoning.summary` it stands where the client expects a summary, uncut: "
        "nobody is asked to shorten it",
    ),
    _of(
        "reasoning sent back",
        "yes",
        "yes",
        note="`encrypted_content` is the same text, in base64, for clients that send nothing else "
        "back; another server's cannot be read, and `input_transformations` says so",
    ),
    _of("refusals", "yes", "yes", note="one that is sent back is what the assistant said"),
    _of("log probabilities", "yes", "yes"),
    _of("the longest answer", "yes", "yes", note="as `max_tokens`; `incomplete` is what was cut"),
    _of("what a filter holds back", "", "yes"),
    _of(
        "sampling",
        "yes",
        note="with it goes every field that OpenAI has not defined: `seed`, `stop`, `top_k` …",
    ),
    _of("usage", "", "yes", note="details that the provider does not tell are 0"),
    _of("service tiers", "yes", "yes"),
    _of("streams", "yes", "", "yes", "`include_obfuscation` is left out: events are not padded"),
    _of("hints of caching", "yes"),
    _of("marks of what to cache", "yes"),
    _of("whom it is for", "yes", note="`metadata` stands in the answer again, and is not sent"),
    _of("what keeps nothing", "left out", note="`store: false`, `truncation: disabled` …"),
    _of(
        "what keeps something",
        "refused",
        note="`previous_response_id`, `conversation`, `store: true`, `background`, `prompt`",
    ),
    _of("cutting and compacting", "refused", note="`truncation: auto`, `context_management`"),
    _of("moderation", "refused"),
    _of("access programs", "refused"),
    _of("fields of chat completions", "refused", note="`max_tokens` is `max_output_tokens` here"),
]
