from typing import Any

import pytest

from backends.mlx_backend.generation import Constraint, Tool
from tests.backends.mlx_backend.requests import PARAMETERS, body, chat, named, refuses, tool

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
WEATHER, TIME = Tool("weather", "d", PARAMETERS), Tool("time", "", NOTHING)
TOOLS = [tool(), {"type": "function", "function": {"name": "time"}}]
OBJECT = {"type": "json_object"}


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    """Return a response format with a JSON Schema."""
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **fields}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, Constraint(tools=(WEATHER, TIME))),
        ({"tool_choice": "auto"}, Constraint(tools=(WEATHER, TIME))),
        ({"parallel_tool_calls": False}, Constraint(tools=(WEATHER, TIME), parallel=False)),
        ({"parallel_tool_calls": True}, Constraint(tools=(WEATHER, TIME))),
        ({"tool_choice": "required"}, Constraint(tools=(WEATHER, TIME), forced=True)),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            Constraint(tools=(WEATHER, TIME), forced=True, parallel=False),
        ),
        ({"tool_choice": named("time")}, Constraint(tools=(TIME,), forced=True, parallel=False)),
        (
            {"tool_choice": "required", "response_format": schema_format(SCHEMA)},
            Constraint(tools=(WEATHER, TIME), forced=True),
        ),
        (
            {"tool_choice": named("time"), "response_format": OBJECT},
            Constraint(tools=(TIME,), forced=True, parallel=False),
        ),
        ({"response_format": {"type": "text"}}, Constraint(tools=(WEATHER, TIME))),
    ],
)
def test_a_choice_among_tools(fields: dict[str, Any], constraint: Constraint) -> None:
    """What may or must be called, and how often; all tools are shown to the model."""
    request = chat(tools=TOOLS, **fields)
    assert request.constraint == constraint
    assert request.tools == (WEATHER, TIME)
    assert request.named is isinstance(fields.get("tool_choice"), dict)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({}, None),
        ({"response_format": OBJECT}, Constraint(schema={"type": "object"})),
        ({"response_format": schema_format(SCHEMA)}, Constraint(schema=SCHEMA)),
    ],
)
def test_no_tool_may_be_called(fields: dict[str, Any], constraint: Constraint | None) -> None:
    """A model that must not call is not shown what it could call."""
    request = chat(tools=TOOLS, tool_choice="none", **fields)
    assert request.constraint == constraint
    assert request.tools == ()


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        (OBJECT, {"type": "object"}),
        (schema_format(SCHEMA), SCHEMA),
        (schema_format(SCHEMA, strict=False, description="d"), SCHEMA),
        (schema_format({}), {}),
        (schema_format(True), True),
        (schema_format(False), False),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, SCHEMA),
    ],
)
def test_a_response_format(response_format: dict[str, Any], schema: Any) -> None:
    """A format is enforced, strict or not."""
    assert chat(response_format=response_format).constraint == Constraint(schema=schema)


def test_a_format_beside_tools_that_may_be_called() -> None:
    """The answer is either in the format or calls."""
    request = chat(tools=TOOLS, response_format=OBJECT)
    assert request.constraint == Constraint(schema={"type": "object"}, tools=request.tools)
    assert request.tools


@pytest.mark.parametrize("response_format", [None, {"type": "text"}])
def test_any_text(response_format: dict[str, Any] | None) -> None:
    """Text asks for nothing."""
    assert chat(response_format=response_format).constraint is None


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (None, NOTHING),
        ({}, {"type": "object"}),
        ({"properties": {}}, {"type": "object", "properties": {}}),
        (SCHEMA, SCHEMA),
    ],
)
def test_parameters(parameters: Any, expected: dict[str, Any]) -> None:
    """The arguments are always an object; a function without parameters takes none."""
    assert chat(tools=[tool(parameters=parameters)]).tools[0].parameters == expected


FUNCTION = "tools[0].function"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "function"}]}, "invalid_request", FUNCTION),
        ({"tools": [{"function": {"name": "f"}}]}, "invalid_request", "tools[0].type"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "invalid_request", "tools[0].type"),
        ({"tools": [tool("")]}, "invalid_request", f"{FUNCTION}.name"),
        ({"tools": [tool("a b")]}, "invalid_request", f"{FUNCTION}.name"),
        ({"tools": [tool("a\n")]}, "invalid_request", f"{FUNCTION}.name"),
        ({"tools": [tool("x" * 65)]}, "invalid_request", f"{FUNCTION}.name"),
        ({"tools": [tool(), tool()]}, "invalid_request", "tools[1].function.name"),
        ({"tools": [tool(description=5)]}, "invalid_request", f"{FUNCTION}.description"),
        ({"tools": [tool(parameters="x")]}, "invalid_request", f"{FUNCTION}.parameters"),
        (
            {"tools": [tool(parameters={"type": "string"})]},
            "invalid_request",
            f"{FUNCTION}.parameters",
        ),
        (
            {"tools": [tool(parameters={"type": ["object", "null"]})]},
            "invalid_request",
            f"{FUNCTION}.parameters",
        ),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "invalid_request", "tools"),
        ({"tool_choice": "required"}, "invalid_request", "tool_choice"),
        ({"tool_choice": "sometimes"}, "invalid_request", "tool_choice"),
        ({"tool_choice": 1}, "invalid_request", "tool_choice"),
        ({"tool_choice": {}}, "invalid_request", "tool_choice.type"),
        (
            {"tools": [tool()], "tool_choice": {"type": "allowed_tools"}},
            "invalid_request",
            "tool_choice.type",
        ),
        (
            {"tools": [tool()], "tool_choice": {"type": "function", "name": "weather"}},
            "invalid_request",
            "tool_choice.function",
        ),
        (
            {"tools": [tool()], "tool_choice": named("nothing")},
            "invalid_request",
            "tool_choice.function.name",
        ),
        ({"tool_choice": named("weather")}, "invalid_request", "tool_choice.function.name"),
        ({"parallel_tool_calls": "no"}, "invalid_request", "parallel_tool_calls"),
        ({"response_format": "json"}, "invalid_request", "response_format"),
        ({"response_format": {}}, "invalid_request", "response_format.type"),
        ({"response_format": {"type": "xml"}}, "invalid_request", "response_format.type"),
        (
            {"response_format": {"type": "json_schema"}},
            "invalid_request",
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "invalid_request",
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": schema_format(None)},
            "invalid_request",
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": schema_format({}, name="a b")},
            "invalid_request",
            "response_format.json_schema.name",
        ),
    ],
)
def test_what_is_refused(fields: dict[str, Any], code: str, param: str) -> None:
    """A structure that cannot be met is refused by the place that is wrong."""
    refuses(body(**fields), code, param)


def test_an_unknown_function_is_named() -> None:
    """The refusal says which function is missing."""
    raw = body(tools=[tool()], tool_choice=named("nothing"))
    assert "'nothing'" in refuses(raw, "invalid_request", "tool_choice.function.name")


def test_a_name_of_64_characters() -> None:
    """The longest name that the API has is taken, and the largest number of tools."""
    assert chat(tools=[tool("x" * 64)]).tools[0].name == "x" * 64
    assert len(chat(tools=[tool(f"f{n}") for n in range(128)]).tools) == 128


def test_a_tool_knows_its_place() -> None:
    """A refusal names the tool as it stands in the request, also where only it may be called."""
    request = chat(tools=[tool("first"), tool("second")], tool_choice=named("second"))
    assert request.constraint is not None
    assert [each.index for each in request.constraint.tools] == [1]
