"""What providers say of their models, from the forms in which they say it."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Locality, Model, Source
from router.metadata import (
    MAX_MODELS,
    Shown,
    ollama_list,
    ollama_running,
    ollama_show,
    ollama_tags,
    openai_list,
)


def _told(model: Model) -> tuple[dict[str, bool], int | None]:
    assert all(fact.source is Source.PROVIDER for fact in model.facts.values())
    return {need: fact.value for need, fact in model.facts.items()}, model.context_length


def _listed(*rows: Any) -> dict[str, Model]:
    return openai_list(json.dumps({"object": "list", "data": rows}).encode(), "p")


@pytest.mark.parametrize(
    ("row", "facts", "context_length"),
    [
        ({}, {}, None),
        # OpenRouter
        (
            {
                "architecture": {
                    "input_modalities": ["text", "image"],
                    "output_modalities": ["text"],
                },
                "context_length": 131072,
                "supported_parameters": ["tools", "structured_outputs", "response_format"],
            },
            {
                "vision": True,
                "audio": False,
                "file": False,
                "video": False,
                "text": True,
                "tool_use": True,
                "structured_output": True,
            },
            131072,
        ),
        # JSON without a schema says nothing of schemas.
        ({"supported_parameters": ["response_format"]}, {"tool_use": False}, None),
        (
            {"supported_parameters": ["temperature"]},
            {"tool_use": False, "structured_output": False},
            None,
        ),
        # Mistral
        (
            {"capabilities": {"completion_chat": True, "function_calling": False, "vision": True}},
            {"text": True, "tool_use": False, "vision": True},
            None,
        ),
        # LM Studio and llama.cpp: a word that is missing says nothing.
        ({"capabilities": ["tool_use"], "max_context_length": 4096}, {"tool_use": True}, 4096),
        ({"capabilities": ["completion", "multimodal"]}, {"text": True}, None),
        # vLLM
        ({"max_model_len": 32768, "root": "x"}, {}, 32768),
        # llama.cpp
        ({"meta": {"n_ctx_train": 8192, "n_params": 1}}, {}, 8192),
        # Names say nothing.
        ({"id": "gpt-4o-vision-32k"}, {}, None),
        # What has an unexpected form says nothing.
        ({"architecture": {"input_modalities": "image"}, "capabilities": 7}, {}, None),
        ({"capabilities": {"vision": "yes"}, "supported_parameters": []}, {}, None),
        ({"context_length": True, "max_model_len": -1, "meta": [1]}, {}, None),
        ({"context_length": "8192", "context_window": 10**30}, {}, None),
    ],
)
def test_what_a_row_says_outright_is_taken_and_nothing_else(
    row: dict[str, Any], facts: dict[str, bool], context_length: int | None
) -> None:
    """Each provider's own spelling is understood; what it does not say stays unknown."""
    (model,) = _listed({"id": "m", **row}).values()
    assert _told(model) == (facts, context_length)
    assert model.listed
    assert model.locality is None


@pytest.mark.parametrize("name", ["", " m", "a\nb", "a\x00", "x" * 513, 7, None])
def test_an_id_that_cannot_stand_in_a_header_is_passed_over(name: object) -> None:
    """The rest of the list counts."""
    assert list(_listed({"id": name}, "no row", {"id": "good"})) == ["p/good"]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"7", b"{}", b'{"data": 7}', b"\xff", b"[" * 9999]
)
def test_what_is_no_list_is_told_as_that(body: bytes) -> None:
    """A ValueError, and no other error."""
    with pytest.raises(ValueError, match=r"."):
        openai_list(body, "p")
    with pytest.raises(ValueError, match=r"."):
        ollama_tags(body)


@pytest.mark.parametrize("body", [b'{"data": null}', b'{"data": []}', b"[]"])
def test_a_list_may_be_empty(body: bytes) -> None:
    """A server without a model has a list all the same."""
    assert openai_list(body, "p") == {}


def test_of_an_endless_list_only_so_many_are_kept() -> None:
    """The number of models is bounded."""
    assert len(_listed(*({"id": f"m{n}"} for n in range(MAX_MODELS + 9)))) == MAX_MODELS


TAGS = {
    "models": [
        {"name": "llama3:latest", "model": "llama3:latest", "digest": "d1", "size": 1},
        {"name": "big:cloud", "digest": "d2", "remote_host": "https://ollama.example:443"},
        {"name": "half:1b", "digest": "d3", "remote_model": "half"},
        {"name": "named-cloud", "digest": "d4"},
    ]
}


