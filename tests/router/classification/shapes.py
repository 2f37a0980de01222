"""Requests of any shape, for every protocol."""

from typing import Any

from hypothesis import strategies as st

from router.capabilities import Needs

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "content", "input", "role", "output", "source", "format"])
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("messages", "input", "tools", "functions", "tool_choice", "function_call", "model"),
        *("response_format", "text", "output_config", "output_format", "stream", "stream_format"),
    ]
)
BODIES = st.dictionaries(FIELDS, JSON)


def needs_in_order(needs: Needs) -> list[str]:
    """Return what was found as a request's needs are told."""
    return [*needs.levers, *needs.inputs]


def with_part(body: dict[str, Any], field: str, part: Any, place: int) -> dict[str, Any]:
    """Return a request with one more turn that holds a part, somewhere among the others."""
    turns = body.get(field)
    others = list(turns) if isinstance(turns, list) else []
    others.insert(place % (len(others) + 1), {"role": "user", "content": [part]})
    return {**body, field: others}
