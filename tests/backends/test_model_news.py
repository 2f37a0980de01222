import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.model_news import ModelBoard, parse, spell
from backends.wire import (
    LoadPhase,
    ModelEvent,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoading,
    ModelNews,
    ModelUnloaded,
    UnloadReason,
)

LOADING = ModelLoading("a", LoadPhase.WEIGHTS, 40)
LOADED = ModelLoaded("a", 1.5)

texts = st.text(max_size=100)
news = st.one_of(
    st.builds(ModelLoading, texts, st.sampled_from(LoadPhase), st.integers(0, 100)),
    st.builds(ModelLoaded, texts, st.floats(0, 1e6)),
    st.builds(ModelLoadFailed, texts, texts),
    st.builds(ModelUnloaded, texts, st.sampled_from(UnloadReason)),
)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(news)
def test_what_is_spelled_is_read(told: ModelNews) -> None:
    """Each kind of news comes through a line of JSON as it was."""
    assert parse(json.loads(json.dumps(spell(told)))) == told


@given(
    st.sampled_from(["model_load", "model_loaded", "model_load_failed", "model_unloaded", "ready"]),
    values | st.dictionaries(st.sampled_from(["model", "phase", "percent", "load_s"]), values),
)
def test_a_child_may_say_anything(name: str, told: Any) -> None:
    """What cannot be understood is no news, and breaks nothing."""
    parse({name: told})


@pytest.mark.parametrize("fields", ['"percent": Infinity, "phase": "weights"', '"load_s": 1e999'])
def test_numbers_may_have_no_bound(fields: str) -> None:
    """JSON as Python reads it has infinity, which is no percentage."""
    for name in ("model_load", "model_loaded"):
        told = json.loads(f'{{"{name}": {{"model": "a", {fields}}}}}')
        assert not isinstance(parse(told), ModelLoading)


@pytest.mark.parametrize(("told", "percent"), [(-1, 0), (1000, 100), ("7", 7)])
def test_a_percentage_is_one(told: object, percent: int) -> None:
    """It lies between 0 and 100, whatever the child says."""
    line = {"model_load": {"model": "a", "phase": "weights", "percent": told}}
    assert parse(line) == ModelLoading("a", LoadPhase.WEIGHTS, percent)


def test_the_board_shows_what_was_said_last() -> None:
    """A load is shown while it lasts, a model while it is loaded."""
    events: list[ModelEvent] = []
    board = ModelBoard("mlx", events.append)
    shown = []
    said: list[ModelNews] = [
        *(LOADING, LOADED),
        *(ModelLoading("b", LoadPhase.PREPARING, 0), ModelLoadFailed("b", "broken")),
        *(ModelLoaded("c", 1), ModelUnloaded("a", UnloadReason.MEMORY)),
    ]
    for each in said:
        board.hear(spell(each))
        shown.append((board.loaded, None if board.loading is None else board.loading.model))
    board.hear({"progress": "importing MLX"})
    assert shown == [
        *(((), "a"), (("a",), None)),
        *((("a",), "b"), (("a",), None)),
        *((("a", "c"), None), (("c",), None)),
    ]
    assert events == [ModelEvent("mlx", each) for each in said]


def test_a_process_takes_its_models_along() -> None:
    """Whoever follows the events knows that they are gone, and that a load will not end."""
    events: list[ModelEvent] = []
    board = ModelBoard("mlx", events.append)
    board.hear(spell(LOADED))
    board.hear(spell(ModelLoading("b", LoadPhase.PREPARING, 0)))
    events.clear()
    board.clear()
    board.clear()
    assert [event.news for event in events] == [
        ModelLoadFailed("b", "the process ended while it was loading"),
        ModelUnloaded("a", UnloadReason.ENDED),
    ]
    assert (board.loaded, board.loading) == ((), None)
