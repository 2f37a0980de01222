import itertools
import json
import time
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="MLX has no wheels for this machine")

from llguidance import LLMatcher, LLTokenizer

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Constraint, Tool
from backends.mlx_backend.grammar import (
    MAX_DEPTH,
    MAX_SCHEMA_BYTES,
    check,
    write_grammar,
)

Schema = dict[str, Any]


def tool(name: str = "get", **parameters: Any) -> Tool:
    return Tool(name, "", parameters)


def fits(constraint: Constraint, text: str, *, thinking: bool = False) -> str:
    """Return "whole" for an answer that may end here, "open" for one that must go on, or "no"."""
    bytes_ = LLTokenizer("byte")
    grammar = write_grammar(constraint, thinking=thinking)
    matcher = LLMatcher(bytes_, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    if matcher.try_consume_tokens(data) < len(data):
        return "no"
    return "whole" if matcher.is_accepting() else "open"


def nested(depth: int, wrap: Any, inner: Any) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def array(items: Any) -> Schema:
    return {"type": "array", "items": items}


# What an answer may be.


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "object"}, '{"a":1,"b":[true,null]}', "whole"),
        ({"type": "object"}, '{"a": 1}', "no"),
        ({"type": "object"}, '{"a":1 }', "no"),
        ({"type": "object"}, ' {"a":1}', "no"),
        ({"type": "object"}, "[1]", "no"),
        (True, "[1]", "whole"),
        (True, '"text"', "whole"),
        ({}, "[1]", "whole"),
        ({"type": "string"}, r'"\"\\\n\u0000é😀"', "whole"),
        ({"type": "string"}, '"\n"', "no"),
        ({"x-guidance": {"whitespace_flexible": True}, "type": "object"}, '{"a": 1}', "no"),
    ],
)
def test_json(schema: Any, text: str, expected: str) -> None:
    """An answer of a schema is JSON without a single optional space, and nothing around it."""
    check(Constraint(schema=schema))
    assert fits(Constraint(schema=schema), text) == expected


ONE = '<tool_call>\n{"name": "get", "arguments": {"n": 1}}\n</tool_call>'
PAIR = (
    tool(type="object", properties={"n": {"type": "integer"}}, required=["n"]),
    tool("get_it", type="object", properties={"n": {"type": "null"}}, additionalProperties=False),
)


@pytest.mark.parametrize(
    ("text", "auto", "forced", "single"),
    [
        ("", "whole", "open", "open"),
        ("Hello", "whole", "no", "no"),
        ("a < b <tool", "whole", "no", "no"),
        ("<tool_call", "whole", "open", "open"),
        ("<tool_call>", "open", "open", "open"),
        (ONE, "whole", "whole", "whole"),
        (f"Let me see.\n{ONE}", "whole", "no", "no"),
        (f"{ONE}\n{ONE}", "whole", "whole", "no"),
        (f"{ONE}\n{ONE}\n{ONE}", "whole", "whole", "no"),
        (f"{ONE}{ONE}", "no", "no", "no"),
        (f"{ONE}\n", "open", "open", "no"),
        (f"{ONE} Done.", "no", "no", "no"),
        (ONE.replace('{"n": 1}', '{"n":1}'), "whole", "whole", "whole"),
        (ONE.replace('{"n": 1}', '{"n":  1}'), "no", "no", "no"),
        (ONE.replace("1", '1, "m": 2,"o": 3'), "whole", "whole", "whole"),
        (ONE.replace("1", '1,  "m": 2'), "no", "no", "no"),
        (ONE.replace('{"n": 1}', "{}"), "no", "no", "no"),
        (ONE.replace('{"n": 1}', '{"n": null}'), "no", "no", "no"),
        (ONE.replace("get", "get_it"), "no", "no", "no"),
        (ONE.replace("get", "get_it").replace("1", "null"), "whole", "whole", "whole"),
        (ONE.replace("get", "got"), "no", "no", "no"),
        ('<tool_call>\n{"name": "get"}', "no", "no", "no"),
    ],
)
def test_calls(text: str, auto: str, forced: str, single: str) -> None:
    """A call is of a tool that is there, with its arguments; only another call may follow one."""
    constraints = [
        Constraint(tools=PAIR),
        Constraint(tools=PAIR, forced=True),
        Constraint(tools=PAIR, forced=True, parallel=False),
    ]
    for constraint, expected in zip(constraints, (auto, forced, single), strict=True):
        check(constraint)
        assert fits(constraint, text) == expected


