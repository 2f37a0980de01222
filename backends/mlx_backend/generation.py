"""What passes between the event loop and the MLX thread: a generation, and what becomes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.mlx_backend.errors import ChatError
from backends.wire import Priority

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; None stands for the model's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to be generated.

    `messages` hold strings, or lists of text parts and image markers; the bytes of the images
    stand in `images`, in the order of their markers.
    """

    model: str
    folder: Path
    messages: Sequence[dict[str, Any]]
    images: Sequence[bytes]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    priority: Priority


@dataclass(frozen=True, slots=True)
class Admitted:
    """The generation left the queue; its deadlines run from now."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A step was taken for it that brought no text: part of a prompt, or half a character."""


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer, cut at whole characters and never beyond a stop string."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; `completion_tokens` counts every token generated, the last too."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends here, for this reason."""

    error: ChatError


Event = Admitted | Progress | Text | Finished | Failed
# Called on any thread; must not block.
Sink = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the engine is doing; `memory_mb` is what MLX holds, weights and caches together."""

    state: Literal["idle", "loading", "loaded"]
    model: str | None
    queue: int
    active: int
    memory_mb: float
    loads: int
