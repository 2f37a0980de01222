"""What providers say of their models: the bytes of their lists, read into values.

Only what a provider says outright is taken; nothing is ever read out of a model's name. What has an
unexpected form says nothing, and a list that is none is a ValueError.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from router.capabilities import Capability, Input
from router.catalog import Fact, Locality, Model, Source

# The longest list that anybody has is a tenth of this.
MAX_MODELS: Final = 20_000
MAX_LIST_BYTES: Final = 32_000_000
_MAX_NAME = 512
_MAX_LENGTH = 1 << 31
_JSON = msgspec.json.Decoder()
# The same word for the same thing, in all the spellings met.
_CAPABILITY_WORDS: Final = {
    "completion": Capability.TEXT,
    "completion_chat": Capability.TEXT,
    "chat": Capability.TEXT,
    "vision": Capability.VISION,
    "tools": Capability.TOOL_USE,
    "tool_use": Capability.TOOL_USE,
    "function_calling": Capability.TOOL_USE,
    "structured_output": Capability.STRUCTURED_OUTPUT,
    "structured_outputs": Capability.STRUCTURED_OUTPUT,
    "embedding": Capability.EMBEDDINGS,
    "embeddings": Capability.EMBEDDINGS,
    "rerank": Capability.RERANK,
    "audio": Input.AUDIO,
    "video": Input.VIDEO,
}
_MODALITIES: Final = {
    "text": Capability.TEXT,
    "image": Capability.VISION,
    "audio": Input.AUDIO,
    "file": Input.FILE,
    "video": Input.VIDEO,
}
# Where servers write how many tokens fit; what was trained for is the last resort.
_LENGTHS: Final = (
    "context_length",
    "max_model_len",
    "context_window",
    "max_context_length",
    "n_ctx",
    "n_ctx_train",
)
# Ollama refuses a request for one of these to a model that does not list it.
_REFUSED_UNLISTED: Final = {
    "completion": Capability.TEXT,
    "vision": Capability.VISION,
    "tools": Capability.TOOL_USE,
}


@dataclass(frozen=True, slots=True)
class Tag:
    """One row of Ollama's list. A remote one's prompts go on to another server."""

    id: str
    digest: str
    is_remote: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What Ollama says of one model when it is asked about it."""

    facts: Mapping[str, Fact] = field(default_factory=dict)
    context_length: int | None = None


def openai_list(body: bytes, provider: str) -> dict[str, Model]:
    """Return the models of a list in OpenAI's dialect by their names, at most MAX_MODELS."""
    models: dict[str, Model] = {}
    for row in _rows(body, "data"):
        name = _name(row.get("id"))
        if name is not None and len(models) < MAX_MODELS:
            model = Model(provider, name, _facts(row), _context_length(row), listed=True)
            models[model.name] = model
    return models


def ollama_tags(body: bytes) -> list[Tag]:
    """Return what Ollama's `/api/tags` lists, at most MAX_MODELS."""
    tags = []
    for row in _rows(body, "models")[:MAX_MODELS]:
        name = _name(row.get("model")) or _name(row.get("name"))
        if name is not None:
            digest = row.get("digest")
            # Either of them, in whatever form: what looks as if it left must not count as local.
            is_remote = bool(row.get("remote_host") or row.get("remote_model"))
            tags.append(Tag(name, digest if isinstance(digest, str) else "", is_remote))
    return tags


def ollama_running(body: bytes) -> dict[str, int]:
    """Return the windows of the models that `/api/ps` says are loaded, by each of their names."""
    windows = {}
    for row in _rows(body, "models")[:MAX_MODELS]:
        name = _name(row.get("model")) or _name(row.get("name"))
        window = _length(row.get("context_length"))
        if name is not None and window is not None:
            windows[name] = windows[name.removesuffix(":latest")] = window
    return windows


def ollama_show(body: bytes) -> Shown:
    """Return what Ollama's `/api/show` says of a model."""
    shown = _decoded(body)
    if not isinstance(shown, dict):
        raise ValueError("no object")  # noqa: TRY004 what came is no description
    facts: dict[str, Fact] = {}
    listed = shown.get("capabilities")
    if isinstance(listed, list) and listed:
        facts = {str(need): _fact(word in listed) for word, need in _REFUSED_UNLISTED.items()}
        facts |= _named(listed)
    return Shown(facts, _ollama_length(shown))