def test_free_text_may_hold_one_call_where_they_are_not_parallel() -> None:
    """Without parallel calls a second one may not begin."""
    constraint = Constraint(tools=PAIR, parallel=False)
    assert fits(constraint, f"Well. {ONE}") == "whole"
    assert fits(constraint, f"{ONE}\n") == "no"


def test_with_a_schema_an_answer_fits_it_or_is_calls() -> None:
    """Free text is neither, and calls do not mix with the document."""
    constraint = Constraint(schema={"type": "integer"}, tools=PAIR)
    check(constraint)
    for text, expected in ((ONE, "whole"), (f"{ONE}\n{ONE}", "whole"), ("12", "whole")):
        assert fits(constraint, text) == expected
    for text in ("Well.", f"12{ONE}", f"{ONE}12", f"Well. {ONE}"):
        assert fits(constraint, text) == "no"


@pytest.mark.parametrize("name", ["é😀", 'a"b', "a\\nb", "x/y#z", "a" * 64])
def test_names_are_spelled_as_json(name: str) -> None:
    """Whatever a tool is called, its call is JSON that says so."""
    call = json.dumps({"name": name, "arguments": {}}, ensure_ascii=False)
    text = f"<tool_call>\n{call}\n</tool_call>"
    assert fits(Constraint(tools=(tool(name),), forced=True), text) == "whole"


def test_arguments_are_an_object() -> None:
    """A tool that does not say so takes an object all the same, and its references are its own."""
    reference = Tool("get", "", {"$ref": "#/$defs/A", "$defs": {"A": {"required": ["x"]}}})
    text = '<tool_call>\n{"name": "get", "arguments": %s}\n</tool_call>'
    for parameters, arguments, expected in [
        (tool(), "{}", "whole"),
        (tool(), '{"any": [1, 2]}', "whole"),
        (tool(), "5", "no"),
        (reference, "{}", "no"),
        (reference, '{"x": 1}', "whole"),
    ]:
        constraint = Constraint(tools=(parameters,), forced=True)
        check(constraint)
        assert fits(constraint, text % arguments) == expected


@pytest.mark.parametrize(
    ("constraint", "answer"),
    [
        (Constraint(schema={"type": "integer"}), "1"),
        (Constraint(schema={"type": "integer"}, tools=PAIR), "1"),
        (Constraint(schema={"type": "integer"}, tools=PAIR), ONE),
        (Constraint(tools=PAIR, forced=True), ONE),
        (Constraint(tools=PAIR), "Hello"),
        (Constraint(tools=PAIR), ONE),
    ],
)
def test_reasoning_goes_on_until_its_end(constraint: Constraint, answer: str) -> None:
    """A prompt that ends in reasoning leaves it free; after it the constraint is in force."""
    assert fits(constraint, "1 <b> é <tool_call> </thin", thinking=True) == "open"
    assert fits(constraint, f"Hm. <tool_call></think>{answer}", thinking=True) == "whole"
    assert fits(constraint, f"Hm.\n</think>\n\n{answer}", thinking=True) == "whole"
    assert fits(constraint, f"</think>{answer}", thinking=True) == "whole"


def test_no_endless_line_breaks_after_reasoning() -> None:
    """A weak model cannot fill an answer up with what stands between reasoning and answer."""
    assert fits(Constraint(schema=True), "x</think>\n\n\n", thinking=True) == "no"


# What is refused.


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (False, "no answer fits"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, '"not"'),
        ({"if": {}, "then": {}, "else": {}}, '"if"'),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"propertyNames": {"pattern": "a"}}, "propertyNames"),
        ({"contains": {}}, "contains"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"type": "string", "format": "binary"}, "Unknown format: binary"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "("}, "unclosed"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        ({"type": "word"}, "Invalid type: word"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "object", "required": ["a"], "properties": {"a": False}}, "'a'"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "oneOf"),
        ({"$ref": "https://example.com/schema"}, "$defs"),
        ({"properties": {"a": array({"$ref": "other.json"})}}, "$defs"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"x-guidance": {"lenient": True}, "not": {}}, '"not"'),
    ],
)
def test_refusals(schema: Any, reason: str) -> None:
    """What cannot be enforced as it stands is refused by name, for an answer as for arguments."""
    with pytest.raises(ChatError) as caught:
        check(Constraint(schema=schema))
    assert reason in caught.value.message
    assert (caught.value.code, caught.value.param) == ("invalid_request", "response_format")
    assert len(caught.value.message) < 500
    if schema is not False:
        definitions = {"$defs": schema.get("$defs", {})}
        bad = tool("b", properties={"x": schema}, required=["x"], **definitions)
        second = replace(bad, index=1)
        for tools in ((tool(), second), (second,)):
            with pytest.raises(ChatError) as caught:
                check(Constraint(tools=tools, forced=True))
            assert caught.value.param == "tools[1].function.parameters"


