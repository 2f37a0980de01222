"""Validation errors as lines that a person can act on: where, what, and what was probably meant."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.settings.sources import Layers, SettingsError

Path = tuple[str, ...]
# Stands in a path for a name that the user chooses.
ANY = "*"


def key_paths(model: type[BaseModel]) -> list[Path]:
    """Return the path of every key of a tree of models, `*` standing for the user's names."""
    return list(dict.fromkeys(_walk(model, ())))


def _walk(annotation: Any, path: Path) -> Iterator[Path]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield (*path, name)
            yield from _walk(field.annotation, (*path, name))
    elif get_origin(annotation) is Mapping:
        yield from _walk(get_args(annotation)[1], (*path, ANY))
    else:
        for part in get_args(annotation):
            yield from _walk(part, path)


def settings_error(error: ValidationError, layers: Layers, model: type[BaseModel]) -> SettingsError:
    """Return the same faults, one line each: its source, its path, what is due."""
    lines = [layers.fault(path, text) for path, text in told_faults(error, model)]
    return SettingsError(dict.fromkeys(lines))


def told_faults(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Path, str]]:
    """Yield the path of each fault, and what is due there."""
    known = key_paths(model)
    for detail in error.errors(include_url=False, include_input=False):
        path = _place(detail)
        yield path, _text(detail, path, known)


def _place(detail: ErrorDetails) -> Path:
    parts = [str(part) for part in detail["loc"] if part != "[key]"]
    # Inside a union pydantic names the member too: providers.<name>.<kind>.<key>.
    if parts[:1] == ["providers"] and len(parts) > 3:  # noqa: PLR2004 section, name, kind, key
        del parts[2]
    return tuple(parts)


_TEXTS = {
    "missing": "this key is missing",
    "union_tag_not_found": "kind must be builtin, ollama, openai, litellm or process",
    "union_tag_invalid": "kind must be builtin, ollama, openai, litellm or process",
}


def _text(detail: ErrorDetails, path: Path, known: list[Path]) -> str:
    is_name = detail["loc"][-1] == "[key]"
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key" + _guess(path, known)
        case "value_error":
            return str(detail["ctx"]["error"])
        case "enum" if is_name:
            return f"unknown name, not one of {detail['ctx']['expected']}"
        case "string_pattern_mismatch" if is_name:
            return "a name is made of letters, digits, dots, dashes and underscores"
        case kind:
            return _TEXTS.get(kind) or detail["msg"].removeprefix("Input ")


def _guess(path: Path, known: list[Path]) -> str:
    here = [key[-1] for key in known if _matches(key[:-1], path[:-1])]
    if close := difflib.get_close_matches(path[-1], here, n=1):
        return f" (did you mean {close[0]}?)"
    # A known key in the wrong section.
    elsewhere = [key for key in known if key[-1] == path[-1] and ANY not in key]
    return f" (did you mean {'.'.join(elsewhere[0])}?)" if len(elsewhere) == 1 else ""


def _matches(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(
        part in {ANY, name} for part, name in zip(pattern, path, strict=True)
    )
