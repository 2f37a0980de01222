"""JSON of any shape in the words of a protocol: what its translation must not fall over."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st


def any_json(keys: Sequence[str], words: Sequence[str]) -> st.SearchStrategy[Any]:
    """Return any JSON whose objects have these keys, and often these words for values."""
    scalars = (
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(keys), inner | st.sampled_from(words), max_size=4)
        ),
        max_leaves=12,
    )