def ollama_list(
    tags: Iterable[Tag], shown: Mapping[str, Shown], provider: str, *, is_local: bool
) -> dict[str, Model]:
    """Return Ollama's models by each of their names; `shown` is what it said of a digest."""
    models = {}
    for tag in tags:
        told = shown.get(tag.digest, Shown())
        # Ollama's own rule: a name without a tag means the latest.
        short = tag.id.removesuffix(":latest")
        model = Model(
            provider,
            tag.id,
            told.facts,
            told.context_length,
            other_names=(short,) if short != tag.id else (),
            locality=Locality.LOCAL if is_local and not tag.is_remote else Locality.REMOTE,
            listed=True,
        )
        models[model.name] = models[f"{provider}/{short}"] = model
    return models


def _decoded(body: bytes) -> Any:
    try:
        return _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error


def _rows(body: bytes, key: str) -> list[dict[str, Any]]:
    """Return the rows of a list; a bare array is one too. ValueError where there is none."""
    decoded = _decoded(body)
    if isinstance(decoded, dict) and key in decoded:
        # A server without a model may say null.
        decoded = decoded[key] or []
    if not isinstance(decoded, list):
        raise ValueError(f"no list of models under {key!r}")  # noqa: TRY004 see ollama_show
    return [row for row in decoded if isinstance(row, dict)]


def _name(value: object) -> str | None:
    """Return an id that can stand in a header and a log."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        return None
    return value if value.isprintable() and value == value.strip() else None


def _fact(value: bool) -> Fact:  # noqa: FBT001 the fact is the value
    return _TRUE if value else _FALSE


_TRUE: Final = Fact(value=True, source=Source.PROVIDER)
_FALSE: Final = Fact(value=False, source=Source.PROVIDER)


def _facts(row: Mapping[str, Any]) -> dict[str, Fact]:
    """Return all that one row of OpenAI's dialect says of a model."""
    return {
        **dict(_of_modalities(row.get("architecture"))),
        **dict(_of_parameters(row.get("supported_parameters"))),
        **_of_capabilities(row.get("capabilities")),
    }


def _of_modalities(architecture: object) -> Iterator[tuple[str, Fact]]:
    """Yield what a model takes and gives, as OpenRouter and llama.cpp spell it."""
    if not isinstance(architecture, dict):
        return
    takes = architecture.get("input_modalities")
    if isinstance(takes, list) and takes:
        for word, need in _MODALITIES.items():
            if need is not Capability.TEXT:
                yield str(need), _fact(word in takes)
    gives = architecture.get("output_modalities")
    if isinstance(gives, list) and gives:
        yield str(Capability.TEXT), _fact("text" in gives)


def _of_parameters(parameters: object) -> Iterator[tuple[str, Fact]]:
    """Yield what the parameters tell that a model understands, as OpenRouter lists them."""
    if not isinstance(parameters, list) or not parameters:
        return
    yield str(Capability.TOOL_USE), _fact("tools" in parameters)
    if "structured_outputs" in parameters:
        yield str(Capability.STRUCTURED_OUTPUT), _TRUE
    elif "response_format" not in parameters:
        # With that alone it may write JSON, which says nothing of schemas.
        yield str(Capability.STRUCTURED_OUTPUT), _FALSE


def _of_capabilities(capabilities: object) -> dict[str, Fact]:
    """Return what a list of words, or an object of truth values, says a model can do."""
    if isinstance(capabilities, list):
        return _named(capabilities)
    if not isinstance(capabilities, dict):
        return {}
    return {
        str(need): _fact(value)
        for word, need in _CAPABILITY_WORDS.items()
        if isinstance(value := capabilities.get(word), bool)
    }


def _named(words: list[Any]) -> dict[str, Fact]:
    """Return a fact for each word of a list that is known; what is not in it is unknown."""
    known = (_CAPABILITY_WORDS.get(word) for word in words if isinstance(word, str))
    return {str(need): _TRUE for need in known if need is not None}


def _context_length(row: Mapping[str, Any]) -> int | None:
    meta = row.get("meta")
    for place in (row, meta if isinstance(meta, dict) else {}):
        for key in _LENGTHS:
            if (length := _length(place.get(key))) is not None:
                return length
    return None


def _ollama_length(shown: Mapping[str, Any]) -> int | None:
    """Return how many tokens fit: what the model was made for, or less where it is set so."""
    info = shown.get("model_info")
    info = info if isinstance(info, dict) else {}
    made_for = _length(info.get(f"{info.get('general.architecture')}.context_length"))
    parameters = shown.get("parameters")
    lines = parameters.splitlines() if isinstance(parameters, str) else []
    for words in map(str.split, lines):
        match words:
            case ["num_ctx", digits] if digits.isascii() and digits.isdigit() and len(digits) < 12:  # noqa: PLR2004 no window is longer
                given = _length(int(digits))
                known = [length for length in (given, made_for) if length is not None]
                return min(known, default=None)
    return made_for


def _length(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value < _MAX_LENGTH else None
