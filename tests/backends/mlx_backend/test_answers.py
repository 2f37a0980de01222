import asyncio
import gc
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backends.mlx_backend.answers import ChatAnswer
from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    Begun,
    Event,
    Failed,
    Finished,
    Generation,
    Sink,
    Text,
)
from backends.mlx_backend.inbox import Deadlines, Inbox
from backends.wire import Priority
from tests.backends.mlx_backend.requests import chat, named, tool

CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
STOP = Finished("stop", 9, 2, 4)
WHY = ChatError("generation_failed", "why")


class ScriptedEngine:
    """Says what it is told to, choice by choice, as soon as a generation is submitted."""

    def __init__(self, *scripts: Sequence[Event] | ChatError) -> None:
        self._scripts = scripts
        self.submitted: list[Generation] = []
        self.sinks: list[Sink] = []
        self.cancelled: list[int] = []

    def submit(self, generation: Generation, sink: Sink) -> int:
        script = self._scripts[len(self.submitted)]
        if isinstance(script, ChatError):
            raise script
        self.submitted.append(generation)
        self.sinks.append(sink)
        for event in script:
            sink(event)
        return 100 + len(self.submitted)

    def cancel(self, ticket: int) -> None:
        self.cancelled.append(ticket)


class Client:
    """One who asks by ASGI; `hang_up` closes the connection, `sent` is what came."""

    def __init__(self, **headers: str) -> None:
        raw = [(key.replace("_", "-").encode(), text.encode()) for key, text in headers.items()]
        self._scope = {"type": "http", "headers": raw}
        self._gone = asyncio.Event()
        self.sent: list[Any] = []
        self.heard = asyncio.Event()

    async def ask(self, engine: ScriptedEngine, **fields: Any) -> None:
        request = chat(**fields)
        generations = request.generations(Path("models"), Priority.LOW)
        answer = ChatAnswer(engine, request, generations, Deadlines(), Delivery())
        await answer(self._scope, self._receive, self._send)

    def hang_up(self) -> None:
        self._gone.set()

    @property
    def status(self) -> int:
        status = self.sent[0]["status"]
        assert isinstance(status, int)
        return status

    @property
    def body(self) -> bytes:
        assert [message["type"] for message in self.sent[1:]] == ["http.response.body"] * (
            len(self.sent) - 1
        )
        assert not self.sent[-1].get("more_body")
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def events(self) -> list[Any]:
        """The payloads of a stream."""
        payloads = [event.removeprefix("data: ") for event in self.body.decode().split("\n\n")]
        return [text if text == "[DONE]" else json.loads(text) for text in payloads[:-1]]

    async def _receive(self) -> dict[str, str]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        self.heard.set()


def says(*texts: str, thinking: bool = False) -> list[Event]:
    """Return what a generation says from its admission to its end."""
    return [Admitted(), Begun(9, 4, thinking=thinking), *map(Text, texts), STOP]


def deltas(events: Sequence[Any], index: int = 0) -> list[Any]:
    """Return what the chunks of a stream add to one choice."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return [choice["delta"] for choice in choices if choice["index"] == index]


def reasons(events: Sequence[Any]) -> dict[int, str]:
    """Return why the choices of a stream ended."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return {
        choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]
    }


async def test_a_whole_answer() -> None:
    """An answer that is not streamed comes with its length, and lets go of its ticket."""
    engine, client = ScriptedEngine(says("a", " b")), Client()
    await client.ask(engine)
    assert client.status == 200
    headers = dict(client.sent[0]["headers"])
    assert headers[b"content-length"] == b"%d" % len(client.body)
    answer = json.loads(client.body)
    assert answer["choices"][0]["message"]["content"] == "a b"
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert engine.cancelled == [101]


async def test_a_streamed_answer() -> None:
    """A stream is the role, the text in pieces, the end, usage where asked for, and [DONE]."""
    engine, client = ScriptedEngine(says("a", " b")), Client()
    await client.ask(engine, stream=True, stream_options={"include_usage": True})
    assert dict(client.sent[0]["headers"])[b"content-type"] == b"text/event-stream"
    assert deltas(client.events) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "a"},
        {"content": " b"},
        {},
    ]
    assert reasons(client.events) == {0: "stop"}
    assert client.events[-2]["usage"]["completion_tokens"] == 2
    assert client.events[-1] == "[DONE]"
    assert engine.cancelled == [101]


