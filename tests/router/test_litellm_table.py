import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Fact, Kind, Locality, Model, Provider, Source
from router.litellm_table import cloud_of, read_table

# Rows as LiteLLM publishes them: its own description of a row comes first.
ROWS: dict[str, Any] = {
    "sample_spec": {
        "litellm_provider": "one of the providers",
        "max_input_tokens": "max input tokens, if the provider specifies it",
        "mode": "one of: chat, embedding",
        "supports_vision": True,
    },
    "claude-large": {
        "input_cost_per_token": 3e-06,
        "litellm_provider": "anthropic",
        "max_input_tokens": 200000,
        "max_output_tokens": 64000,
        "mode": "chat",
        "supports_function_calling": True,
        "supports_pdf_input": True,
        "supports_response_schema": True,
        "supports_vision": True,
    },
    "gemini/flash": {
        "litellm_provider": "gemini",
        "max_input_tokens": 1048576,
        "mode": "chat",
        "supported_modalities": ["text", "image", "audio", "video"],
        "supports_video_input": False,
    },
    "gpt": {"litellm_provider": "openai", "mode": "chat", "supports_vision": False},
    "gpt-embed": {"litellm_provider": "openai", "mode": "embedding", "max_input_tokens": 8191},
    "gpt-pro": {"litellm_provider": "openai", "mode": "responses"},
    "maker.model-v1:0": {"litellm_provider": "bedrock_converse", "supports_vision": True},
    "lama": {"litellm_provider": "vertex_ai-llama_models", "supports_vision": True},
    "odd": {
        "litellm_provider": "openai",
        "max_input_tokens": "many",
        "mode": ["chat"],
        "supported_modalities": "image",
        "supports_vision": "yes",
    },
}
TABLE = read_table(json.dumps(ROWS).encode(), "1.2.3")


def at(cloud: str | None) -> Provider:
    return Provider("p", Kind.OPENAI, "https://x/v1", Locality.REMOTE, cloud=cloud)


def said(cloud: str | None, model: str) -> dict[str, bool]:
    filled = TABLE.fill(Model("p", model), at(cloud))
    assert all(fact.source is Source.TABLE for fact in filled.facts.values())
    assert all(fact.why == "as of litellm 1.2.3" for fact in filled.facts.values())
    return {need: fact.value for need, fact in filled.facts.items()}


ALL = {"vision": True, "tool_use": True, "structured_output": True, "text": True}


@pytest.mark.parametrize(
    ("cloud", "model", "facts"),
    [
        ("anthropic", "claude-large", {**ALL, "file": True}),
        # A word by name counts more than a list.
        ("gemini", "flash", {"text": True, "vision": True, "audio": True, "video": False}),
        ("openai", "gpt", {"text": True, "vision": False}),
        ("openai", "gpt-embed", {"embeddings": True}),
        # It has the responses API alone, which is said of no other endpoint.
        ("openai", "gpt-pro", {}),
        ("bedrock", "maker.model-v1:0", {"vision": True}),
        ("vertex_ai", "lama", {"vision": True}),
        # Nothing is said by what has another form.
        ("openai", "odd", {}),
        # Of another cloud, or under a name that is only like one.
        ("anthropic", "gpt", {}),
        ("anthropic", "flash", {}),
        ("openai", "gp", {}),
        ("openai", "GPT", {}),
        ("anthropic", "sample_spec", {}),
        (None, "gpt", {}),
    ],
)
def test_a_row_says_what_it_says_outright(
    cloud: str | None, model: str, facts: dict[str, bool]
) -> None:
    """Each ability that a row names is a fact, and what it does not name is none."""
    assert said(cloud, model) == facts


@pytest.mark.parametrize(
    ("cloud", "model", "length"),
    [("anthropic", "claude-large", 200000), ("openai", "gpt", None), ("openai", "odd", None)],
)
def test_the_tokens_that_are_read_are_the_context_length(
    cloud: str, model: str, length: int | None
) -> None:
    """`max_input_tokens` bounds the prompt; what is no number says nothing."""
    assert TABLE.fill(Model("p", model), at(cloud)).context_length == length


@pytest.mark.parametrize("source", [Source.USER, Source.PROBE, Source.PROVIDER])
def test_whoever_is_nearer_to_a_model_knows_better(source: Source) -> None:
    """The table fills what nobody else has said, a context length too."""
    fact = Fact(value=False, source=source)
    filled = TABLE.fill(Model("p", "claude-large", {"vision": fact}, 1000), at("anthropic"))
    assert filled.facts["vision"] is fact
    assert filled.facts["tool_use"].source is Source.TABLE
    assert filled.context_length == 1000


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        ("api.openai.com", "openai"),
        ("API.OpenAI.com", "openai"),
        ("openrouter.ai", "openrouter"),
        ("api.openai.com.evil.example", None),
        # They have OpenAI's dialect besides their own, and less in it.
        ("api.anthropic.com", None),
        ("generativelanguage.googleapis.com", None),
        ("127.0.0.1", None),
        ("", None),
    ],
)
def test_a_cloud_is_known_by_its_own_host(host: str, cloud: str | None) -> None:
    """The whole name of the host counts."""
    assert cloud_of(host) == cloud


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"a": 1}', b'{"a": {"mode": NaN}}', b'{"a"', b'{"a": "\xff"}', b"[" * 9999],
)
def test_what_is_no_table_is_said_to_be_none(body: bytes) -> None:
    """A file of another form is a ValueError."""
    with pytest.raises(ValueError, match="no table of models"):
        read_table(body, "1")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ROWS["claude-large"], "supported_modalities"]), JSON))
def test_no_row_is_too_odd(row: dict[str, Any]) -> None:
    """Whatever the values of a row are, facts are made of truth values alone."""
    row["litellm_provider"] = "openai"
    filled = read_table(json.dumps({"m": row}).encode(), "1").fill(Model("p", "m"), at("openai"))
    assert all(isinstance(fact.value, bool) for fact in filled.facts.values())
    assert filled.context_length is None or filled.context_length > 0
