"""What an answer may be, written as a grammar of llguidance, and whether it can be written at all.

Nothing here knows a model or touches MLX: `check` refuses at the door what no model could answer.
The grammars are in llguidance's dialect of Lark: a rule's name is small, a terminal's is in
capitals, `<[7]>` is the token 7, and a lazy rule ends as soon as it can.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from backends.mlx_backend.deltas import CALL, END_CALL, END_THINK
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint, Tool

MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_TOOLS_BYTES: Final = 256 * 1024
# llguidance walks schemas recursively, on the stack of the thread that calls it.
MAX_DEPTH: Final = 64
# What its own limits do not bound, found by trying: see `_check_cost`.
_MAX_MERGED_PATTERNS: Final = 12
_MAX_PATTERN_PROPERTIES: Final = 32
_MAX_REMAINDERS: Final = 20_000
# How deep an answer may have to nest before there is a choice. llguidance forces text until it is
# at its own limits, which would be the end of the answer.
_MAX_FORCED: Final = 4 * MAX_DEPTH

LIMITS: Final = LLParserLimits(
    # What one repetition of a repetition may cost a thread: 0.3 s instead of 1.3 s.
    initial_lexer_fuel=300_000,
    # About 1 KB each, and every row has its own.
    max_lexer_states=50_000,
    # An object of a thousand optional properties needs five thousand.
    max_items_in_row=20_000,
    # An error would else hold the whole grammar and the answer so far.
    verbose_errors=False,
)

# No optional white space: a weak model fills its answer up with it.
_COMPACT: Final = {"whitespace_flexible": False}
# Calls are learned with the spaces of Python's `json.dumps`; one may stand where those would.
_SPACED: Final = {**_COMPACT, "item_separator": ", ?", "key_separator": ": ?"}
_REASON_CHARS: Final = 300
_BRANCHES: Final = {"anyOf", "oneOf", "$ref"}
# What may stand beside those without anything having to be merged.
_INERT: Final = {"type", "title", "description", "default", "examples", "$defs", "definitions"}

Schema = Mapping[str, Any] | bool


@dataclass(frozen=True, slots=True)
class Markers:
    """How a vocabulary marks calls and reasoning.

    Each is a token's id, or None where the marker is spelled as text. `special` are all tokens
    that stand for no text, but for those that end an answer.
    """

    call: int | None = None
    call_end: int | None = None
    thought: int | None = None
    thought_end: int | None = None
    special: frozenset[int] = frozenset()


# No marker is a token.
SPELLED: Final = Markers()


def check(constraint: Constraint) -> None:
    """Refuse a constraint that cannot be enforced as it stands; callable on any thread.

    ChatError `invalid_request` for a schema that is too big, too deep or too costly, that points
    outside itself, that nothing fits, or that says what llguidance cannot enforce.
    """
    if constraint.schema is not None:
        _check_schema(constraint.schema, "response_format")
    for tool in constraint.tools:
        param = f"tools[{tool.index}].function.parameters"
        if tool.parameters.get("type", "object") != "object":
            text = f'{param}: the type of what describes arguments is "object"'
            raise ChatError("invalid_request", text, param)
        _check_schema(_arguments(tool), param)
    if len(constraint.tools) + (constraint.schema is not None) > 1:
        whole = write_grammar(constraint)
        if len(whole) > MAX_TOOLS_BYTES:
            text = f"tools: together they may have {MAX_TOOLS_BYTES // 1024} KiB; offer fewer"
            raise ChatError("invalid_request", text, "tools")
        _compile(whole, "tools", "together they cannot be enforced")


def _check_schema(schema: Schema, param: str) -> None:
    if schema is False:
        text = f"{param}: the schema is false, which no answer fits"
        raise ChatError("invalid_request", text, param)
    _check_shape(schema, param)
    text = json.dumps({"grammars": [{"json_schema": _with_options(schema, _COMPACT)}]})
    if len(text) > MAX_SCHEMA_BYTES:
        reason = f"{param}: a schema may have {MAX_SCHEMA_BYTES // 1024} KiB"
        raise ChatError("invalid_request", reason, param)
    _check_cost(schema, param)
    _compile(text, param, "the schema cannot be enforced")


def _compile(grammar: str, param: str, complaint: str) -> None:
    """Compile a grammar for bytes instead of tokens, up to what an answer may begin with."""
    matcher = LLMatcher(_bytes(), grammar, limits=LIMITS, log_level=0)
    matcher.compute_bitmask()
    if matcher.is_error():
        reason = explain(matcher)
        raise ChatError("invalid_request", f"{param}: {complaint}: {reason}", param)
    forced = bytes(matcher.compute_ff_bytes())
    if sum(map(forced.count, (b"{", b"["))) - sum(map(forced.count, (b"}", b"]"))) > _MAX_FORCED:
        reason = "its answers are endless, for instance because a $ref leads back to itself"
        raise ChatError("invalid_request", f"{param}: {complaint}: {reason}", param)


def explain(matcher: LLMatcher) -> str:
    """Return why a matcher failed, in llguidance's words where they are for people."""
    reason = str(matcher.get_error()).removesuffix("<non-verbose/>").strip()
    if reason.startswith("NoExtension"):
        return "nothing fits it, for instance because a $ref leads back to itself"
    return reason.removeprefix("failed to compile JSON schema: ")[:_REASON_CHARS]


