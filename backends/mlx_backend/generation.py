"""What passes between the event loop and the MLX thread: a generation, and what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.template_variables import Variable
from backends.wire import LoadPhase, Priority

FinishReason = Literal["stop", "length"]
Detail = Literal["auto", "low", "high"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; None stands for the model's own default.

    `logit_bias` maps token ids to what is added to their logits. `top_logprobs` None: no log
    probabilities are wanted; else how many alternatives are told a token, 0 to 20.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as it was sent; `detail` says how much of it the model should see."""

    data: bytes
    detail: Detail = "auto"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON Schema of its arguments.

    `index` is its place among the tools of the request.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    index: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must be, token by token.

    With `schema`, the whole answer fits this JSON Schema. With `tools`, it is text in which calls
    of these may stand, or, where `forced`, at least one call and nothing else; more than one call
    only where `parallel`. With both, it fits the schema or is nothing but calls.
    """

    schema: Mapping[str, Any] | bool | None = None
    tools: tuple[Tool, ...] = ()
    forced: bool = False
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to be generated.

    `messages` hold strings, or lists of text parts and image markers; the images themselves stand
    in `images`, in the order of their markers. An assistant's `tool_calls` hold their arguments
    as objects. `queue_s` is how long it may wait in the queue. `variables` are told the chat
    template besides.
    """

    model: str
    folder: Path
    messages: Sequence[dict[str, Any]]
    images: Sequence[Picture]
    sampling: Sampling
    max_tokens: int | None
    stop: tuple[str, ...]
    priority: Priority
    stop_ids: frozenset[int] = frozenset()
    tools: tuple[Tool, ...] = ()
    constraint: Constraint | None = None
    queue_s: float | None = None
    variables: Mapping[str, Variable] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The generation left the queue; its deadlines run from now."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt is read: `cached_tokens` of it came out of a cache.

    `thinking`: the prompt ends inside the model's reasoning, which the answer goes on with.
    """

    prompt_tokens: int
    cached_tokens: int
    thinking: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """A step was taken for it that brought no text: part of a prompt, or half a character."""


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token and the natural logarithm of its probability; `raw` are its bytes."""

    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """A token of the answer, and the likeliest ones in its place, first the likeliest."""

    chosen: TokenChance
    top: tuple[TokenChance, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer, cut at whole characters and never beyond a stop string.

    `tokens` is empty unless log probabilities were asked for.
    """

    text: str
    tokens: tuple[ChosenToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; `completion_tokens` counts every token generated, the last too."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer ends here, for this reason."""

    error: ChatError


Event = Admitted | Begun | Progress | Text | Finished | Failed
# Called on any thread; must not block.
Sink = Callable[[Event], None]
# Hears how far a load is: from 0 to 1 of a phase, on the MLX thread.
LoadProgress = Callable[[LoadPhase, float], None]


@dataclass(slots=True)
class Totals:
    """What was done since the start; `worst_image_s` is the longest that one image took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    images: int = 0
    worst_image_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """How far a load is: `percent` of this phase, `seconds` since its beginning.

    `stalled_s` is how long nothing has been heard of it.
    """

    model: str
    phase: LoadPhase
    percent: int
    seconds: float
    stalled_s: float


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the engine is doing.

    `models` are the loaded ones, first the one that was loaded first; `loading` is the one that is
    being loaded. `why` says why it is serial, and is empty where it batches. `memory_mb` is what
    MLX holds, weights and caches together; `step_s` how long the step that is under way has taken,
    0 during a load.
    """

    state: Literal["idle", "loading", "loaded"]
    models: tuple[str, ...]
    loading: LoadStatus | None
    why: str
    queued: Mapping[Priority, int]
    prefilling: int
    decoding: int
    paused: int
    memory_mb: float
    loads: int
    step_s: float
    events: Mapping[str, int]
    totals: Totals

    @property
    def active(self) -> int:
        """How many generations have left the queue."""
        return self.prefilling + self.decoding + self.paused
