"""What the MLX thread is told to do next: one action at a time, each a single unit of work."""

from dataclasses import dataclass

from backends.wire import UnloadReason


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model beside those that are loaded; its memory has been made free."""

    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Give back this model's memory; it has no row."""

    model: str
    reason: UnloadReason


@dataclass(frozen=True, slots=True)
class Admit:
    """Render and tokenize this request; it holds a slot from now on. No step of a model."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """Take one step for this row's prompt: a chunk of tokens or one image."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Take one token for every decoding row of this model, or for the one that decodes alone."""

    model: str
    alone: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Take this row out of its batch and keep its cache."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Put this paused row back where it was: into prefilling or into its batch."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Give back this paused row's cache.

    Once resumed it is prefilled again, from its prompt and what has been generated.
    """

    ticket: int


@dataclass(frozen=True, slots=True)
class Expire:
    """Refuse this request: it has waited for as long as it may, and has left the queue."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Let the system page out what nobody uses; the models stay."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time, or before something is submitted where it is None."""

    until: float | None


Action = Load | Unload | Admit | Prefill | Decode | Pause | Resume | Drop | Expire | Rest | Wait