def test_ollamas_list_tells_which_models_are_remote() -> None:
    """Whatever says that a model is elsewhere makes it remote; a name that sounds so does not."""
    tags = ollama_tags(json.dumps(TAGS).encode())
    models = ollama_list(tags, {}, "o", is_local=True)
    assert {name: str(model.locality) for name, model in models.items()} == {
        "o/llama3:latest": "local",
        "o/llama3": "local",
        "o/big:cloud": "remote",
        "o/half:1b": "remote",
        "o/named-cloud": "local",
    }
    assert models["o/llama3"] is models["o/llama3:latest"]
    elsewhere = ollama_list(tags, {}, "o", is_local=False)
    assert {model.locality for model in elsewhere.values()} == {Locality.REMOTE}


@pytest.mark.parametrize(
    ("shown", "facts", "context_length"),
    [
        ({}, {}, None),
        (
            {"capabilities": ["completion", "vision", "thinking"]},
            {"text": True, "vision": True, "tool_use": False},
            None,
        ),
        (
            {"capabilities": ["embedding"]},
            {"text": False, "vision": False, "tool_use": False, "embeddings": True},
            None,
        ),
        ({"capabilities": []}, {}, None),
        ({"capabilities": "vision"}, {}, None),
        ({"model_info": {"general.architecture": "q", "q.context_length": 32768}}, {}, 32768),
        (
            {
                "model_info": {"general.architecture": "q", "q.context_length": 32768},
                "parameters": 'stop "<|im_end|>"\nnum_ctx                        4096',
            },
            {},
            4096,
        ),
        ({"parameters": "num_ctx 2048"}, {}, 2048),
        ({"parameters": "num_ctx 99999999999999999999"}, {}, None),
        ({"model_info": {"general.architecture": ["q"]}, "parameters": 7}, {}, None),
    ],
)
def test_what_ollama_shows_of_a_model_is_taken(
    shown: dict[str, Any], facts: dict[str, bool], context_length: int | None
) -> None:
    """Its list of capabilities is complete; a window that is set counts before what is possible."""
    told = ollama_show(json.dumps(shown).encode())
    assert {need: fact.value for need, fact in told.facts.items()} == facts
    assert told.context_length == context_length


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("id", "name", "model", "digest", "remote_host", "architecture", "meta"),
                    *("capabilities", "supported_parameters", "input_modalities", "parameters"),
                    *("context_length", "model_info", "general.architecture", "data", "models"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(_JSON_VALUES)
def test_whatever_json_comes_is_a_list_or_none(content: Any) -> None:
    """No form of an answer can do more than be no list."""
    for body in (content, {"data": content}, {"data": [content]}, {"models": [content]}):
        encoded = json.dumps(body).encode()
        try:
            for model in openai_list(encoded, "p").values():
                assert model.id.isprintable()
        except ValueError:
            pass
        try:
            tags = ollama_tags(encoded)
            ollama_list(tags, {"d": Shown()}, "p", is_local=True)
        except ValueError:
            pass
        with contextlib.suppress(ValueError):
            ollama_show(encoded)


@given(st.binary(max_size=200))
def test_whatever_bytes_come_are_a_list_or_none(body: bytes) -> None:
    """Garbage is told as garbage."""
    for read in (lambda: openai_list(body, "p"), lambda: ollama_tags(body)):
        with contextlib.suppress(ValueError):
            read()


@pytest.mark.parametrize(
    ("rows", "windows"),
    [
        ([{"name": "a:latest", "context_length": 128}], {"a:latest": 128, "a": 128}),
        ([{"model": "a:1b", "name": "b", "context_length": 5}], {"a:1b": 5}),
        ([{"model": "a"}, {"context_length": 5}, {"model": "b", "context_length": "5"}, 1], {}),
        (None, {}),
    ],
)
def test_what_ollama_has_loaded_tells_its_windows(rows: Any, windows: dict[str, int]) -> None:
    """By each name of a model; an older server that tells none says nothing."""
    assert ollama_running(json.dumps({"models": rows}).encode()) == windows


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"404 page not found"])
def test_what_is_no_list_of_loaded_models_is_an_error(body: bytes) -> None:
    """A server that has no such list is told apart from one that has loaded nothing."""
    with pytest.raises(ValueError, match=r"JSON|list"):
        ollama_running(body)
