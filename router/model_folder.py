"""What a folder with an MLX model says of it, read from its configuration alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.catalog import Fact, Source

# Configurations have a few KB; what is larger is none.
_MAX_BYTES = 1_000_000
# The backend enforces these by grammar, token by token, whatever the model.
_ENFORCED = ("text", "structured_output", "tool_use")


@dataclass(frozen=True, slots=True)
class Described:
    """Facts of a model, and its context length in tokens where it is told."""

    facts: Mapping[str, Fact] = field(default_factory=dict)
    context_length: int | None = None


def described(folder: Path) -> Described:
    """Return what the folder says; of a configuration that cannot be read nothing is known.

    Without a part that sees nothing is said of vision: some models have it under another name.
    """
    config = _config(folder / "config.json")
    if config is None:
        return Described()
    facts = {need: Fact(value=True, source=Source.PROVIDER) for need in _ENFORCED}
    if isinstance(config.get("vision_config"), dict):
        facts["vision"] = Fact(value=True, source=Source.PROVIDER)
    text = config.get("text_config")
    length = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    known = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return Described(facts, length if known else None)


def _config(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            config = json.loads(opened.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
