"""Whether a value is valid under a JSON Schema, in bounded time and without asking anybody.

The validator neither stops nor lets other threads run before it is done, and a schema of 25 lines
can keep it busy for hours. So the work is counted first, at its most: each subschema for each value
that it may look at. Loaded when first used: `jsonschema_rs` takes 0.1 s and 9 MB.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import jsonschema_rs

# Some ten milliseconds; 20 fields of 1,000 rows are a tenth of it.
MAX_STEPS: Final = 250_000
# Telling all faults takes far longer than finding one: where there may be many, the first is told.
_FEW_STEPS: Final = 20_000
_MAX_FAULTS: Final = 5
# What a pattern becomes, in bytes; its time grows with it, and with the text's length alone.
_PATTERN: Final = jsonschema_rs.RegexOptions(size_limit=1 << 20)
_MAX_PATTERNS: Final = 32

# Keywords that look at the same value again, by what they hold.
_ONE: Final = ("not", "if", "then", "else")
_MANY: Final = ("allOf", "anyOf", "oneOf")
_NAMED: Final = ("dependentSchemas", "dependencies")
# Those that look at each of its members.
_OF_VALUES: Final = ("additionalProperties", "unevaluatedProperties")
_OF_ITEMS: Final = ("additionalItems", "contains", "unevaluatedItems", "items")
_AGAIN: Final = ("unevaluatedProperties", "unevaluatedItems")
# References whose target the count would have to search for.
_UNCOUNTED: Final = ("$dynamicRef", "$recursiveRef")


class CannotTell(Exception):
    """Whether the value is valid cannot be told: what the schema is, or the work, says the text."""


def faults_of(schema: Any, value: Any) -> list[str]:
    """Return what is wrong with a value, a line each, five at most; none where it is valid.

    Raises CannotTell for what is no schema, refers to other documents, or takes too long.
    """
    if not isinstance(schema, dict | bool):
        raise CannotTell("it is no schema")
    try:
        steps = _Count(schema).steps(value)
        if steps > MAX_STEPS:
            raise CannotTell("it would take too long")
        validator = jsonschema_rs.validator_for(
            schema, offline=True, pattern_options=_PATTERN, mask="the value"
        )
        if validator.is_valid(value):
            return []
        if steps > _FEW_STEPS:
            return [_first(validator, value)]
        return [_told(error) for error in islice(validator.iter_errors(value), _MAX_FAULTS)]
    # Its ValidationError and ReferencingError, of a schema that is none, among them.
    except (ValueError, jsonschema_rs.ReferencingError, RecursionError) as error:
        raise CannotTell(str(error).partition("\n")[0]) from None


def _first(validator: jsonschema_rs.Validator, value: Any) -> str:
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return _told(error)
    raise CannotTell("it is valid and it is not")


def _told(error: jsonschema_rs.ValidationError) -> str:
    place = "".join(["$", *(f"[{part!r}]" for part in error.instance_path)])
    return f"{place}: {error.message}"


class _Count:
    """How many steps a schema takes with a value, at most. Nothing is decided by the value's type.

    A subschema for a value is counted once and remembered, so that the count of what doubles with
    each level takes no longer than one level.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[int, int], int] = {}
        self._under_way: set[tuple[int, int]] = set()
        self._patterns = _patterns_in(root)

    def steps(self, value: Any) -> int:
        """Return the steps of the whole; CannotTell where they cannot be counted."""
        if self._patterns > _MAX_PATTERNS:
            raise CannotTell("it has too many patterns")
        return self._of(self._root, value)

    def _of(self, schema: Any, value: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        key = (id(schema), id(value))
        if key in self._known:
            return self._known[key]
        if key in self._under_way:
            raise CannotTell("it refers to itself")
        if len(self._known) > MAX_STEPS or any(word in schema for word in _UNCOUNTED):
            raise CannotTell("it cannot be counted")
        if schema is not self._root and "$id" in schema:
            raise CannotTell("it holds another document")
        self._under_way.add(key)
        steps = 1 + len(schema) + _own(schema, value)
        steps += sum(self._of(each, value) for each in self._same(schema))
        steps += sum(self._of(each, member) for each, member in _members(schema, value))
        if any(word in schema for word in _AGAIN):
            steps *= 2
        self._under_way.discard(key)
        self._known[key] = steps
        return steps

    def _same(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the subschemas that look at the same value."""
        for word in _ONE:
            if word in schema:
                yield schema[word]
        for word in _MANY:
            if isinstance(each := schema.get(word), list):
                yield from each
        for word in _NAMED:
            if isinstance(named := schema.get(word), dict):
                yield from named.values()
        if isinstance(reference := schema.get("$ref"), str):
            yield self._target(reference)

    def _target(self, reference: str) -> Any:
        """Return what a reference within the document points at (RFC 6901)."""
        if reference != "#" and not reference.startswith("#/"):
            raise CannotTell("it refers to another document")
        found = self._root
        for part in reference.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                raise CannotTell(f"{reference[:80]} is not there")
        return found


def _own(schema: Mapping[str, Any], value: Any) -> int:
    """Return what a value costs by its size: a text that is matched, a list that is compared."""
    steps = 0
    if isinstance(value, str) and ("pattern" in schema or "format" in schema):
        steps += len(value)
    if isinstance(value, dict) and isinstance(named := schema.get("patternProperties"), dict):
        steps += len(named) * sum(map(len, value))
    if isinstance(value, list) and schema.get("uniqueItems"):
        steps += len(value)
    if isinstance(choices := schema.get("enum"), list):
        steps += len(choices)
    return steps


def _members(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the subschemas that look at a member of the value, with that."""
    if isinstance(value, dict):
        for name, member in value.items():
            for each in _of_property(schema, name):
                yield each, member
            if "propertyNames" in schema:
                yield schema["propertyNames"], name
    elif isinstance(value, list):
        for word in ("items", "prefixItems"):
            if isinstance(row := schema.get(word), list):
                yield from zip(row, value, strict=False)
        for each in [schema[word] for word in _OF_ITEMS if word in schema]:
            for member in value:
                yield each, member


def _of_property(schema: Mapping[str, Any], name: str) -> Iterator[Any]:
    """Yield the subschemas that look at the value of a property."""
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    if isinstance(properties, dict) and name in properties:
        yield properties[name]
    for word in _OF_VALUES:
        if word in schema:
            yield schema[word]
    if isinstance(patterns, dict):
        yield from patterns.values()


def _patterns_in(schema: Any) -> int:
    """Return how many patterns there are anywhere in a document."""
    found, rest = 0, [schema]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            named = each.get("patternProperties")
            found += ("pattern" in each) + (len(named) if isinstance(named, dict) else 0)
            rest.extend(each.values())
        elif isinstance(each, list):
            rest.extend(each)
    return found
