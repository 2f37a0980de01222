"""The items of an answer as they come to be, each with the events that tell of it.

One item at a time says or thinks something; calls come after it, several of them open at once,
since chat completions may mix their pieces.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from router.dialects.responses.reasoning import sealed
from router.dialects.responses.tools import Tool, input_of_custom

Event = dict[str, Any]
_COMPLETED, _INCOMPLETE = "completed", "incomplete"


class Item:
    """One item of the output. `index` is its place there; `spelled` is what it has become.

    Whoever ends it appends nothing more.
    """

    prefix = ""

    def __init__(self, index: int, request_id: str, events: list[Event]) -> None:
        self.index = index
        self.id = f"{self.prefix}_{request_id}_{index}"
        self.spelled: dict[str, Any] = {}
        self._events = events

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def _tell(self, kind: str, **more: Any) -> None:
        self._events.append(
            {
                "type": f"response.{kind}",
                "item_id": self.id,
                "output_index": self.index,
                **more,
            }
        )

    def _tell_item(self, kind: str, item: dict[str, Any]) -> None:
        self._events.append(
            {"type": f"response.output_item.{kind}", "output_index": self.index, "item": item}
        )

    def _begin(self, **more: Any) -> None:
        self.spelled = {"id": self.id, "status": "in_progress", **more}
        self._tell_item("added", self.spelled)

    def _end(self, *, cut: bool, **more: Any) -> None:
        # A new object: what was told before is not to change.
        self.spelled = {**self.spelled, "status": _INCOMPLETE if cut else _COMPLETED, **more}
        self._tell_item("done", self.spelled)


class Reasoning(Item):
    """What the model thought. With `summarized` the client reads it where it expects a summary."""

    prefix = "rs"

    def __init__(
        self, index: int, request_id: str, events: list[Event], *, summarized: bool
    ) -> None:
        super().__init__(index, request_id, events)
        self._summarized = summarized
        self._text: list[str] = []
        if summarized:
            self._begin(type="reasoning", summary=[], encrypted_content=None)
            self._tell("reasoning_summary_part.added", summary_index=0, part=self._part(""))
        else:
            self._begin(type="reasoning", summary=[], content=[], encrypted_content=None)
            self._tell("content_part.added", content_index=0, part=self._part(""))

    def add(self, text: str) -> None:
        """Think on."""
        self._text.append(text)
        if self._summarized:
            self._tell("reasoning_summary_text.delta", summary_index=0, delta=text)
        else:
            self._tell("reasoning_text.delta", content_index=0, delta=text)

    def end(self, *, cut: bool = False) -> None:
        """Come to an end, or be `cut`."""
        text = "".join(self._text)
        part = self._part(text)
        if self._summarized:
            self._tell("reasoning_summary_text.done", summary_index=0, text=text)
            self._tell("reasoning_summary_part.done", summary_index=0, part=part)
            self._end(cut=cut, summary=[part], encrypted_content=sealed(text))
        else:
            self._tell("reasoning_text.done", content_index=0, text=text)
            self._tell("content_part.done", content_index=0, part=part)
            self._end(cut=cut, content=[part], encrypted_content=sealed(text))

    def _part(self, text: str) -> dict[str, str]:
        return {"type": "summary_text" if self._summarized else "reasoning_text", "text": text}


class Message(Item):
    """What the model said: parts of text, or of refusal."""

    prefix = "msg"

    def __init__(self, index: int, request_id: str, events: list[Event]) -> None:
        super().__init__(index, request_id, events)
        self._parts: list[dict[str, Any]] = []
        self._kind: str | None = None
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._begin(type="message", role="assistant", content=[])

    def say(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> None:
        """Say more; `logprobs` tell of its tokens."""
        self._be("output_text")
        self._text.append(text)
        self._logprobs += logprobs
        self._tell(
            "output_text.delta", content_index=self._place, delta=text, logprobs=list(logprobs)
        )

    def refuse(self, text: str) -> None:
        """Say more of why not."""
        self._be("refusal")
        self._text.append(text)
        self._tell("refusal.delta", content_index=self._place, delta=text)

    def end(self, *, cut: bool = False) -> None:
        """Come to an end, or be `cut`."""
        self._end_part()
        self._end(cut=cut, content=self._parts)

    @property
    def _place(self) -> int:
        return len(self._parts)

    def _be(self, kind: str) -> None:
        """See that the open part is of this kind."""
        if self._kind != kind:
            self._end_part()
            self._kind = kind
            self._tell("content_part.added", content_index=self._place, part=self._part())

    def _end_part(self) -> None:
        if self._kind is None:
            return
        part, place = self._part(), self._place
        if self._kind == "refusal":
            self._tell("refusal.done", content_index=place, refusal=part["refusal"])
        else:
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            self._tell("output_text.done", content_index=place, **done)
        self._tell("content_part.done", content_index=place, part=part)
        self._parts.append(part)
        self._kind, self._text, self._logprobs = None, [], []

    def _part(self) -> dict[str, Any]:
        text = "".join(self._text)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {
            "type": "output_text",
            "annotations": [],
            "logprobs": self._logprobs[:],
            "text": text,
        }


class Call(Item):
    """A call of a function."""

    prefix = "fc"

    def __init__(
        self, index: int, request_id: str, events: list[Event], *, tool: Tool, call_id: str
    ) -> None:
        super().__init__(index, request_id, events)
        self._arguments: list[str] = []
        space = {"namespace": tool.namespace} if tool.namespace else {}
        self._start({"call_id": call_id, "name": tool.name, **space})

    def _start(self, who: Mapping[str, Any]) -> None:
        self._begin(type="function_call", **who, arguments="")

    def add(self, text: str) -> None:
        """Take more of the arguments."""
        self._arguments.append(text)
        self._tell("function_call_arguments.delta", delta=text)

    def end(self, *, cut: bool = False) -> None:
        """Come to an end, or be `cut`; no arguments at all are none."""
        if not self._arguments and not cut:
            self.add("{}")
        text = "".join(self._arguments)
        self._tell("function_call_arguments.done", arguments=text)
        self._end(cut=cut, arguments=text)


class CustomCall(Call):
    """A call of a custom tool, whose input stands in the arguments of the function it became.

    It is told at the end, as a whole: what it is shows only then.
    """

    prefix = "ctc"

    def _start(self, who: Mapping[str, Any]) -> None:
        self._begin(type="custom_tool_call", **who, input="")

    def add(self, text: str) -> None:
        """Take more of the arguments."""
        self._arguments.append(text)

    def end(self, *, cut: bool = False) -> None:
        """Come to an end, or be `cut`."""
        spelled = "".join(self._arguments)
        try:
            arguments = msgspec.json.decode(spelled)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
        text = input_of_custom(arguments, spelled)
        self._tell("custom_tool_call_input.delta", delta=text)
        self._tell("custom_tool_call_input.done", input=text)
        self._end(cut=cut, input=text)
