"""What OpenAI's Codex sends, as its version 0.169 was heard to, in shorter words."""

from typing import Any

import pytest

from router.dialects.responses import translate
from router.errors import Refused

_PERMISSION = {"type": "string", "enum": ["use_default", "require_escalated"]}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "exec_command",
        "description": "Runs a command in a PTY.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {"cmd": {"type": "string"}, "sandbox_permissions": _PERMISSION},
            "required": ["cmd"],
            "additionalProperties": False,
        },
    },
    {
        "type": "namespace",
        "name": "multi_agent_v1",
        "description": "Tools for spawning and managing sub-agents.",
        "tools": [
            {
                "type": "function",
                "name": "spawn_agent",
                "description": "Spawn a sub-agent.",
                "strict": False,
                "parameters": {"type": "object", "properties": {"message": {"type": "string"}}},
            }
        ],
    },
]
SECOND_TURN: dict[str, Any] = {
    "model": "auto",
    "instructions": "",
    "stream": True,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a2",
    "client_metadata": {"x-codex-installation-id": "e4b7", "session_id": "01a2"},
    "tools": TOOLS,
    "input": [
        {
            "type": "message",
            "id": "msg_6c",
            "role": "developer",
            "content": [{"type": "input_text", "text": "You are a coding agent."}],
        },
        {
            "type": "message",
            "id": "msg_01",
            "role": "developer",
            "content": [{"type": "input_text", "text": "<skills_instructions>"}],
        },
        {
            "type": "message",
            "id": "msg_02",
            "role": "user",
            "content": [{"type": "input_text", "text": "<environment_context>"}],
        },
        {
            "type": "message",
            "id": "msg_03",
            "role": "user",
            "content": [{"type": "input_text", "text": "say hello"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1_0",
            "summary": [{"type": "summary_text", "text": "I list."}],
            "content": None,
            "encrypted_content": "signalbox.SSBsaXN0Lg==",
        },
        {
            "type": "message",
            "status": "completed",
            "id": "msg_1_1",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "I will look.", "annotations": [], "logprobs": []}
            ],
        },
        {
            "type": "function_call",
            "status": "completed",
            "id": "fc_1_2",
            "name": "exec_command",
            "arguments": '{"cmd": "echo hello"}',
            "call_id": "c1",
        },
        {"type": "function_call_output", "id": "fco_4", "call_id": "c1", "output": "hello\n"},
    ],
}


def test_a_second_turn_is_a_chat() -> None:
    """Nothing that it needs is lost, and nothing that it says of its user goes on."""
    chat = translate(SECOND_TURN, request_id="r", now=1).chat
    assert chat["messages"] == [
        {"role": "system", "content": "You are a coding agent.\n\n<skills_instructions>"},
        {"role": "user", "content": "<environment_context>"},
        {"role": "user", "content": "say hello"},
        {
            "role": "assistant",
            "content": "I will look.",
            "reasoning_content": "I list.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "exec_command", "arguments": '{"cmd": "echo hello"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "hello\n"},
    ]
    names = [tool["function"]["name"] for tool in chat["tools"]]
    assert names == ["exec_command", "multi_agent_v1__spawn_agent"]
    assert chat.keys() == {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "prompt_cache_key")
    }


def test_web_search_is_refused_with_its_setting() -> None:
    """Codex offers it unasked; its user has to know how to take it away."""
    search = {"type": "web_search", "external_web_access": True}
    with pytest.raises(Refused, match='web_search = "disabled"') as refused:
        translate({**SECOND_TURN, "tools": [*TOOLS, search]}, request_id="r", now=1)
    assert refused.value.param == "tools[2]"
