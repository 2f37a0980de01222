"""What a chat server answers, whole or in chunks, read piece by piece.

Servers differ: fields are null or absent, thoughts have two names, calls come whole or cut
anywhere, without an index, or all with the same one. ValueError is raised for what no answer may
be.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from router.usage import usage_of

Kind = Literal["thinking", "text", "tool_use"]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]

# OpenAI has no such end; OpenRouter says so when its provider failed.
_FAILED: Final = "error"
_CUT: Final = "length"


class Piece(NamedTuple):
    """A piece of the answer: of a thought, of what is said, or of the arguments of a call.

    Calls are numbered as they begin, from 0; the first piece of one has its `id` and `name`.
    """

    kind: Kind
    text: str
    call: int = -1
    id: str = ""
    name: str = ""


class Reader:
    """Reads one answer. `request_id` is what ids are made of that the server left out.

    What has been told beside the pieces: `model`, the reason why the answer ended, the tokens.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.model = ""
        self.finish = ""
        self.answered = False
        self._stopped_by = ""
        self._refused = False
        self._usage: dict[str, Any] = {}
        # The id of each call, what the server told of it, and which one an index means.
        self._ids: list[str] = []
        self._told_ids: list[str] = []
        self._taken: set[str] = set()
        self._by_index: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Reader calls={len(self._ids)} finish={self.finish!r}>"

    @property
    def was_cut(self) -> bool:
        """Whether the answer ended where its length did, and not where it would have."""
        return self.finish == _CUT

    def read(self, answer: Mapping[str, Any], part: Literal["message", "delta"]) -> list[Piece]:
        """Return the pieces of a whole answer, or of a chunk, whose choice holds them as `part`."""
        model = answer.get("model")
        if isinstance(model, str) and model:
            self.model = model
        if isinstance(answer.get("usage"), dict):
            self._usage = {"usage": answer["usage"]}
        pieces: list[Piece] = []
        for choice in _list(answer.get("choices"), "choices"):
            # One answer was asked for, and the others are nobody's.
            if _object(choice, "a choice").get("index") in (0, None):
                self._note_end(choice)
                said = choice.get(part)
                if said is not None or part == "message":
                    pieces += self._pieces(_object(said, part), whole=part == "message")
        return pieces

    def stop(self, sequences: list[str]) -> tuple[StopReason, str | None]:
        """Return why the answer ended, and at which of `sequences` where the server tells."""
        if self.finish == _FAILED:
            raise ValueError("the answer ended in an error of the model's")
        if self.was_cut:
            return "max_tokens", None
        if self._refused or self.finish == "content_filter":
            return "refusal", None
        # Several servers say `stop` although there are calls.
        if self._ids:
            return "tool_use", None
        if self._stopped_by in sequences:
            return "stop_sequence", self._stopped_by
        return "end_turn", None

    def usage(self) -> dict[str, Any]:
        """Return the tokens in Anthropic's words: what was known of the prompt counts apart."""
        told = usage_of(self._usage)
        # The protocol has a number here in any case.
        prompt, completion = told or (0, 0)
        cached = _detail(self._usage, "prompt_tokens_details", "cached_tokens")
        usage: dict[str, Any] = {
            "input_tokens": max(0, prompt - (cached or 0)),
            "output_tokens": completion,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": cached,
        }
        thought = _detail(self._usage, "completion_tokens_details", "reasoning_tokens")
        if thought is not None:
            usage["output_tokens_details"] = {"thinking_tokens": thought}
        return usage

    def _note_end(self, choice: Mapping[str, Any]) -> None:
        self.answered = True
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish:
            self.finish = finish
        # The first is vLLM's, the second SGLang's: the text, or a token's number.
        for name in ("stop_reason", "matched_stop"):
            if isinstance(choice.get(name), str):
                self._stopped_by = choice[name]

    def _pieces(self, said: Mapping[str, Any], *, whole: bool) -> list[Piece]:
        refusal = _text(said, "refusal")
        self._refused = self._refused or bool(refusal)
        pieces = [
            Piece("thinking", _text(said, "reasoning_content") or _text(said, "reasoning")),
            Piece("text", _text(said, "content")),
            Piece("text", refusal),
        ]
        calls = [
            self._call(_object(call, "a tool call"), place, whole=whole)
            for place, call in enumerate(_list(said.get("tool_calls"), "tool_calls"))
        ]
        return [*(piece for piece in pieces if piece.text), *calls]

    def _call(self, call: Mapping[str, Any], place: int, *, whole: bool) -> Piece:
        function = _object(call.get("function"), "function")
        name, index = _text(function, "name"), call.get("index")
        if type(index) is int and not whole:
            place = index
        number = self._number(place, _text(call, "id"), begins=bool(name))
        return Piece("tool_use", _text(function, "arguments"), number, self._ids[number], name)

    def _number(self, index: int, own: str, *, begins: bool) -> int:
        """Return which call a piece belongs to; at an index that is new another one begins.

        So does one that begins with an id that is not the one before: some servers give all calls
        the same index.
        """
        known = self._by_index.get(index)
        if known is not None and (not begins or own in ("", self._told_ids[known])):
            return known
        number = self._by_index[index] = len(self._ids)
        self._told_ids.append(own)
        # Results name their call by it, so that it is never that of two.
        taken = not own or own in self._taken
        self._ids.append(f"toolu_{self._request_id}_{number}" if taken else own)
        self._taken.add(self._ids[number])
        return number


def _list(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} that is no list")  # noqa: TRY004 the one error of a bad answer
    return value


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} that is no object")  # noqa: TRY004 the one error of a bad answer
    return value


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} that is no text")  # noqa: TRY004 the one error of a bad answer
    return value


def _detail(answer: Mapping[str, Any], group: str, name: str) -> int | None:
    """Return a number from the details of the tokens; None where it is not told."""
    details = answer.get("usage", {}).get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return value if type(value) is int and value >= 0 else None
