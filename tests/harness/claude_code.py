"""What Claude Code sends, in the shape that public captures of 2026 show; the words are our own.

Headers and fields are those of versions 2.1.69 to 2.1.220 behind a base URL of one's own.
"""

from typing import Any, Final

_EPHEMERAL: Final = {"type": "ephemeral"}
_AN_HOUR: Final = {"type": "ephemeral", "ttl": "1h"}

HEADERS: Final = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,"
    "context-management-2025-06-27,prompt-caching-scope-2026-01-05,"
    "mid-conversation-system-2026-04-07,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "authorization": "Bearer any",
    "user-agent": "claude-cli/2.1.220 (external, cli)",
    "x-app": "cli",
    "x-claude-code-session-id": "4f3c2a10-0000-4000-8000-000000000000",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
TARGET: Final = "/v1/messages?beta=true"
COUNT_TARGET: Final = "/v1/messages/count_tokens?beta=true"
_NAMES: Final = (
    *("Agent", "AskUserQuestion", "Bash", "Edit", "EnterPlanMode", "ExitPlanMode", "Glob", "Grep"),
    *("NotebookEdit", "Read", "Skill", "TaskCreate", "TaskGet", "TaskList", "TaskUpdate"),
    *("WebFetch", "WebSearch", "Write", "mcp__docs__search", "mcp__docs__read"),
)


def tool(name: str) -> dict[str, Any]:
    """Return one of its tools: all of them are the client's own, with a schema."""
    return {
        "name": name,
        "description": f"{name} does what it is called.\n\nUsage:\n- Carefully.",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"file_path": {"type": "string"}, "limit": {"type": "number"}},
            "required": ["file_path"],
            "additionalProperties": False,
        },
        "eager_input_streaming": True,
    }


def request(model: str = "auto", **fields: Any) -> dict[str, Any]:
    """Return the request of a turn in the midst of a session: a call, its result, and a picture."""
    return {
        "model": model,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>\nToday is.\n</system-reminder>\n"},
                    {"type": "text", "text": "What does the file say?"},
                ],
            },
            {"role": "system", "content": "Plan mode is off."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I have to read it.", "signature": "r0"},
                    {"type": "text", "text": "I'll read it."},
                    {
                        "type": "tool_use",
                        "id": "toolu_01",
                        "name": "Read",
                        "input": {"file_path": "/a/b"},
                        "caller": {"type": "direct"},
                    },
                    {
                        "type": "tool_use",
                        "id": "toolu_02",
                        "name": "Bash",
                        "input": {"command": "ls", "description": "List"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_01",
                        "content": "     1\thello",
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_02",
                        "content": "<tool_use_error>denied</tool_use_error>",
                        "is_error": True,
                        "cache_control": _EPHEMERAL,
                    },
                ],
            },
        ],
        "system": [
            {
                "type": "text",
                "text": "x-anthropic-billing-header: cc_version=2.1.220.205; cc_entrypoint=cli; "
                "cch=0aaa9;",
            },
            {"type": "text", "text": "You are a coding agent.", "cache_control": _AN_HOUR},
            {"type": "text", "text": "\nBe careful.", "cache_control": _AN_HOUR},
        ],
        "tools": [tool(name) for name in _NAMES],
        "metadata": {"user_id": '{"device_id":"b4","account_uuid":"","session_id":"4f3c"}'},
        "max_tokens": 64000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
        **fields,
    }


def title(model: str = "auto") -> dict[str, Any]:
    """Return the request for a session's title, which it makes beside the first turn."""
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    return {
        "model": model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}],
        "system": [{"type": "text", "text": "Generate a title."}],
        "tools": [],
        "metadata": {"user_id": "user_b4_account__session_4f3c"},
        "max_tokens": 32000,
        "thinking": {"type": "disabled"},
        "temperature": 1,
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "stream": True,
    }


def tokens_of(name: str = "Bash", model: str = "auto") -> dict[str, Any]:
    """Return the question how many tokens a tool takes."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "foo"}],
        "tools": [tool(name)],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
