"""What an answer must be: tools, the choice among them, and response formats, as a Constraint."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from backends.mlx_backend.conversation import WIRE
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint, Tool

MAX_TOOLS = 128
_NAME = r"^[A-Za-z0-9_-]{1,64}$"


class FunctionBody(BaseModel):
    """A function that may be called; whether it is `strict` is not asked, it always is."""

    model_config = WIRE
    name: str = Field(pattern=_NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(BaseModel):
    """A tool of the kind that is known here."""

    model_config = WIRE
    type: Literal["function"]
    function: FunctionBody


class SchemaBody(BaseModel):
    """A JSON Schema with its name; enforced whether it is `strict` or not."""

    model_config = WIRE
    name: str | None = Field(None, pattern=_NAME)
    document: dict[str, Any] | bool = Field(alias="schema")


class TextFormat(BaseModel):
    """Any text."""

    model_config = WIRE


class ObjectFormat(BaseModel):
    """Any JSON object."""

    model_config = WIRE


class SchemaFormat(BaseModel):
    """What fits a JSON Schema."""

    model_config = WIRE
    json_schema: SchemaBody


class OtherFormat(BaseModel):
    """A format that is not known here."""

    model_config = WIRE
    type: Literal["text", "json_object", "json_schema"]


def _format_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    # A list, not a set: what was sent need not be hashable.
    return f"({kind})" if kind in ["text", "json_object", "json_schema"] else "(other)"


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("(text)")]
    | Annotated[ObjectFormat, Tag("(json_object)")]
    | Annotated[SchemaFormat, Tag("(json_schema)")]
    | Annotated[OtherFormat, Tag("(other)")],
    Discriminator(_format_tag),
]


class NamedFunction(BaseModel):
    """The name of a function that must be called."""

    model_config = WIRE
    name: str


class NamedChoice(BaseModel):
    """One function that must be called."""

    model_config = WIRE
    type: Literal["function"]
    function: NamedFunction


def _choice_tag(value: Any) -> str:
    return "(named)" if isinstance(value, dict) else "(mode)"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("(mode)")]
    | Annotated[NamedChoice, Tag("(named)")],
    Discriminator(_choice_tag),
]


def read_tools(bodies: Sequence[ToolBody]) -> tuple[Tool, ...]:
    """Return the tools; ChatError for a name that occurs twice, and parameters that are no object.

    A function without parameters takes none.
    """
    tools: dict[str, Tool] = {}
    for index, body in enumerate(bodies):
        function = body.function
        where = f"tools[{index}].function"
        if function.name in tools:
            text = f"{where}.name: there are two functions named {function.name!r}"
            raise ChatError("invalid_request", text, f"{where}.name")
        parameters = _parameters(function.parameters, f"{where}.parameters")
        tools[function.name] = Tool(function.name, function.description or "", parameters, index)
    return tuple(tools.values())


def _parameters(schema: dict[str, Any] | None, param: str) -> dict[str, Any]:
    if schema is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if schema.get("type", "object") != "object":
        text = f"{param}: the arguments of a function are an object; its schema must say so"
        raise ChatError("invalid_request", text, param)
    return {"type": "object", **schema}


def read_constraint(
    tools: tuple[Tool, ...],
    choice: Literal["none", "auto", "required"] | NamedChoice | None,
    response_format: TextFormat | ObjectFormat | SchemaFormat | OtherFormat | None,
    *,
    parallel: bool,
) -> Constraint | None:
    """Return what the answer must be, None for any text.

    A call that must be made leaves no room for a response format, which is about the text.
    ChatError for a choice that cannot be met.
    """
    schema = _schema(response_format)
    if isinstance(choice, NamedChoice):
        return Constraint(tools=(_named(tools, choice),), forced=True, parallel=False)
    if choice == "required":
        if not tools:
            text = "tool_choice: a call is required, but tools are missing"
            raise ChatError("invalid_request", text, "tool_choice")
        return Constraint(tools=tools, forced=True, parallel=parallel)
    if choice == "none" or not tools:
        return None if schema is None else Constraint(schema=schema)
    return Constraint(schema=schema, tools=tools, parallel=parallel)


def _named(tools: tuple[Tool, ...], choice: NamedChoice) -> Tool:
    name = choice.function.name
    for tool in tools:
        if tool.name == name:
            return tool
    text = f"tool_choice: there is no function {name!r} among the tools"
    raise ChatError("invalid_request", text, "tool_choice.function.name")


def _schema(
    response_format: TextFormat | ObjectFormat | SchemaFormat | OtherFormat | None,
) -> dict[str, Any] | bool | None:
    match response_format:
        case ObjectFormat():
            return {"type": "object"}
        case SchemaFormat(json_schema=body):
            return body.document
        case _:
            return None
