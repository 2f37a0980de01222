"""What LiteLLM's table says of clouds' models: their abilities, and how many tokens they read.

LiteLLM ships a table of prices and context lengths as JSON, one object a model, described by its
own first row, `sample_spec`. Only what a row says outright is taken. Others than the clouds wrote
it, so that whatever anybody nearer to a model says counts more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from router.capabilities import Capability, Input
from router.catalog import Fact, Model, Provider, Source

# How many tokens nobody reads.
_MAX_LENGTH: Final = 1 << 31
# The clouds whose own protocol is OpenAI's, by the host of their API, and their names in the table.
# A cloud that has OpenAI's dialect besides its own is none of them: what its models can do there is
# less than what the table says.
_CLOUDS: Final = {
    "api.openai.com": "openai",
    "api.deepinfra.com": "deepinfra",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "openrouter.ai": "openrouter",
}
# The table has further names for parts of these.
_PARTS: Final = {
    "bedrock": ("bedrock", "bedrock_converse"),
    "fireworks_ai": ("fireworks_ai", "fireworks_ai-embedding-models"),
}
_VERTEX: Final = "vertex_ai"
_SUPPORTS: Final = {
    "supports_vision": Capability.VISION,
    "supports_function_calling": Capability.TOOL_USE,
    "supports_response_schema": Capability.STRUCTURED_OUTPUT,
    "supports_audio_input": Input.AUDIO,
    "supports_pdf_input": Input.FILE,
    "supports_video_input": Input.VIDEO,
}
# What is not in these lists may be missing by oversight.
_MODALITIES: Final = {
    "image": Capability.VISION,
    "audio": Input.AUDIO,
    "video": Input.VIDEO,
}
_MODES: Final = {
    "chat": Capability.TEXT,
    "completion": Capability.TEXT,
    "embedding": Capability.EMBEDDINGS,
    "audio_speech": Capability.SPEECH,
    "audio_transcription": Capability.TRANSCRIPTION,
    "image_generation": Capability.IMAGE_GENERATION,
    "rerank": Capability.RERANK,
}


class _Row(msgspec.Struct, frozen=True):
    """What is looked at of one model; a value of an unexpected type says nothing."""

    litellm_provider: Any = None
    mode: Any = None
    max_input_tokens: Any = None
    supported_modalities: Any = None
    supports_vision: Any = None
    supports_function_calling: Any = None
    supports_response_schema: Any = None
    supports_audio_input: Any = None
    supports_pdf_input: Any = None
    supports_video_input: Any = None


_ROWS: Final = msgspec.json.Decoder(dict[str, _Row])


def cloud_of(host: str) -> str | None:
    """Return what the table calls the cloud whose API has this host; None for any other server."""
    return _CLOUDS.get(host.lower())


@dataclass(frozen=True, slots=True)
class Table:
    """LiteLLM's table; `release` is the version that brought it."""

    release: str
    _rows: Mapping[str, _Row] = field(repr=False)

    def fill(self, model: Model, provider: Provider) -> Model:
        """Return a model with what the table says where nobody nearer to it has said anything."""
        row = None if provider.cloud is None else self._row(provider.cloud, model.id)
        if row is None:
            return model
        why = f"as of litellm {self.release}"
        facts = {
            need: Fact(value, Source.TABLE, why=why)
            for need, value in _abilities(row).items()
            if need not in model.facts
        }
        length = model.context_length or _length(row.max_input_tokens)
        return replace(model, facts={**facts, **model.facts}, context_length=length)

    def _row(self, cloud: str, model_id: str) -> _Row | None:
        # Some clouds' models stand there under the cloud's name and their own, some under theirs.
        for name in (f"{cloud}/{model_id}", model_id):
            row = self._rows.get(name)
            if row is not None and _is_of(cloud, row.litellm_provider):
                return row
        return None


def read_table(body: bytes, release: str) -> Table:
    """Return the table that a file of this release holds; ValueError when it holds none."""
    try:
        return Table(release, _ROWS.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it is no table of models") from error


def _is_of(cloud: str, named: object) -> bool:
    """Tell whether a row is this cloud's."""
    if not isinstance(named, str):
        return False
    if cloud == _VERTEX:
        # One for each maker of models.
        return named == _VERTEX or named.startswith(f"{_VERTEX}-")
    return named in _PARTS.get(cloud, (cloud,))


def _abilities(row: _Row) -> dict[str, bool]:
    """Return what a row says outright; what it says by name counts more than a list."""
    said: dict[str, bool] = {}
    if isinstance(row.mode, str) and row.mode in _MODES:
        said[str(_MODES[row.mode])] = True
    takes = row.supported_modalities
    for word, need in _MODALITIES.items():
        if isinstance(takes, list) and word in takes:
            said[str(need)] = True
    for key, ability in _SUPPORTS.items():
        if isinstance(value := getattr(row, key), bool):
            said[str(ability)] = value
    return said


def _length(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value < _MAX_LENGTH else None
