"""One generation inside the batch: what each of its tokens means for its client."""

from collections.abc import Callable, Sequence

from backends.mlx_backend.detokenize import IncrementalDecoder, StopStrings
from backends.mlx_backend.generation import Finished, FinishReason, Progress, Sink, Text


class Row:
    """A row of the batch, known there by `uid`; pure but for the sink it carries."""

    def __init__(
        self,
        uid: int,
        prompt_tokens: int,
        *,
        sink: Sink,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
    ) -> None:
        self.uid = uid
        self.sink = sink
        self._prompt_tokens = prompt_tokens
        self._produced = 0
        self._decoder = IncrementalDecoder(decode)
        self._stops = StopStrings(stop)

    def __repr__(self) -> str:
        return f"<Row {self.uid} prompt={self._prompt_tokens} produced={self._produced}>"

    def take(
        self, token: int, reason: FinishReason | None
    ) -> tuple[Text | Progress, Finished | None]:
        """Take one token, and why it is the last where it is.

        Returns what is new, and the end where this is it: by `reason`, or by a stop string, which
        the batch does not know of.
        """
        self._produced += 1
        # The token that ends an answer is counted, and is no part of its text.
        text = "" if reason == "stop" else self._stops.push(self._decoder.push(token))
        if reason is not None:
            text += self._stops.push(self._decoder.flush())
            text += self._stops.flush()
        if self._stops.hit:
            reason = "stop"
        event = Text(text) if text else Progress()
        if reason is None:
            return event, None
        return event, Finished(reason, self._prompt_tokens, self._produced)
