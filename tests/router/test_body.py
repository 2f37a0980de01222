"""The strict decoding of a request's body, and its way out."""

import contextlib
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body import BodyLimits, Buffered, decode
from router.classification.nesting import Place
from router.errors import Refused

LIMITS = BodyLimits(size=1 << 20, depth=64, values=10_000)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a":1} x', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        ('{"a":1}'.encode("utf-16"), "invalid_json"),
        (b'{"a":"\xff"}', "invalid_json"),
        (b'{"a":"\\ud800"}', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":Infinity}', "invalid_json"),
        (b'{"a":1e999}', "invalid_json"),
        (b'{"a":' + b"9" * 5000 + b"}", "invalid_json"),
        (b'{"n":{"a":"\xff"}}', "invalid_json"),
        (b"[]", "invalid_request"),
        (b"null", "invalid_request"),
        (b'"text"', "invalid_request"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "json_too_deep"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "json_too_deep"),
        (b"[" * 9000, "json_too_deep"),
        (b'{"a":[' + b"1," * 10_000 + b"1]}", "too_many_values"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(data: bytes, code: str) -> None:
    """Each kind of malformed or excessive body has its code."""
    with pytest.raises(Refused) as refusal:
        decode(data, LIMITS)
    assert (refusal.value.code, refusal.value.status) == (code, 400)


_MARKS = 1_000_000


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":["' + b"A" * 4_000_000 + b'"]}',
        b'{"a":[' + b"{}," * 330_000 + b"1]}",
        b'{"a":[' + b"[]," * 490_000 + b"1]}",
        b'{"a":[' + b",".join(b'{"k%x":1.5}' % n for n in range(330_000)) + b"]}",
        b'{"a":{' + b",".join(b'"k%x":1.5' % n for n in range(990_000)) + b"}}",
        b"{" + b",".join(b'"%x":1' % n for n in range(990_000)) + b"}",
        b'{"a":[' + b",".join(b'"%x"' % n for n in range(990_000)) + b"]}",
        b'{"a":["' + "\U0001f600".encode() + b"A" * 4_000_000 + b'"]}',
    ],
    ids=["base64", "objects", "lists", "fields", "keys", "top", "strings", "emoji"],
)
def test_no_shape_of_a_body_takes_much_more_than_the_body(data: bytes) -> None:
    """With what comes in and goes out, decoding takes at most four times the body and 100 MB."""
    limits = BodyLimits(size=len(data), depth=64, values=_MARKS)
    tracemalloc.start()
    with contextlib.suppress(Refused):
        decode(data, limits).encode({"model": "m"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) + peak <= 4 * len(data) + 100_000_000


def test_a_picture_takes_at_most_four_times_its_bytes() -> None:
    """Body, decoded body and the body that goes out, of nothing but base64."""
    data = b'{"messages":[{"content":[{"image_url":"' + b"A" * 8_000_000 + b'"}]}]}'
    tracemalloc.start()
    decode(data, BodyLimits(len(data), 64, _MARKS)).encode({"model": "m"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) + peak <= 4 * len(data)


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (b'{"a":[' + b"1," * 996 + b"1]}", True),
        (b'{"a":[' + b"1," * 998 + b"1]}", False),
        (b'{"a":[' + b"{}," * 332 + b"1]}", True),
        (b'{"a":[' + b"{}," * 333 + b"1]}", False),
    ],
)
def test_values_are_counted_exactly(data: bytes, fits: bool) -> None:
    """A body with as many values as the limit says passes, one with more does not."""
    limits = BodyLimits(size=10_000, depth=64, values=1000)
    if fits:
        decode(data, limits)
    else:
        with pytest.raises(Refused):
            decode(data, limits)


def test_requests_share_what_may_be_held_together() -> None:
    """What does not fit is refused, and what was held is given back on leaving."""
    buffered = Buffered(10)
    with buffered.share() as first, buffered.share() as second:
        first.add(6)
        with pytest.raises(Refused) as refusal:
            second.add(5)
        assert (refusal.value.code, refusal.value.status) == ("queue_full", 429)
        assert (b"retry-after", b"1") in refusal.value.headers()
        second.add(4)
        assert repr(buffered) == "<Buffered 10 of 10 bytes>"
    assert buffered.held == 0


def test_the_deepest_allowed_nesting_passes() -> None:
    """As many levels as the limit says are accepted."""
    decode(b'{"a":' * 64 + b"1" + b"}" * 64, LIMITS)


def test_nested_bytes_leave_as_they_came() -> None:
    """White space, escapes, number forms and unknown fields inside values are not touched."""
    raw = b'{ "x" : {"b":1.50, "a":[ 1e2,"\\u00e4\\/" ]} , "model":"old","\\u0061":0}'
    out = decode(raw, LIMITS).encode({"model": "new"})
    assert out == b'{"x":{"b":1.50, "a":[ 1e2,"\\u00e4\\/" ]},"model":"new","a":0}'


def test_a_key_that_came_twice_leaves_once_with_its_last_value() -> None:
    """What was looked at is what goes out: the last duplicate, alone."""
    body = decode(b'{"model":"a","stream":false,"model":"b"}', LIMITS)
    assert body.fields["model"] == "b"
    assert body.encode({}) == b'{"model":"b","stream":false}'


def test_a_field_that_was_absent_is_added() -> None:
    """A change to a field that the client did not send appends it."""
    assert decode(b"{}", LIMITS).encode({"model": "m"}) == b'{"model":"m"}'


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), _JSON, max_size=6))
def test_any_object_means_the_same_after_its_way_through(fields: dict[str, Any]) -> None:
    """Decoding what goes out gives what came in."""
    body = decode(json.dumps(fields).encode(), LIMITS)
    assert json.loads(body.encode({})) == fields
    assert dict(body.fields) == fields


# What may stand in a request, and every way to a value in it.
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def _places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the way to each value within a value."""
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        yield (*place, step)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*place, step))


@given(st.dictionaries(st.text(max_size=3), _VALUES, min_size=1), st.data(), st.booleans())
def test_a_value_is_replaced_wherever_it_lies(
    fields: dict[str, Any], data: st.DataObject, spaced: bool
) -> None:
    """Decoded and as bytes, and the body that it was made from stays as it is."""
    found = list(_places(fields))
    chosen = data.draw(st.lists(st.sampled_from(found), unique=True, max_size=3))
    # None within another.
    places = [
        each for each in chosen if not any(each != of and each[: len(of)] == of for of in chosen)
    ]
    body = decode(json.dumps(fields, indent=2 if spaced else None).encode(), LIMITS)
    before = body.encode({})
    new = body.with_values({place: {"new": number} for number, place in enumerate(places)})
    expected = json.loads(json.dumps(fields))
    for number, place in enumerate(places):
        value = expected
        for step in place[:-1]:
            value = value[step]
        value[place[-1]] = {"new": number}
    assert new.fields == expected
    assert json.loads(new.encode({})) == expected
    assert body.encode({}) == before


def test_bytes_beside_a_replaced_value_stay() -> None:
    """Numbers, escapes and spaces of what is not touched are as they came."""
    data = b'{"a":[{"x":1.50, "y":"\\u00e4\\/"}, {"u":"old","v": [1e2,{ }] ,"w":-0.0}], "b":{ }}'
    body = decode(data, LIMITS).with_values({("a", 1, "u"): "new"})
    told = b'{"a":[{"x":1.50, "y":"\\u00e4\\/"},{"u":"new","v":[1e2,{ }],"w":-0.0}],"b":{ }}'
    assert body.encode({}) == told
