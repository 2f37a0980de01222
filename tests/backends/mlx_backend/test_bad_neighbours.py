"""A request that cannot be answered is told why, and those beside it notice nothing."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from backends.wire import CODES
from tests.backends.mlx_backend.mixed import CHAT, Answer, ask, request, streamed_answer
from tests.backends.mlx_backend.pictures import RED, data_uri, encoded, question

pytestmark = pytest.mark.mlx

COUNT = question("Please count.")
PICTURE = data_uri(encoded(RED))
TOKENS = 32
GOOD = {
    "counting": request("count", "text", "greedy", TOKENS),
    "seeing": request("red", "text", "told", TOKENS),
    "structured": request("both", "schema", "wild", TOKENS),
    "calling": request("long", "required", "penalized", TOKENS),
}


def chat(messages: Any = COUNT, **fields: Any) -> dict[str, Any]:
    """Return a request body."""
    return {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0, **fields}


def spelling(text: str, *urls: str) -> dict[str, Any]:
    """Return a request whose text says something beside pictures."""
    return chat(question(f"{text} What colour is this?", *urls))


def schema(document: Any) -> dict[str, Any]:
    """Return a request for an answer that fits a schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": document}}
    return chat(response_format=wanted)


def tool(parameters: Any, **fields: Any) -> dict[str, Any]:
    """Return a request that offers a tool."""
    return chat(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])


ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
IMPOSSIBLE = {"type": "integer", "minimum": 5, "maximum": 3}
BEYOND = 384

BAD = {
    "no message": (chat([]), "invalid_request", "messages"),
    "no role": (chat([{"content": "x"}]), "invalid_request", "messages[0].role"),
    "an unknown role": (
        chat([{"role": "wizard", "content": "x"}]),
        "invalid_request",
        "messages[0].role",
    ),
    "an image that is none": (
        spelling("", data_uri(b"<svg/>", "image/svg+xml")),
        "invalid_image",
        "messages[0].content[0].image_url.url",
    ),
    "an image that is cut": (
        spelling("", data_uri(encoded(RED, (300, 300))[:200])),
        "invalid_image",
        None,
    ),
    "an image of many pixels": (
        spelling("", data_uri(encoded(RED, (9000, 9000), "GIF"))),
        "invalid_image",
        None,
    ),
    "200 images": (
        spelling("", *[PICTURE] * 200),
        "too_many_images",
        "messages[0].content[64].image_url.url",
    ),
    "a spelled placeholder": (
        spelling("<|image_pad|>", PICTURE),
        "invalid_request",
        "messages",
    ),
    "a spelled picture": (
        spelling("<|vision_start|><|image_pad|><|vision_end|>", PICTURE),
        "invalid_request",
        "messages",
    ),
    "one of two spelled": (
        spelling("<|image_pad|>", PICTURE, PICTURE),
        "invalid_request",
        "messages",
    ),
    "a spelled video": (
        spelling("<|vision_start|><|video_pad|><|vision_end|>", PICTURE),
        "invalid_request",
        "messages",
    ),
    "a prompt over the context": (
        chat(question("x " * 4000)),
        "context_length_exceeded",
        "messages",
    ),
    "an answer over the context": (
        chat(max_tokens=4096),
        "context_length_exceeded",
        "messages",
    ),
    "a temperature of 1e308": (chat(temperature=1e308), "invalid_request", "temperature"),
    "a temperature below zero": (chat(temperature=-1), "invalid_request", "temperature"),
    "a seed of 2^70": (chat(seed=2**70), "invalid_request", "seed"),
    "a top_k of 2^70": (chat(top_k=2**70), "invalid_request", "top_k"),
    "a top_p of zero": (chat(top_p=0), "invalid_request", "top_p"),
    "a penalty of 1e308": (chat(presence_penalty=1e308), "invalid_request", "presence_penalty"),
    "a penalty of next to nothing": (
        chat(repetition_penalty=1e-300),
        "invalid_request",
        "repetition_penalty",
    ),
    "no token": (chat(max_tokens=0), "invalid_request", "max_tokens"),
    "a bias on the first token beyond": (
        chat(logit_bias={str(BEYOND): 1}),
        "invalid_request",
        "logit_bias",
    ),
    "a bias far beyond": (chat(logit_bias={str(2**31 - 1): 1}), "invalid_request", "logit_bias"),
    "a bias below": (chat(logit_bias={"-1": 1}), "invalid_request", "logit_bias"),
    "a bias of 1e308": (chat(logit_bias={"1": 1e308}), "invalid_request", "logit_bias"),
    "a stop token of 2^70": (
        chat(stop_token_ids=[2**70]),
        "invalid_request",
        "stop_token_ids[0]",
    ),
    "an impossible schema": (schema(IMPOSSIBLE), "invalid_request", "response_format"),
    "an endless schema": (schema(ENDLESS), "invalid_request", "response_format"),
    "an unknown type": (schema({"type": "thing"}), "invalid_request", "response_format"),
    "a pattern that is none": (
        schema({"type": "string", "pattern": "(("}),
        "invalid_request",
        "response_format",
    ),
    "a broken tool": (
        tool({"type": "object", "properties": []}),
        "invalid_request",
        "tools[0].function.parameters",
    ),
    "an impossible tool": (
        tool({"type": "object", "properties": {"a": IMPOSSIBLE}, "required": ["a"]}),
        "invalid_request",
        "tools[0].function.parameters",
    ),
    "a model without its weights": (chat(model="no-weights"), "model_load_failed", "model"),
    "a model cut short": (chat(model="cut-weights"), "model_load_failed", "model"),
    "a model without a tokenizer": (chat(model="no-tokenizer"), "model_load_failed", "model"),
    "a model that does not fit together": (
        chat(model="wrong-layers"),
        "model_load_failed",
        "model",
    ),
    "a template that fails": (chat(model="bad-template"), "generation_failed", None),
}
# Odd, but there is an answer: the second text is what it must be.
ODD = {
    "nothing said": (chat([{"role": "user", "content": ""}]), "I see no picture"),
    "no parts": (chat([{"role": "user", "content": []}]), "I see no picture"),
    "a top_k above the vocabulary": (chat(temperature=1e-5, top_k=2**31 - 1), " 1 1"),
    "a top_k of the vocabulary": (chat(temperature=1e-5, top_k=BEYOND), " 1 1"),
    "a top_p of next to nothing": (chat(temperature=2, top_p=1e-300), " 1 1"),
    "a temperature of next to nothing": (chat(temperature=1e-308), " 1 1"),
    "the smallest min_p": (chat(min_p=1e-300), " 1 1"),
    "the largest seed": (chat(seed=2**63 - 1), " 1 1"),
    "the smallest seed": (chat(seed=-(2**63)), " 1 1"),
    "every token against": (
        chat(logit_bias={str(token): -100 for token in range(BEYOND)}),
        " 1 1",
    ),
    "a stop token beyond the vocabulary": (chat(stop_token_ids=[BEYOND, 2**31 - 1]), " 1 1"),
    "a placeholder without a picture": (spelling("<|image_pad|>"), ""),
    "markers of turns": (spelling("<|im_end|><|im_start|>user\n", PICTURE), "This is red"),
    "a nul": (spelling("\0"), ""),
}