@functools.cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")


def _check_shape(schema: Schema, param: str) -> None:
    """Refuse what is nested too deep, before anything walks it recursively, and what is remote."""
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        for value in level:
            target = value.get("$ref") if isinstance(value, Mapping) else None
            if isinstance(target, str) and not target.startswith("#"):
                text = f"{param}: $ref {target[:80]!r} points elsewhere; put it into $defs"
                raise ChatError("invalid_request", text, param)
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    text = f"{param}: a schema may be nested {MAX_DEPTH} deep"
    raise ChatError("invalid_request", text, param)


def _check_cost(schema: Schema, param: str) -> None:
    """Refuse the three things that llguidance works on for seconds in spite of its limits.

    Telling whether merged patterns have anything in common takes 2.5 times as long for each more
    of them, 1.5 s for 16; comparing the keys of `patternProperties` pairwise 10 s for 300;
    `multipleOf` needs a state for each remainder, 10 µs each.
    """
    nodes = [node for node in _walk(schema) if isinstance(node, Mapping)]
    merged = any(_merges(node) for node in nodes)
    keys = [len(each) for each in _values(nodes, "patternProperties", Mapping)]
    patterns = len(_values(nodes, "pattern", str)) + sum(keys)
    multiples = {_significant(each) for each in _values(nodes, "multipleOf", int | float)}
    if merged and patterns > _MAX_MERGED_PATTERNS:
        text = f"a schema that combines others may have {_MAX_MERGED_PATTERNS} patterns"
    elif max(keys, default=0) > _MAX_PATTERN_PROPERTIES:
        text = f"patternProperties may have {_MAX_PATTERN_PROPERTIES} keys"
    elif (math.prod(multiples) if merged else sum(multiples)) > _MAX_REMAINDERS:
        text = (
            f"the values of multipleOf are too large; leave out what goes beyond {_MAX_REMAINDERS}"
        )
    else:
        return
    raise ChatError("invalid_request", f"{param}: {text}", param)


def _merges(node: Mapping[str, Any]) -> bool:
    """Tell whether a schema must be met together with another."""
    if "allOf" in node:
        return True
    return bool(node.keys() & _BRANCHES) and len(node.keys() - _INERT) > 1


def _values(nodes: Iterable[Mapping[str, Any]], key: str, kind: Any) -> list[Any]:
    return [value for node in nodes if isinstance(value := node.get(key), kind)]


def _significant(multiple: float) -> int:
    """Return the digits of a number without its point, its sign and the zeros around them."""
    digits = Decimal(str(multiple)).normalize().as_tuple().digits
    return int("".join(map(str, digits)))


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _walk(value: Any) -> Iterator[Any]:
    yield value
    for child in _children(value):
        yield from _walk(child)