async def test_an_answer_without_text() -> None:
    """A model that ends at once has said nothing, and that is said."""
    client = Client()
    await client.ask(ScriptedEngine(says()), stream=True)
    assert deltas(client.events) == [
        {"role": "assistant", "content": "", "refusal": None},
        {},
    ]


async def test_calls_of_tools() -> None:
    """A call is streamed as the SDKs accumulate it, and is the same in a whole answer."""
    engine, client = ScriptedEngine(says(CALL[:50], CALL[50:])), Client()
    await client.ask(engine, tools=[tool()], stream=True)
    role, begun, *more, end = deltas(client.events)
    assert role["content"] is None
    (call,) = begun["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": ""}
    arguments = [one["tool_calls"][0]["function"]["arguments"] for one in more]
    assert json.loads("".join(arguments)) == {"city": "Köln"}
    assert len(arguments) == 2
    assert end == {}
    assert reasons(client.events) == {0: "tool_calls"}
    client = Client()
    await client.ask(ScriptedEngine(says(CALL)), tools=[tool()])
    (choice,) = json.loads(client.body)["choices"]
    (whole,) = choice["message"]["tool_calls"]
    assert whole["function"] == {"name": "weather", "arguments": "".join(arguments)}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        ({"tools": [tool()], "tool_choice": named("weather")}, None, "stop"),
        ({"tools": [tool()], "tool_choice": "none"}, CALL, "stop"),
        ({}, CALL, "stop"),
        ({"response_format": {"type": "json_object"}}, CALL, "stop"),
    ],
)
async def test_what_a_call_is(fields: dict[str, Any], content: str | None, reason: str) -> None:
    """Calls are looked for where tools may be called; one chosen by name ends with stop."""
    client = Client()
    await client.ask(ScriptedEngine(says(CALL)), **fields)
    (choice,) = json.loads(client.body)["choices"]
    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == reason


async def test_reasoning_that_the_prompt_began() -> None:
    """Where the prompt ends inside the reasoning, the answer goes on with it."""
    client = Client()
    await client.ask(ScriptedEngine(says("hm", "</think>", "a", thinking=True)))
    answer = json.loads(client.body)
    assert answer["choices"][0]["message"]["reasoning_content"] == "hm"
    assert answer["choices"][0]["message"]["content"] == "a"
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_several_choices() -> None:
    """Each choice is a generation of its own; the answer waits for all of them."""
    engine, client = ScriptedEngine(says("a"), says("b"), says("c")), Client()
    await client.ask(engine, n=3, seed=7)
    answer = json.loads(client.body)
    assert [one["message"]["content"] for one in answer["choices"]] == ["a", "b", "c"]
    assert answer["usage"]["prompt_tokens"] == 9
    assert answer["usage"]["completion_tokens"] == 6
    assert [one.sampling.seed for one in engine.submitted] == [7, 8, 9]
    assert engine.cancelled == [101, 102, 103]


async def test_several_choices_in_a_stream() -> None:
    """Chunks of the choices come as they are generated, each with its index and its role."""
    engine, client = ScriptedEngine([Admitted()], says("b")), Client()
    asking = asyncio.create_task(client.ask(engine, n=2, stream=True))
    await client.heard.wait()
    for event in (Text("a"), Finished("length", 9, 1)):
        engine.sinks[0](event)
    await asking
    assert [one.get("content") for one in deltas(client.events, 0)] == ["", "a", None]
    assert [one.get("content") for one in deltas(client.events, 1)] == ["", "b", None]
    assert list(reasons(client.events).items()) == [(1, "stop"), (0, "length")]
    assert client.events[-1] == "[DONE]"
    assert client.events.count("[DONE]") == 1


