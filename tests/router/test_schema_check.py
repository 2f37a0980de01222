"""What is valid under a schema, and how much work it is at the most to find out."""

import socket
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.schema_check import MAX_STEPS, CannotTell, faults_of

NODE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}},
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"type": "object"}, {}, []),
        ({"type": "object"}, [], ['$: the value is not of type "object"']),
        (
            {"type": "object", "required": ["a", "b"], "properties": {"c": {"type": "number"}}},
            {"c": "secret"},
            ['"a" is a required', '"b" is a required', "$['c']: the value is not of type"],
        ),
        ({"items": {"enum": [1, 2]}}, [1, 7], ["$[1]: the value is not one of 1 or 2"]),
        (NODE, {"name": 1, "left": {"name": 2, "right": {}}}, ["$['left']['right']: \"name\""]),
        ({"pattern": "^a{3}$"}, "aab", ["does not match"]),
        ({"$defs": {"a/b~": {"type": "null"}}, "$ref": "#/$defs/a~1b~0"}, 1, ["null"]),
        ({"allOf": [{"type": "null"}], "$ref": "#/allOf/0"}, None, []),
        ({"$id": "urn:a", "type": "null"}, None, []),
        ({"uniqueItems": True}, [1, 1], ["non-unique"]),
        ({"format": "date"}, "never", []),
        (False, 1, ["False schema"]),
        (True, 1, []),
        ({"items": {"type": "null"}}, [1] * 9, ["null"] * 5),
        # As many as there are, and larger than any machine's integer.
        ({"type": "integer"}, 10**30, []),
    ],
)
def test_what_is_wrong_is_told(schema: Any, value: Any, words: list[str]) -> None:
    """Where it is and what was due, without repeating it, five at most."""
    faults = faults_of(schema, value)
    assert len(faults) == len(words)
    for fault, word in zip(sorted(faults), sorted(words), strict=True):
        assert any(word in each for each in faults), faults
        assert "secret" not in fault


def doubling(levels: int) -> dict[str, Any]:
    """Return a schema that looks at a value two to the power of `levels` times."""
    defs: dict[str, Any] = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$defs": {**defs, f"a{levels}": {"type": "object"}}, "$ref": "#/$defs/a0"}


TWICE = {
    "anyOf": [
        {"properties": {"a": {"$ref": "#"}, "b": False}},
        {"properties": {"a": {"$ref": "#"}, "c": False}},
    ]
}


def nested(levels: int) -> Any:
    """Return objects in one another."""
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"type": "nonsense"}, 1, "not valid"),
        ("no schema", 1, "no schema"),
        (7, 1, "no schema"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, 1, "another document"),
        ({"$ref": "file:///etc/passwd"}, 1, "another document"),
        ({"$ref": "other.json#/a"}, 1, "another document"),
        ({"$ref": "#anchor"}, 1, "another document"),
        ({"$schema": "http://127.0.0.1:9/x.json"}, 1, "meta-schema"),
        ({"properties": {"a": {"$id": "http://h/", "$ref": "#/b"}}}, {"a": 1}, "another document"),
        ({"$ref": "#/$defs/no"}, 1, "not there"),
        ({"allOf": [{}], "$ref": "#/allOf/1"}, 1, "not there"),
        ({"$ref": "#"}, 1, "itself"),
        ({"allOf": [{"not": {"$ref": "#"}}]}, 1, "itself"),
        ({"$dynamicRef": "#a"}, 1, "counted"),
        ({"pattern": "(?=a)a"}, "a", "regex"),
        ({"pattern": "(x{1000}){1000}"}, "a", "regex"),
        ({"anyOf": [{"pattern": f"a{n}"} for n in range(33)]}, "a", "patterns"),
        ({"patternProperties": {f"a{n}": {} for n in range(33)}}, {}, "patterns"),
        (doubling(60), {}, "too long"),
        (TWICE, nested(50), "too long"),
        ({"unevaluatedProperties": {"$ref": "#"}}, nested(40), "too long"),
        ({"pattern": "a"}, "b" * (MAX_STEPS + 1), "too long"),
    ],
)
def test_what_cannot_be_told_is_said_at_once(schema: Any, value: Any, why: str) -> None:
    """Nothing is fetched, nothing takes longer than a moment."""
    began = time.perf_counter()
    with pytest.raises(CannotTell, match=why):
        faults_of(schema, value)
    assert time.perf_counter() - began < 2


def test_nothing_is_fetched() -> None:
    """Not even for a part of the schema that the value has nothing to do with."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.json"
        with pytest.raises(CannotTell, match="disabled"):
            faults_of({"properties": {"a": {"$ref": address}}}, {})
        with pytest.raises(TimeoutError):
            server.accept()


def test_of_very_many_faults_the_first_is_told() -> None:
    """Telling all of them takes a hundred times as long as finding one."""
    schema = {"items": {"anyOf": [{"type": "null"}] * 50}}
    assert len(faults_of(schema, [0] * 100)) == 5
    assert len(faults_of(schema, [0] * 1000)) == 1


def test_no_stack_is_too_deep() -> None:
    """Neither Python's nor the validator's, which would end the process."""
    deep: Any = {"type": "object"}
    for _ in range(50_000):
        deep = {"not": deep}
    with pytest.raises(CannotTell):
        faults_of(deep, {})
    while deep := deep.get("not"):
        pass


def test_what_people_ask_for_is_not_too_long() -> None:
    """A union that refers to itself, as deep as expressions are, and a table of a thousand rows."""
    assert faults_of(TWICE, nested(10)) == []
    row = {
        "type": "object",
        "properties": {
            f"p{n}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for n in range(9)
        },
        "additionalProperties": False,
    }
    rows = [{f"p{n}": None for n in range(9)} for _ in range(1000)]
    assert faults_of({"type": "array", "items": row}, rows) == []


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)
_SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries({"type": st.sampled_from(("object", "string", "array", "null"))})
    | st.fixed_dictionaries({"$ref": st.sampled_from(("#", "#/properties/a", "#/nowhere"))}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner),
            "patternProperties": st.dictionaries(st.sampled_from(("a", "^b")), inner),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "propertyNames": inner,
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "dependentSchemas": st.dictionaries(st.sampled_from("abc"), inner),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "enum": st.lists(_VALUES, min_size=1, max_size=2, unique_by=repr),
            "required": st.just(["a"]),
            "uniqueItems": st.booleans(),
        },
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(_SCHEMAS, _VALUES)
def test_where_it_tells_it_tells_what_the_validator_does(schema: Any, value: Any) -> None:
    """Whatever the schema, it tells or says that it cannot."""
    try:
        faults = faults_of(schema, value)
    except CannotTell:
        return
    assert (not faults) is jsonschema_rs.is_valid(schema, value, offline=True)
