"""Claude Code's requests, put as chat completions that any template takes."""

from router.dialects.messages import count, translate
from tests.harness.claude_code import request, title, tokens_of


def test_a_turn_is_a_chat_that_templates_take() -> None:
    """One system message, turns by turns, results after their calls, nothing that changes daily."""
    chat = translate(request(), request_id="r1", now=0).chat
    assert chat["messages"] == [
        {"role": "system", "content": "You are a coding agent.\n\n\nBe careful."},
        {
            "role": "user",
            "content": "<system-reminder>\nToday is.\n</system-reminder>\n\n\nWhat does the file "
            "say?\n\n<system-reminder>\nPlan mode is off.\n</system-reminder>",
        },
        {
            "role": "assistant",
            "content": "I'll read it.",
            "reasoning_content": "I have to read it.",
            "tool_calls": [
                {
                    "id": "toolu_01",
                    "type": "function",
                    "function": {"name": "Read", "arguments": '{"file_path":"/a/b"}'},
                },
                {
                    "id": "toolu_02",
                    "type": "function",
                    "function": {
                        "name": "Bash",
                        "arguments": '{"command":"ls","description":"List"}',
                    },
                },
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_01", "content": "     1\thello"},
        {
            "role": "tool",
            "tool_call_id": "toolu_02",
            "content": "Error: <tool_use_error>denied</tool_use_error>",
        },
    ]
    assert chat.keys() == {"messages", "tools", "max_tokens", "stream"}
    assert (chat["max_tokens"], chat["stream"], len(chat["tools"])) == (64000, True, 20)
    assert {*chat["tools"][0]["function"]} == {"name", "description", "parameters"}


def test_the_next_turn_begins_as_the_last_one() -> None:
    """What a server knows of a prompt is known again: only its end is new."""
    first = request()
    later = request()
    later["system"][0]["text"] = "x-anthropic-billing-header: cc_version=2.1.220.205; cch=1bbb1;"
    later["messages"] += [
        {"role": "assistant", "content": [{"type": "text", "text": "It says hello."}]},
        {"role": "user", "content": "Thanks."},
    ]
    before = translate(first, request_id="r1", now=0).chat["messages"]
    after = translate(later, request_id="r2", now=1).chat["messages"]
    assert after[: len(before)] == before


def test_a_title_is_a_schema_without_reasoning() -> None:
    """Asked beside the first turn, of a model that is to be quick."""
    made = translate(title(), request_id="r1", now=0)
    chat = made.chat
    assert chat["response_format"]["json_schema"]["schema"]["required"] == ["title"]
    assert made.hints["reasoning_effort"] == "none"
    assert "tools" not in chat


def test_a_tool_s_tokens_are_counted_with_it() -> None:
    """They are part of the prompt."""
    chat = count(tokens_of()).chat
    assert [each["function"]["name"] for each in chat["tools"]] == ["Bash"]
    assert chat["max_tokens"] == 1
