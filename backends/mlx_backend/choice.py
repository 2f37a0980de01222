"""One choice of an answer: what the engine says of it, and what that means for the client."""

from dataclasses import dataclass
from typing import Literal

from backends.mlx_backend.deltas import AnswerParser, Content, Delta
from backends.mlx_backend.generation import Begun, ChosenToken, Finished, Text

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Piece:
    """More of a choice; `tokens` are those of its content, where log probabilities are wanted."""

    delta: Delta
    tokens: tuple[ChosenToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a choice ended, in OpenAI's words, and what it took.

    `reasoning_tokens` counts pieces of text: a character of several tokens counts once.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Choice:
    """Reads one generation's events; pure. `ended` is None until the last one.

    `tools`: calls are looked for. `named`: the client chose the call, which OpenAI ends with `stop`
    as if it were text.
    """

    def __init__(self, *, tools: bool, named: bool) -> None:
        self.ended: Ended | None = None
        self._tools = tools
        self._named = named
        self._parser = AnswerParser(tools=tools, thinking=False)
        # Tokens whose text the parser still holds.
        self._tokens: tuple[ChosenToken, ...] = ()
        self._reasoning_tokens = 0

    def __repr__(self) -> str:
        return f"<Choice {self._parser!r} ended={self.ended}>"

    def take(self, event: Begun | Text | Finished) -> list[Piece]:
        """Return what an event means for the client."""
        match event:
            case Begun(thinking=thinking):
                self._parser = AnswerParser(tools=self._tools, thinking=thinking)
                return []
            case Text():
                return self._read(event)
            case Finished():
                pieces = self._pieces(self._parser.finish())
                self.ended = self._end(event)
                return pieces

    def _read(self, event: Text) -> list[Piece]:
        reasoned, called = self._parser.reasons, self._parser.calls_tool
        self._tokens += event.tokens
        pieces = self._pieces(self._parser.push(event.text))
        self._reasoning_tokens += reasoned or self._parser.reasons
        if reasoned or called or self._parser.reasons or self._parser.calls_tool:
            # What is no content has no log probabilities; nor has the marker that ends it.
            self._tokens = ()
        return pieces

    def _pieces(self, deltas: list[Delta]) -> list[Piece]:
        pieces = []
        for delta in deltas:
            tokens: tuple[ChosenToken, ...] = ()
            if isinstance(delta, Content):
                tokens, self._tokens = self._tokens, ()
            pieces.append(Piece(delta, tokens))
        return pieces

    def _end(self, event: Finished) -> Ended:
        called = event.reason == "stop" and self._parser.calls and not self._named
        return Ended(
            "tool_calls" if called else event.reason,
            event.prompt_tokens,
            event.completion_tokens,
            event.cached_tokens,
            min(self._reasoning_tokens, event.completion_tokens),
        )