def test_a_schema_that_is_only_itself() -> None:
    """A reference that leads back to itself describes nothing."""
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    for schema in ({"$ref": "#"}, circle):
        with pytest.raises(ChatError, match="leads back"):
            check(Constraint(schema=schema))


def test_a_schema_whose_answers_have_no_end() -> None:
    """One that forces text on and on is refused; a long text that ends is not."""
    endless: list[Schema] = [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    ]
    for schema in endless:
        with pytest.raises(ChatError, match="endless"):
            check(Constraint(schema=schema))
    check(Constraint(schema={"const": "x" * 20_000}))


def test_arguments_of_another_type_are_refused() -> None:
    """Arguments are an object; a tool that says otherwise is told so."""
    for type_ in ("string", ["object", "null"]):
        with pytest.raises(ChatError, match="object") as caught:
            check(Constraint(tools=(tool(type=type_),)))
        assert caught.value.param == "tools[0].function.parameters"


_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HOSTILE: dict[str, Any] = {
    "huge": {"enum": ["x" * MAX_SCHEMA_BYTES]},
    "deep": nested(MAX_DEPTH, array, {}),
    "very deep": nested(100_000, lambda inner: [inner], 1),
    "exponential": {
        "allOf": [
            {"anyOf": [{"required": [f"k{i}-{j}"], "type": "object"} for j in range(4)]}
            for i in range(12)
        ]
    },
    "patterns": {"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in _LETTERS]},
    "nested patterns": nested(
        13, lambda inner: {"pattern": ".*a.*", "anyOf": [inner]}, {"type": "string"}
    ),
    "referred patterns": {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"pattern": "a", "$ref": f"#/$defs/d{i + 1}"} for i in range(13)},
    },
    "pattern properties": {"patternProperties": {f"^x{i}[a-z]*$": {} for i in range(300)}},
    "multiples": {"type": "integer", "multipleOf": 999_983},
    "many multiples": {"anyOf": [{"type": "integer", "multipleOf": 9_000 + i} for i in range(9)]},
    "common multiple": {"allOf": [{"type": "integer", "multipleOf": n} for n in (997, 991)]},
    "parentheses": {"type": "string", "pattern": "(" * 2000 + ")" * 2000},
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_schemas(name: str) -> None:
    """What would hold a thread for long is refused within a second of computing."""
    begun = time.thread_time()
    with pytest.raises(ChatError) as caught:
        check(Constraint(schema=_HOSTILE[name]))
    assert time.thread_time() - begun < 0.7
    assert len(caught.value.message) < 500
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}},
        {"enum": [f"word{i}" for i in range(3000)]},
        nested(MAX_DEPTH - 2, array, {"type": "null"}),
        {"allOf": [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "^b"}]},
        {"anyOf": [{"pattern": f"^{a}{b}$"} for a, b in itertools.product("abcd", "abcd")]},
        {"type": "string", "pattern": "^" + "(" * 6 + "a" + "{10})" * 6 + "{10}$"},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "number", "multipleOf": 0.01},
        {"anyOf": [{"type": "integer", "multipleOf": n} for n in (1000000, 99, 98, 97)]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "integer", "title": "x", "deprecated": True, "examples": [1], "$comment": ""},
        {"anyOf": [{"pattern": "^a$"}] * 20, "title": "Choice", "default": None},
    ],
)
def test_large_and_harmless(schema: Schema) -> None:
    """The limits leave room for what people write, and for odd things that cost little."""
    begun = time.thread_time()
    check(Constraint(schema=schema))
    assert time.thread_time() - begun < 0.7


def test_too_many_tools() -> None:
    """Tools that are harmless one by one may be too much together."""
    one = {"properties": {"a": {"enum": ["x" * 60_000]}}}
    check(Constraint(tools=(tool("a", **one), tool("b", **one))))
    with pytest.raises(ChatError, match="256 KiB") as caught:
        check(Constraint(tools=tuple(tool(f"t{i}", **one) for i in range(5))))
    assert caught.value.param == "tools"
