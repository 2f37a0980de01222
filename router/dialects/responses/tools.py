"""Tools: as chat completions offer them, and who is meant when one of them is called.

A chat completion knows functions alone. A custom tool, whose input is free text, becomes a function
of one text; a namespace gives its functions a longer name. `Tools` knows the way back.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from router.dialects.checks import clipped, list_at, malformed, object_at, text_at, unless_null
from router.dialects.responses.refusal import unsupported
from router.errors import Refused

_INPUT: Final = "input"
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}
_MODES: Final = frozenset({"none", "auto", "required"})
_CALLABLE: Final = frozenset({"function", "custom"})
# Where a program offers a hosted tool unasked, and how it is told not to.
_SETTINGS: Final = {"web_search": ' (Codex does with web_search = "disabled" in its config.toml)'}


class Tool(NamedTuple):
    """A tool as the client knows it."""

    kind: str
    name: str
    namespace: str = ""


class Tools:
    """The tools that a request offers. `offered` is what a chat completion says of them."""

    def __init__(self, tools: Any) -> None:
        """Read `tools`; Refused for what is malformed, or run by OpenAI and nobody else."""
        self._tools: dict[str, Tool] = {}
        # The names in a chat completion, by those in the request, without the namespace too.
        self._known: dict[tuple[str, str | None], str] = {}
        self.offered: list[dict[str, Any]] = [
            self._offer(tool, namespace, where)
            for tool, namespace, where in _each(list_at(unless_null(tools, []), "tools"))
        ]

    def __repr__(self) -> str:
        return f"<Tools {sorted(self._tools)}>"

    def called(self, name: str) -> Tool:
        """Return who is meant by a name that a model called; one that nobody has is a function."""
        return self._tools.get(name) or Tool("function", name)

    def choose(self, choice: Any) -> Any:
        """Return the `tool_choice` of a chat completion, which may narrow what is offered."""
        if isinstance(choice, str):
            if choice not in _MODES:
                raise malformed("tool_choice", "none, auto, required or an object")
            return choice
        chosen = object_at(choice, "tool_choice")
        if chosen.get("type") != "allowed_tools":
            return {"type": "function", "function": {"name": self._named(chosen, "tool_choice")}}
        allowed = {
            self._named(object_at(each, f"tool_choice.tools[{number}]"), "tool_choice.tools")
            for number, each in enumerate(list_at(chosen.get("tools"), "tool_choice.tools"))
        }
        self.offered = [tool for tool in self.offered if tool["function"]["name"] in allowed]
        if chosen.get("mode") not in ("auto", "required"):
            raise malformed("tool_choice.mode", "auto or required")
        return chosen["mode"]

    def _named(self, chosen: Mapping[str, Any], where: str) -> str:
        """Return the name by which a chat completion knows a tool that was chosen."""
        kind = text_at(chosen.get("type"), f"{where}.type")
        if kind not in _CALLABLE:
            raise _hosted(kind, where)
        name = text_at(chosen.get("name"), f"{where}.name")
        space = chosen.get("namespace")
        known = self._known.get((name, None if space is None else text_at(space, where)))
        if known is None:
            raise malformed(
                where, f"the choice of a tool that is among tools; {clipped(name)!r} is not"
            )
        return known

    def _offer(
        self, tool: Mapping[str, Any], namespace: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        kind = text_at(tool.get("type"), f"{where}.type")
        if kind not in _CALLABLE:
            raise _hosted(kind, where)
        _check_callers(tool, where)
        mine = Tool(kind, text_at(tool.get("name"), f"{where}.name"), namespace.get("name", ""))
        name = name_of(mine.name, mine.namespace)
        if name in self._tools:
            raise malformed(
                f"{where}.name", f"the only one of its name; {clipped(name)!r} is there already"
            )
        self._tools[name] = mine
        for space in (mine.namespace, None):
            self._known.setdefault((mine.name, space), name)
        said = _function(tool) if kind == "function" else _custom(tool)
        about = (namespace.get("description"), tool.get("description"))
        described = "\n\n".join(each for each in about if isinstance(each, str) and each)
        function = {"name": name, **({"description": described} if described else {}), **said}
        return {"type": "function", "function": function}


def name_of(name: str, namespace: str) -> str:
    """Return the name that a chat completion has for a tool in a namespace, "" for none."""
    return name if not namespace else f"{namespace.rstrip('_')}__{name}"


def arguments_of_custom(text: str) -> dict[str, str]:
    """Return the arguments of the function that a custom tool has become."""
    return {_INPUT: text}


def input_of_custom(arguments: Any, spelled: str) -> str:
    """Return what a custom tool is given; what is spelled otherwise is handed on as it is."""
    found = arguments.get(_INPUT) if isinstance(arguments, dict) and len(arguments) == 1 else None
    return found if isinstance(found, str) else spelled


def _each(tools: list[Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """Yield each tool with the namespace that it is in, {} for none, and its place."""
    for number, given in enumerate(tools):
        where = f"tools[{number}]"
        tool = object_at(given, where)
        if tool.get("type") != "namespace":
            yield tool, {}, where
            continue
        text_at(tool.get("name"), f"{where}.name")
        for inner, each in enumerate(list_at(tool.get("tools"), f"{where}.tools")):
            place = f"{where}.tools[{inner}]"
            yield object_at(each, place), tool, place


def _check_callers(tool: Mapping[str, Any], where: str) -> None:
    """Refuse what a tool may be allowed besides being called by the model."""
    if tool.get("defer_loading"):
        raise unsupported(
            f"{where}.defer_loading", "it cannot search for tools. Leave defer_loading out."
        )
    if tool.get("async"):
        raise unsupported(f"{where}.async", "a call there ends the answer. Leave async out.")
    callers = list_at(tool.get("allowed_callers") or ["direct"], f"{where}.allowed_callers")
    if "direct" not in callers:
        raise unsupported(
            f"{where}.allowed_callers",
            "it runs no programs that call tools. Allow direct calls.",
        )


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    strict = {} if tool.get("strict") is None else {"strict": tool["strict"]}
    return {"parameters": tool.get("parameters") or _NO_ARGUMENTS, **strict}


def _custom(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Say a custom tool as a function; a grammar is told to the model, and held by nobody."""
    wanted: dict[str, Any] = {"type": "string", "description": "What the tool is given, as text."}
    form = tool.get("format") or {}
    if isinstance(form, dict) and form.get("type") == "grammar":
        wanted["description"] = (
            f"What the tool is given: text of this {form.get('syntax')} grammar.\n\n"
            f"{form.get('definition')}"
        )
    return {
        "parameters": {
            "type": "object",
            "properties": {_INPUT: wanted},
            "required": [_INPUT],
            "additionalProperties": False,
        },
    }


def _hosted(kind: str, where: str) -> Refused:
    shown = clipped(kind)
    return unsupported(
        where,
        f"tools of type {shown} are run by OpenAI, not by the model. Leave {shown} out of tools"
        f"{_SETTINGS.get(kind, '')}, or offer a function of yours that does it.",
    )
