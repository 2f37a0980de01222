"""What is changed in a chat request for servers that would not do what it asks: one table.

Each shim has a name, is set by a provider's `shims`, acts only where a request has what it changes,
and is told in `x-signalbox-shims`. It looks at top-level fields and changes whole ones; the others
stay the bytes that the client sent.
"""

import json
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

_SCHEMAS: Final = frozenset({"json_schema", "json_object"})
_ANY_OBJECT: Final = {"type": "object"}


class Shim(StrEnum):
    """The names, in the order in which they act: what has moved a schema leaves none behind."""

    TOOLS_WITH_SCHEMA = "tools_with_schema"
    JSON_OBJECT = "json_object"
    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"


class Change(msgspec.Struct, frozen=True):
    """Top-level fields as they are to be, those that are left out, and the shims that want it."""

    fields: Mapping[str, Any]
    without: frozenset[str] = frozenset()
    shims: tuple[Shim, ...] = ()


def change_of(fields: Mapping[str, Any], shims: Collection[Shim]) -> Change | None:
    """Return what these shims change in a chat request; None where none of them acts."""
    now, changed, acted = dict(fields), set[str](), []
    for shim in Shim:
        change = _SHIMS[shim](now) if shim in shims else None
        if change is None:
            continue
        now.update(change.fields)
        for name in change.without:
            del now[name]
        changed |= change.fields.keys() | change.without
        acted.append(shim)
    if not acted:
        return None
    kept = {name: now[name] for name in changed if name in now}
    return Change(kept, frozenset(changed - kept.keys()), tuple(acted))


def _json_object(fields: Mapping[str, Any]) -> Change | None:
    """Ask for any object by a schema.

    LM Studio (0.3.5 to 0.4.19 at least) answers 400 `'response_format.type' must be 'json_schema'
    or 'text'`: https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/189
    """
    if _format_of(fields) != "json_object":
        return None
    schema = {"name": "object", "schema": _ANY_OBJECT}
    return Change({"response_format": {"type": "json_schema", "json_schema": schema}})


def _tools_with_schema(fields: Mapping[str, Any]) -> Change | None:
    """Tell the schema in words where tools are offered too.

    Ollama (0.17.4, measured: the same conversation calls a tool without a schema, and with one
    never) holds the answer to the schema from its first token on, which no call can begin with:
    https://github.com/ollama/ollama/issues/8095, https://github.com/ollama/ollama/issues/11037.
    It does so only after their thoughts with models that think, as long as they do.
    """
    messages = fields.get("messages")
    if (
        _format_of(fields) not in _SCHEMAS
        or not fields.get("tools")
        or fields.get("tool_choice") == "none"
        or not isinstance(messages, list)
    ):
        return None
    return Change({"messages": _told(messages, _in_words(fields))}, frozenset({"response_format"}))


def _max_tokens(fields: Mapping[str, Any]) -> Change | None:
    """Say the limit by its old name.

    Ollama (0.17.4, measured) does not know the new one, and its models then run on without a limit.
    """
    return _renamed(fields, "max_completion_tokens", "max_tokens")


def _max_completion_tokens(fields: Mapping[str, Any]) -> Change | None:
    """Say the limit by its new name.

    OpenAI's models that reason (o1 and later, GPT-5) answer 400 `unsupported_parameter` to the old
    one: https://platform.openai.com/docs/api-reference/chat/create
    """
    return _renamed(fields, "max_tokens", "max_completion_tokens")


_SHIMS: Final[Mapping[Shim, Callable[[Mapping[str, Any]], Change | None]]] = {
    Shim.TOOLS_WITH_SCHEMA: _tools_with_schema,
    Shim.JSON_OBJECT: _json_object,
    Shim.MAX_TOKENS: _max_tokens,
    Shim.MAX_COMPLETION_TOKENS: _max_completion_tokens,
}


def _format_of(fields: Mapping[str, Any]) -> object:
    wanted = fields.get("response_format")
    return wanted.get("type") if isinstance(wanted, dict) else None


def _in_words(fields: Mapping[str, Any]) -> str:
    """Return what a `response_format` asks for as a sentence to the model."""
    wanted = fields["response_format"].get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    rule = "Call a tool where one is needed. Any other answer is JSON, with no other text around it"
    if not isinstance(schema, dict):
        return f"{rule}: one object."
    return f"{rule}, and valid under this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"


def _told(messages: list[Any], text: str) -> list[Any]:
    """Return a conversation whose system text ends with this one: many templates take one alone."""
    first = messages[0] if messages else None
    if isinstance(first, dict) and first.get("role") == "system":
        content = first.get("content")
        if isinstance(content, str):
            return [{**first, "content": f"{content}\n\n{text}"}, *messages[1:]]
        if isinstance(content, list):
            parts = [*content, {"type": "text", "text": text}]
            return [{**first, "content": parts}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _renamed(fields: Mapping[str, Any], name: str, to: str) -> Change | None:
    """Give a limit another name; where both are said the lower one holds."""
    limit, other = fields.get(name), fields.get(to)
    if limit is None:
        return None
    if type(limit) is int and type(other) is int:
        limit = min(limit, other)
    elif other is not None:
        # One of them is no limit: that is for the provider to say.
        return None
    return Change({to: limit}, frozenset({name}))
