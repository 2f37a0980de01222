"""One generation inside the batch: what each of its tokens means for its client."""

from collections.abc import Callable, Sequence

from backends.mlx_backend.detokenize import IncrementalDecoder, StopStrings
from backends.mlx_backend.generation import (
    Begun,
    ChosenToken,
    Finished,
    FinishReason,
    Generation,
    Progress,
    Sink,
    Text,
)


class Row:
    """The answer to one generation as it grows; pure but for the sink it carries.

    `tokens` are all that it got. `room` is how many it may get, and is set with the length of the
    prompt.
    """

    def __init__(
        self,
        generation: Generation,
        sink: Sink,
        *,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
    ) -> None:
        self.generation = generation
        self.sink = sink
        self.tokens: list[int] = []
        # How often a step that it decoded in has failed.
        self.failures = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self._room = 0
        self._ends = ends | generation.stop_ids
        self._decoder = IncrementalDecoder(decode)
        self._stops = StopStrings(generation.stop)

    def __repr__(self) -> str:
        return f"<Row prompt={self.prompt_tokens} produced={len(self.tokens)}>"

    def begin(self, begun: Begun, room: int) -> bool:
        """Take note that the prompt is read; False where it was before, and nothing is told."""
        if self.prompt_tokens:
            return False
        self.prompt_tokens = begun.prompt_tokens
        self.cached_tokens = begun.cached_tokens
        self._room = room
        self.sink(begun)
        return True

    def take(
        self, token: int, chances: ChosenToken | None = None
    ) -> tuple[Text | Progress, Finished | None]:
        """Take one token; return what is new, and the end where this is it."""
        self.tokens.append(token)
        reason: FinishReason | None = None
        if token in self._ends:
            reason = "stop"
        elif len(self.tokens) >= self._room:
            reason = "length"
        # The token that ends an answer is counted, and is no part of its text.
        text = "" if reason == "stop" else self._stops.push(self._decoder.push(token))
        if reason is not None:
            text += self._stops.push(self._decoder.flush())
            text += self._stops.flush()
        if self._stops.hit:
            reason = "stop"
        told = (chances,) if chances is not None and token not in self._ends else ()
        event = Text(text, told) if text or told else Progress()
        if reason is None:
            return event, None
        return event, Finished(reason, self.prompt_tokens, len(self.tokens), self.cached_tokens)
