"""What a client makes of a stream of responses, by the published meaning of its events alone."""

import json
from typing import Any

from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream; their names and numbers have to be right."""
    events = []
    for number, frame in enumerate(stream.decode().split("\n\n")[:-1]):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the response that a stream ends with, its output made of the pieces alone."""
    items: dict[int, dict[str, Any]] = {}
    done: list[int] = []
    begun, *others, last = events
    assert begun["type"] == "response.created"
    assert others.pop(0)["type"] == "response.in_progress"
    for event in others:
        _take(event, items, done)
    assert sorted(items) == sorted(done) == list(range(len(items)))
    response: dict[str, Any] = last["response"]
    assert last["type"] == f"response.{response['status']}"
    assert begun["response"]["id"] == response["id"]
    return {**response, "output": [items[index] for index in sorted(items)]}


def _take(event: dict[str, Any], items: dict[int, dict[str, Any]], done: list[int]) -> None:
    kind, index = event["type"].removeprefix("response."), event["output_index"]
    assert index not in done
    if kind == "output_item.added":
        assert index == len(items)
        assert event["item"]["status"] == "in_progress"
        items[index] = json.loads(json.dumps(event["item"]))
        return
    item = items[index]
    if kind == "output_item.done":
        done.append(index)
        # What no piece tells.
        for name in item.keys() & {"status", "encrypted_content"}:
            item[name] = event["item"][name]
        assert item == event["item"]
        return
    assert event["item_id"] == item["id"]
    _take_piece(event, item)


def _take_piece(event: dict[str, Any], item: dict[str, Any]) -> None:
    name, _, what = event["type"].removeprefix("response.").rpartition(".")
    match name:
        case "content_part" | "reasoning_summary_part":
            parts = item["content" if name == "content_part" else "summary"]
            place = event.get("content_index", event.get("summary_index"))
            if what == "added":
                assert place == len(parts)
                parts.append(dict(event["part"]))
            assert parts[place] == event["part"]
        case "output_text" | "reasoning_text" | "refusal":
            part = item["content"][event["content_index"]]
            field = "refusal" if name == "refusal" else "text"
            _add(part, field, event, what, "refusal" if name == "refusal" else "text")
            if name == "output_text":
                before = part["logprobs"] if what == "delta" else []
                part["logprobs"] = [*before, *event["logprobs"]]
        case "reasoning_summary_text":
            _add(item["summary"][event["summary_index"]], "text", event, what, "text")
        case "function_call_arguments":
            _add(item, "arguments", event, what, "arguments")
        case "custom_tool_call_input":
            _add(item, "input", event, what, "input")
        case _:
            raise AssertionError(name)


def _add(holder: dict[str, Any], field: str, event: dict[str, Any], what: str, said: str) -> None:
    if what == "delta":
        assert holder[field] is not None
        holder[field] += event["delta"]
    else:
        assert what == "done"
        assert holder[field] == event[said]


def by_the_sdk(events: list[dict[str, Any]]) -> Any:
    """Return the response that the official SDK ends with, None for one that was cut.

    Every event has to be one by its models.
    """
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(_EVENTS.validate_python(event))
    return state._completed_response
