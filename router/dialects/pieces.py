"""What a chat server answers, whole or in chunks, read piece by piece.

Servers differ: fields are null or absent, thoughts have two names, choices come that nobody asked
for. Whatever a client speaks, its answer is put together of the pieces that are read here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from router.dialects.calls import Called, Calls
from router.dialects.shapes import invalid, list_of, object_of, text_of
from router.dialects.tokens import Tokens, tokens_of

Kind = Literal["thinking", "text", "refusal"]
Logprob = dict[str, Any]

# OpenAI has no such end; OpenRouter says so when its provider failed.
_FAILED: Final = "error"
_CUT: Final = "length"


class Said(NamedTuple):
    """A piece of a thought, of what is said, or of why it is not said.

    `logprobs` tell of a text's tokens, of which one may be a part of a letter: then there is no
    text.
    """

    kind: Kind
    text: str
    logprobs: Sequence[Logprob] = ()


Piece = Said | Called


class Reader:
    """Reads one answer. `call_prefix` is what ids of calls are made of that the server left out.

    What has been told beside the pieces so far: `model`, "" for none; `finish`, the reason why the
    answer ended, and `stopped_by`, the text at which it did; the `tokens`; whether it `refused`.
    """

    def __init__(self, call_prefix: str, *, logprobs: bool = False) -> None:
        self.model = ""
        self.finish = ""
        self.stopped_by = ""
        self.tokens: Tokens | None = None
        self.refused = False
        self._reads_logprobs = logprobs
        self._calls = Calls(call_prefix)

    def __repr__(self) -> str:
        return f"<Reader {self._calls} finish={self.finish!r}>"

    @property
    def was_cut(self) -> bool:
        """Whether the answer ended where its length did, and not where it would have."""
        return self.finish == _CUT

    @property
    def called(self) -> bool:
        """Whether something was called."""
        return len(self._calls) > 0

    def whole(self, chat: Mapping[str, Any]) -> list[Piece]:
        """Return the pieces of a whole answer; StreamFailed for what is none."""
        choice = self._choice(object_of(chat, "an answer"))
        if choice is None:
            raise invalid("no choice")
        if choice.get("message") is None:
            raise invalid("a choice without a message")
        return [*self._pieces(choice, "message"), *self.end()]

    def chunk(self, chunk: Mapping[str, Any]) -> list[Piece]:
        """Return the pieces of a chunk; StreamFailed for what none may be."""
        choice = self._choice(chunk)
        return [] if choice is None else list(self._pieces(choice, "delta"))

    def end(self) -> list[Piece]:
        """Return what waited for more, at the end; StreamFailed for a call without a name."""
        return list(self._calls.end())

    def _choice(self, chat: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the choice that was asked for, and take note of what stands beside it.

        One answer was, and it is the first: others are nobody's.
        """
        model = chat.get("model")
        if isinstance(model, str) and model:
            self.model = model
        self.tokens = tokens_of(chat) or self.tokens
        for each in list_of(chat, "choices"):
            if not isinstance(each, dict):
                raise invalid("a choice that is no object")
            if each.get("index") in (0, None):
                self._note_end(each)
                return each
        return None

    def _note_end(self, choice: Mapping[str, Any]) -> None:
        self.finish = text_of(choice, "finish_reason") or self.finish
        if self.finish == _FAILED:
            raise invalid("an answer that ended in an error of the model's")
        # The first is vLLM's, the second SGLang's: the text, or a token's number.
        for name in ("stop_reason", "matched_stop"):
            if isinstance(choice.get(name), str):
                self.stopped_by = choice[name]

    def _pieces(
        self, choice: Mapping[str, Any], part: Literal["message", "delta"]
    ) -> Iterator[Piece]:
        told = object_of(choice.get(part), f"a {part}")
        logprobs = list(_logprobs(choice)) if self._reads_logprobs else []
        for said in (
            Said("thinking", text_of(told, "reasoning_content") or text_of(told, "reasoning")),
            Said("text", text_of(told, "content"), logprobs),
            Said("refusal", text_of(told, "refusal")),
        ):
            if said.text:
                yield from self._calls.begin_all()
            if said.text or said.logprobs:
                yield said
            if said.text and said.kind == "refusal":
                self.refused = True
        yield from self._calls.take(list_of(told, "tool_calls"), whole=part == "message")


def _logprobs(choice: Mapping[str, Any]) -> Iterator[Logprob]:
    told = object_of(choice.get("logprobs"), "logprobs")
    for token in list_of(told, "content"):
        yield {
            **_chance(token),
            "top_logprobs": [_chance(other) for other in list_of(token, "top_logprobs")],
        }


def _chance(token: Any) -> Logprob:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        raise invalid("a log probability that names no token")
    return {
        "token": token["token"],
        "logprob": token.get("logprob"),
        "bytes": token.get("bytes") or [],
    }