async def test_a_choice_that_is_refused_takes_the_others_with_it() -> None:
    """Where not all choices can be taken none is generated."""
    engine, client = ScriptedEngine([], ChatError("queue_full", "full")), Client()
    with pytest.raises(ChatError, match="full"):
        await client.ask(engine, n=2)
    assert engine.cancelled == [101]
    assert client.sent == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failure_before_the_first_text(stream: bool) -> None:
    """What fails before there is text has a status of its own, whichever choice it is."""
    engine, client = ScriptedEngine([Admitted()], [Failed(WHY)]), Client()
    with pytest.raises(ChatError, match="why"):
        await client.ask(engine, n=2, stream=stream)
    assert client.sent == []
    assert engine.cancelled == [101, 102]


async def test_a_failure_in_a_stream() -> None:
    """A stream that has begun ends with the error, and not with [DONE]."""
    engine, client = ScriptedEngine([Text("a"), Failed(WHY)]), Client()
    await client.ask(engine, stream=True)
    assert client.status == 200
    assert client.events[-1]["error"]["code"] == "generation_failed"
    assert "[DONE]" not in client.events
    assert engine.cancelled == [101]


async def test_markup_alone_does_not_begin_a_stream() -> None:
    """While nothing can be said yet, a failure still has its status."""
    engine, client = ScriptedEngine([Text("<tool_call>"), Failed(WHY)]), Client()
    with pytest.raises(ChatError, match="why"):
        await client.ask(engine, stream=True, tools=[tool()])
    assert client.sent == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves(stream: bool) -> None:
    """Every generation of an answer ends with its client."""
    engine, client = ScriptedEngine([Text("a")], [Text("b")]), Client()
    asking = asyncio.create_task(client.ask(engine, n=2, stream=stream))
    if stream:
        await client.heard.wait()
    client.hang_up()
    await asking
    assert engine.cancelled == [101, 102]


async def test_log_probabilities() -> None:
    """They are told where they were asked for, and nowhere else."""
    for fields, expected in (({"logprobs": True}, {"content": [], "refusal": None}), ({}, None)):
        client = Client()
        await client.ask(ScriptedEngine(says("a")), **fields)
        assert json.loads(client.body)["choices"][0]["logprobs"] == expected


def refusing() -> ScriptedEngine:
    return ScriptedEngine(ChatError("queue_full", "full"))


@pytest.mark.parametrize(
    ("make", "fields", "expected"),
    [
        (lambda: ScriptedEngine(says("secret")), {}, {"status": 200, "completion_tokens": 2}),
        (
            lambda: ScriptedEngine(says("secret"), says("b")),
            {"n": 2},
            {"status": 200, "completion_tokens": 4, "choices": 2},
        ),
        (refusing, {}, {"status": 429, "error": "queue_full"}),
        (
            lambda: ScriptedEngine([Text("secret"), Failed(WHY)]),
            {"stream": True},
            {"status": 200, "error": "generation_failed"},
        ),
    ],
)
async def test_the_log_has_one_line(
    make: Callable[[], ScriptedEngine],
    fields: dict[str, Any],
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each answer is logged once, however it ended, and never with its text."""
    caplog.set_level(logging.INFO, logger="backends.mlx_backend")
    client = Client(x_request_id="req-1")
    with suppress(ChatError):
        await client.ask(make(), **fields)
    (line,) = [one.getMessage() for one in caplog.records]
    assert "secret" not in line
    logged = json.loads(line.removeprefix("answer "))
    assert logged["request_id"] == "req-1"
    assert {key: logged.get(key) for key in expected} == expected
    assert ("first_text_ms" in logged) == (logged["status"] == 200)
    assert ("queue_ms" in logged) == ("completion_tokens" in logged)


async def test_a_client_that_leaves_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that nobody waited for has a status that says so."""
    caplog.set_level(logging.INFO, logger="backends.mlx_backend")
    client = Client()
    client.hang_up()
    await client.ask(ScriptedEngine([Admitted()]))
    (line,) = [one.getMessage() for one in caplog.records]
    assert '"status":499' in line


def inboxes() -> list[Inbox]:
    """Return all that there are."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, Inbox)]


async def test_nothing_is_left_of_an_answer_that_is_over() -> None:
    """The loop does not keep it until a deadline that nobody waits for any more."""
    before = inboxes()
    client = Client()
    asking = asyncio.create_task(client.ask(ScriptedEngine([Admitted()])))
    await asyncio.sleep(0.01)
    client.hang_up()
    await asking
    del asking
    assert inboxes() == before