def _with_options(schema: Schema, options: Mapping[str, Any]) -> dict[str, Any]:
    # Last, so that a schema cannot bring options of its own.
    return {**(schema if isinstance(schema, Mapping) else {}), "x-guidance": options}


def _arguments(tool: Tool) -> dict[str, Any]:
    """Return the schema of a call's arguments: an object, also where it does not say so."""
    return {"type": "object", **tool.parameters}


def write_grammar(
    constraint: Constraint, markers: Markers = SPELLED, *, thinking: bool = False
) -> str:
    """Return the grammar of an answer for a vocabulary that has these markers.

    `thinking`: the prompt ends inside the model's reasoning, which the answer goes on with.
    """
    free = constraint.schema is None and not constraint.forced
    if thinking:
        # Models are taught an empty line between reasoning and answer; free text has room for it.
        lead = "thought " if free else "thought /\\n{1,2}/? "
    elif free and markers.thought is not None:
        lead = f"(<[{markers.thought}]> thought)? "
    else:
        lead = ""
    rules = ["%llguidance {}", f"start: {lead}answer"]
    if lead:
        rules += _thought(markers)
    if constraint.schema is not None:
        name = "document" if constraint.tools else "answer"
        rules.append(f"{name}: %json {json.dumps(_with_options(constraint.schema, _COMPACT))}")
    if constraint.schema is None or constraint.tools:
        rules += _calls(constraint, markers)
    return "\n".join([*rules, ""])


def _calls(constraint: Constraint, markers: Markers) -> Iterator[str]:
    """Write Hermes' and Qwen's way of calling tools; nothing but a call may follow a call."""
    names = [f"tool_{index}" for index in range(len(constraint.tools))]
    for name, tool in zip(names, constraint.tools, strict=True):
        head = json.dumps(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ')
        schema = json.dumps(_with_options(_arguments(tool), _SPACED))
        yield f'{name}: {head} %json {schema} "}}"'
    yield f'call: "\\n" ({" | ".join(names)}) "\\n" {_marker(END_CALL, markers.call_end)}'
    opening = _marker(CALL, markers.call)
    more = f' ("\\n" {opening} call)*' if constraint.parallel else ""
    if constraint.schema is not None:
        yield f"answer: document | {opening} call{more}"
        return
    if constraint.forced:
        yield f"answer: {opening} call{more}"
        return
    yield f"TEXT: {_without(CALL)}"
    if markers.call is None:
        yield f"answer: TEXT? | opened call{more}"
        yield f"opened{_lazily(CALL)}"
    else:
        text = _free("TEXT", markers.special - {markers.call, markers.thought})
        yield f"answer: {text} ({opening} call{more})?"


def _marker(text: str, token: int | None) -> str:
    return json.dumps(text) if token is None else f"<[{token}]>"


def _thought(markers: Markers) -> Iterator[str]:
    """Write reasoning: anything at all, up to and including its end."""
    end = markers.thought_end
    if end is None:
        yield f"thought{_lazily(END_THINK)}"
    else:
        yield f"thought: {_free('THOUGHT', markers.special - {end})} <[{end}]>"
        yield f"THOUGHT: {_without(END_THINK)}"


def _lazily(marker: str) -> str:
    return f"[lazy]: /(?s:.*){_regex(marker)}/"


def _free(terminal: str, special: Iterable[int]) -> str:
    """Return an expression for text that may hold tokens which are none.

    Two terminals never follow each other: what one may not hold could be spelled across them.
    """
    ids = ",".join(map(str, sorted(special)))
    return f"{terminal}? (<[{ids}]> {terminal}?)*" if ids else f"{terminal}?"


def _without(marker: str) -> str:
    """Return an expression for text without a marker, so that whoever reads it may look for it."""
    return f"/(?s:.+)/ & ~/(?s:.*){_regex(marker)}(?s:.*)/"


def _regex(marker: str) -> str:
    return marker.replace("/", r"\/")
