"""The table of endpoints: each request, whatever its shape, is understood or refused by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.capabilities import Capability, Dialect, Requirement
from router.endpoints import CHAT, ENDPOINTS, Endpoint, dialect_of
from router.errors import Refused
from tests.router.classification.shapes import BODIES, with_part

_TURNS = {Dialect.CHAT: "messages", Dialect.RESPONSES: "input", Dialect.MESSAGES: "messages"}
_PICTURES = {Dialect.CHAT: "image_url", Dialect.RESPONSES: "input_image", Dialect.MESSAGES: "image"}
_CONVERSATIONS = [each for each in ENDPOINTS.values() if each.dialect is not None]


def _understood(endpoint: Endpoint, body: dict[str, Any]) -> Requirement:
    named = {key: value for key, value in body.items() if key != "model"}
    return endpoint.requirement(named, max_images=1000)


@given(st.sampled_from(list(ENDPOINTS.values())), BODIES)
def test_no_shape_is_too_odd_to_classify(endpoint: Endpoint, body: dict[str, Any]) -> None:
    """Any JSON object needs at least one lever, and classifying it raises nothing."""
    requirement = _understood(endpoint, body)
    assert requirement.levers
    assert set(requirement.levers) <= set(Capability)
    assert isinstance(requirement.stream, bool)


@given(st.sampled_from(_CONVERSATIONS), BODIES, st.integers(0, 5))
def test_a_picture_anywhere_needs_vision(
    endpoint: Endpoint, body: dict[str, Any], place: int
) -> None:
    """One more part is one more need at most, and takes none away."""
    dialect = endpoint.dialect or Dialect.CHAT
    before = _understood(endpoint, body)
    part = {"type": _PICTURES[dialect]}
    after = _understood(endpoint, with_part(body, _TURNS[dialect], part, place))
    others = set(before.needs) - {Capability.TEXT}
    assert set(after.needs) - {Capability.TEXT} == others | {Capability.VISION}


@given(st.sampled_from(_CONVERSATIONS), BODIES, st.randoms())
def test_the_order_of_turns_changes_nothing(
    endpoint: Endpoint, body: dict[str, Any], random: Any
) -> None:
    """A need stands for the whole conversation."""
    turns = _TURNS[endpoint.dialect or Dialect.CHAT]
    given_turns = body.get(turns)
    if isinstance(given_turns, list):
        shuffled = random.sample(given_turns, len(given_turns))
        assert _understood(endpoint, {**body, turns: shuffled}) == _understood(endpoint, body)


@pytest.mark.parametrize(
    ("path", "capability"),
    [
        ("/v1/completions", Capability.TEXT),
        ("/v1/embeddings", Capability.EMBEDDINGS),
        ("/v1/rerank", Capability.RERANK),
        ("/v1/images/generations", Capability.IMAGE_GENERATION),
        ("/v1/audio/speech", Capability.SPEECH),
        ("/v1/audio/transcriptions", Capability.TRANSCRIPTION),
    ],
)
def test_an_endpoint_of_its_own_needs_its_family(path: str, capability: Capability) -> None:
    """Whatever the body holds."""
    picture = {"role": "user", "content": [{"type": "image_url"}]}
    requirement = _understood(ENDPOINTS[path], {"messages": [picture], "tools": [{}]})
    assert requirement == Requirement((capability,), path=path, dialect=None)


@pytest.mark.parametrize(
    ("path", "body", "stream"),
    [
        ("/v1/chat/completions", {"stream": True}, True),
        ("/v1/chat/completions", {"stream": "true"}, False),
        ("/v1/chat/completions", {"stream": 1}, False),
        ("/v1/messages/count_tokens", {"stream": True}, False),
        ("/v1/embeddings", {"stream": True}, False),
        ("/v1/audio/speech", {"stream": True}, False),
        ("/v1/audio/speech", {"stream_format": "sse"}, True),
        ("/v1/audio/speech", {"stream_format": "audio"}, False),
        ("/v1/audio/transcriptions", {"stream": "true"}, True),
        ("/v1/audio/transcriptions", {"stream": "false"}, False),
        ("/v1/audio/transcriptions", {"stream": True}, True),
        ("/v1/audio/transcriptions", {"stream": 1}, False),
    ],
)
def test_each_endpoint_is_asked_for_a_stream_in_its_own_way(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    """And where it has none, none is due."""
    assert _understood(ENDPOINTS[path], body).stream is stream


def test_pictures_over_the_limit_are_refused() -> None:
    """As many as the limit pass."""
    picture = {"role": "user", "content": [{"type": "image_url"}] * 3}
    CHAT.requirement({"messages": [picture]}, max_images=3)
    with pytest.raises(Refused) as refused:
        CHAT.requirement({"messages": [picture]}, max_images=2)
    assert refused.value.code == "too_many_images"


@pytest.mark.parametrize("model", [1, ["m"], "a\nb", "m" * 1025])
def test_a_models_name_is_one(model: object) -> None:
    """Anything else is refused before it can stand in a header."""
    with pytest.raises(Refused) as refused:
        CHAT.requirement({"model": model}, max_images=1)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "model")


def test_a_path_that_is_not_there_tells_errors_as_openai_does() -> None:
    """Only what is in the table has a dialect."""
    assert dialect_of("/v1/messages/count_tokens") is Dialect.MESSAGES
    assert dialect_of("/v1/nothing") is None
