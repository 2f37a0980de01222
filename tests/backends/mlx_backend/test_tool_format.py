import json
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="MLX has no wheels for this machine")

from jinja2 import Environment

from backends.mlx_backend.deltas import AnswerParser, CallArguments, CallBegun
from backends.mlx_backend.generation import Tool
from backends.mlx_backend.tool_format import as_openai, renders_tools, with_tools_in_text
from tests.harness.tiny_vision import _CHAT_TEMPLATE

WEATHER = Tool("weather", "Tells the weather – anywhere.", {"type": "object"})
TIME = Tool("time", "", {"type": "object"})
HELLO = {"role": "user", "content": "hello"}
Render = Callable[[list[dict[str, Any]], list[dict[str, Any]]], str]

# SmolLM2's: tools are dropped, and so are calls.
PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)
# Shows tools, and calls in a form of its own.
CODER = (
    "{{ tools | tojson }}<tool_call><function=name></function></tool_call>"
    "{% for message in messages %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n<function={{ call.function.name }}>\n"
    "{% for key, value in call.function.arguments.items() %}<parameter={{ key }}>{{ value }}"
    "</parameter>{% endfor %}</function></tool_call>{% endfor %}{% endfor %}"
)
HERMES = (
    "{{ tools | tojson }}{% for message in messages %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n"
    "</tool_call>{% endfor %}{% endfor %}"
)


def renders(template: str) -> Render:
    """Return the function that fills in a chat template."""
    compiled = Environment().from_string(template)  # noqa: S701  a prompt is no web page

    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        return str(compiled.render(messages=messages, tools=tools))

    return render


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (_CHAT_TEMPLATE, True),
        (HERMES, True),
        (PLAIN, False),
        (CODER, False),
        # The tools, the results, or the calls are dropped.
        (HERMES.replace("{{ tools | tojson }}", ""), False),
        (HERMES.replace("{{ message.content }}", ""), False),
        (HERMES.replace("{{ call.function | tojson }}", ""), False),
        (HERMES.replace("{{ call.function | tojson }}", "{{ call | tojson }}"), False),
        (HERMES.replace("message.content", "message.content if message.role == 'user'"), False),
        ("{{ messages[0].nothing.at_all }}", False),
        ("{{ raise_exception('not so') }}", False),
    ],
)
def test_which_templates_know_tools(template: str, expected: bool) -> None:
    """A template is trusted with tools where it shows all of a conversation in Hermes' format."""
    assert renders_tools(renders(template)) is expected


def test_tools_as_the_api_has_them() -> None:
    """A tool is spelled as in a request."""
    assert as_openai([WEATHER]) == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tells the weather – anywhere.",
                "parameters": {"type": "object"},
            },
        }
    ]


def test_tools_are_told_in_a_system_message() -> None:
    """Where there are no instructions the tools come first, one a line."""
    system, hello = with_tools_in_text([HELLO], [WEATHER, TIME])
    assert hello == HELLO
    assert system["role"] == "system"
    lines = system["content"].splitlines()
    at = lines.index("<tools>")
    assert [json.loads(line) for line in lines[at + 1 : at + 3]] == as_openai([WEATHER, TIME])
    assert lines[at + 3] == "</tools>"
    assert "–" in system["content"]
    assert "{{" not in system["content"]


def test_tools_follow_the_instructions() -> None:
    """There is one system message, and what the client wrote begins it."""
    messages = [{"role": "system", "content": "Be brief."}, HELLO]
    system, hello = with_tools_in_text(messages, [WEATHER])
    assert hello == HELLO
    assert system["content"].startswith("Be brief.\n\n")
    assert '"weather"' in system["content"]


def test_nothing_is_told_of_no_tools() -> None:
    """A conversation without tools and calls stays as it is, and is not touched either way."""
    messages = [{"role": "system", "content": "Be brief."}, HELLO]
    assert with_tools_in_text(messages, []) == messages


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a call as a conversation has it."""
    return {
        "id": "c",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def result(content: str) -> dict[str, Any]:
    """Return a result."""
    return {"role": "tool", "tool_call_id": "c", "name": "weather", "content": content}


def test_calls_and_results_are_text() -> None:
    """Calls are what the assistant said, results what the user said; the roles alternate."""
    calls = [call("weather", city="Köln"), call("time")]
    messages: list[dict[str, Any]] = [
        HELLO,
        {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
        result("rain"),
        result("noon"),
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "", "tool_calls": [call("time")]},
        result("one"),
    ]
    before = json.dumps(messages)
    assert with_tools_in_text(messages, []) == [
        HELLO,
        {
            "role": "assistant",
            "content": "Let me see.\n"
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        },
        {
            "role": "user",
            "content": "<tool_response>\nrain\n</tool_response>\n"
            "<tool_response>\nnoon\n</tool_response>\nAnd?",
        },
        {
            "role": "assistant",
            "content": '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>',
        },
        {"role": "user", "content": "<tool_response>\none\n</tool_response>"},
    ]
    assert json.dumps(messages) == before


def test_pictures_after_a_result() -> None:
    """A result and a picture that follows it are one turn, in which the picture keeps its place."""
    parts = [{"type": "image"}, {"type": "text", "text": "this"}]
    messages: list[Any] = [HELLO, result("rain"), {"role": "user", "content": parts}]
    (user,) = with_tools_in_text(messages, [])
    text = "hello\n<tool_response>\nrain\n</tool_response>"
    assert user == {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


def test_what_is_written_can_be_read() -> None:
    """The parser reads the calls that a conversation shows the model."""
    (assistant,) = with_tools_in_text(
        [{"role": "assistant", "content": "", "tool_calls": [call("weather", city='"Köln"')]}], []
    )
    parser = AnswerParser(tools=True, thinking=False, new_id=lambda: "id")
    begun, arguments = parser.push(assistant["content"]) + parser.finish()
    assert begun == CallBegun(0, "id", "weather")
    assert isinstance(arguments, CallArguments)
    assert json.loads(arguments.text) == {"city": '"Köln"'}