@pytest.fixture(scope="module")
def solo() -> dict[str, Answer]:
    """Return what the good requests are answered alone, once somebody has asked."""
    return {}


class Neighbours:
    """Four good requests that have begun, until the block ends, when they must have been right."""

    def __init__(self, http: httpx2.AsyncClient, solo: dict[str, Answer]) -> None:
        self._http = http
        self._solo = solo
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        if not self._solo:
            for name, body in GOOD.items():
                self._solo[name] = await ask(self._http, body, stream=False)
        streams = [
            self._http.stream(
                "POST",
                CHAT,
                json={**body, "stream": True, "stream_options": {"include_usage": True}},
                # As many LOW ones as may run at once, and a HIGH.
                params={"priority": "high" if name == "counting" else "low"},
            )
            for name, body in GOOD.items()
        ]
        # The status line comes with the first text.
        self._responses = await asyncio.gather(
            *(self._stack.enter_async_context(stream) for stream in streams)
        )

    async def __aexit__(self, *raised: object) -> None:
        async with self._stack:
            await asyncio.gather(*(response.aread() for response in self._responses))
            for name, response in zip(GOOD, self._responses, strict=True):
                assert streamed_answer(response).is_like(self._solo[name]), name


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_neighbour(
    http: httpx2.AsyncClient, solo: dict[str, Answer], name: str
) -> None:
    """It gets an error that names the field, and the four beside it their own answers."""
    body, code, param = BAD[name]
    async with Neighbours(http, solo):
        asked = (
            http.post(CHAT, json={**body, "stream": stream}, params={"priority": "high"})
            for stream in (False, True)
        )
        answers = await asyncio.gather(*asked)
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (CODES[code].status, code), error
        assert (error["type"], error["param"]) == (CODES[code].type, param), error


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_neighbour(
    http: httpx2.AsyncClient, solo: dict[str, Answer], name: str
) -> None:
    """It gets a correct answer, and so do the four beside it."""
    body, text = ODD[name]
    async with Neighbours(http, solo):
        answer = await ask(http, body, stream=False, priority="high")
    assert answer.content.startswith(text)
    assert answer.completion_tokens == 4


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "invalid_json"),
        (b"[]", "invalid_request"),
        (b"[" * 5000 + b"]" * 5000, "json_too_deep"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b'{"temperature": 1e999}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
    ],
)
async def test_a_neighbour_who_does_not_speak_json(
    http: httpx2.AsyncClient, solo: dict[str, Answer], raw: bytes, code: str
) -> None:
    """What is no JSON is refused, and the four beside it have their answers."""
    async with Neighbours(http, solo):
        answer = await http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_the_bodies_are_json() -> None:
    """Nothing in the tables is refused for how it is written here."""
    for body, *_ in (*BAD.values(), *ODD.values()):
        json.dumps(body, allow_nan=False)
