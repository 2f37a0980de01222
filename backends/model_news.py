"""What a process tells of its models: as a line of its pipe, and put together."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from backends.wire import (
    NEWS_NAMES,
    LoadPhase,
    ModelEvent,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoading,
    ModelNews,
    ModelUnloaded,
    UnloadReason,
)

_TEXT = 500


def spell(news: ModelNews) -> dict[str, Any]:
    """Return news as the line's one field."""
    return {NEWS_NAMES[type(news)]: asdict(news)}


def parse(line: Mapping[str, Any]) -> ModelNews | None:
    """Read a line; None where it holds no news of a model, or none that can be understood."""
    for name, read in _READERS.items():
        if name in line:
            try:
                return read(line[name])
            except (KeyError, TypeError, ValueError, OverflowError):
                return None
    return None


def _text(fields: Mapping[str, Any], name: str) -> str:
    return str(fields[name])[:_TEXT]


_READERS: Mapping[str, Callable[[Mapping[str, Any]], ModelNews]] = {
    NEWS_NAMES[ModelLoading]: lambda fields: ModelLoading(
        _text(fields, "model"),
        LoadPhase(fields["phase"]),
        min(max(int(fields["percent"]), 0), 100),
    ),
    NEWS_NAMES[ModelLoaded]: lambda fields: ModelLoaded(
        _text(fields, "model"), float(fields["load_s"])
    ),
    NEWS_NAMES[ModelLoadFailed]: lambda fields: ModelLoadFailed(
        _text(fields, "model"), _text(fields, "message")
    ),
    NEWS_NAMES[ModelUnloaded]: lambda fields: ModelUnloaded(
        _text(fields, "model"), UnloadReason(fields["reason"])
    ),
}


class ModelBoard:
    """The models of one run of a process, by what it says; `emit` hears all of it."""

    def __init__(self, process: str, emit: Callable[[ModelEvent], object]) -> None:
        self._process = process
        self._emit = emit
        self._loaded: dict[str, None] = {}
        self.loading: ModelLoading | None = None

    def __repr__(self) -> str:
        return f"<ModelBoard {', '.join(self._loaded)} loading={self.loading}>"

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, first the one that was loaded first."""
        return tuple(self._loaded)

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take note of a line, if it is about a model."""
        news = parse(line)
        if news is not None:
            self._note(news)

    def clear(self) -> None:
        """Take note that the process has gone, and its models with it."""
        if self.loading is not None:
            text = "the process ended while it was loading"
            self._note(ModelLoadFailed(self.loading.model, text))
        for model in self.loaded:
            self._note(ModelUnloaded(model, UnloadReason.ENDED))

    def _note(self, news: ModelNews) -> None:
        self.loading = news if isinstance(news, ModelLoading) else None
        match news:
            case ModelLoaded(model=model):
                self._loaded[model] = None
            case ModelUnloaded(model=model):
                self._loaded.pop(model, None)
        self._emit(ModelEvent(self._process, news))
