import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from openai import APIError, AsyncOpenAI, RateLimitError

from backends.wire import CODES
from tests.backends.mlx_backend.child import TOKEN
from tests.backends.mlx_backend.pictures import BLUE, RED, data_uri, encoded, question

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
COLOUR = [{"role": "user", "content": "What colour is this?"}]
# The tiny model goes on with digits until it is stopped.
COUNT = [{"role": "user", "content": "Please count."}]
POLL_S = 0.01
GONE_S = 5.0


def chat(messages: Any = COLOUR, **fields: Any) -> dict[str, Any]:
    """Return a request body."""
    return {"model": "tiny", "messages": messages, "temperature": 0, **fields}


def text_of(response: httpx2.Response) -> str:
    """Return the text of an answer that must be one."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


async def health_when(http: httpx2.AsyncClient, **wanted: Any) -> dict[str, Any]:
    """Poll /health until it says so."""
    async with asyncio.timeout(GONE_S):
        while True:
            health: dict[str, Any] = (await http.get("/health")).json()
            if all(health[key] == value for key, value in wanted.items()):
                return health
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def busy(
    http: httpx2.AsyncClient, priority: str = "low", **fields: Any
) -> AsyncIterator[None]:
    """Hold a row until the block ends, by a stream that has begun."""
    body = chat(COUNT, stream=True, **fields)
    async with http.stream("POST", CHAT, params={"priority": priority}, json=body) as response:
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield


async def test_a_whole_answer(openai: AsyncOpenAI) -> None:
    """The SDK reads an answer with its finish reason and real token counts."""
    answer = await openai.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "What colour is this?"}], temperature=0
    )
    assert answer.choices[0].message.content == "I see no picture."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


async def test_a_streamed_answer(openai: AsyncOpenAI) -> None:
    """The SDK reads the same answer in pieces, and its usage at the end."""
    stream = await openai.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "What colour is this?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == "I see no picture."
    assert len([choice for choice in choices if choice.delta.content]) > 2
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 6


async def test_a_stream_on_the_wire(http: httpx2.AsyncClient) -> None:
    """A stream is server-sent events that end with [DONE]."""
    answer = await http.post(CHAT, json=chat(stream=True))
    assert answer.headers["content-type"] == "text/event-stream"
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize(("colour", "name"), [(RED, "red"), (BLUE, "blue")])
async def test_the_pixels_make_the_answer(
    http: httpx2.AsyncClient, kind: str, colour: tuple[int, int, int], name: str
) -> None:
    """The model sees what was sent, in each of the formats."""
    url = data_uri(encoded(colour, kind=kind))
    answer = await http.post(CHAT, json=chat(question("What colour is this?", url)))
    assert text_of(answer) == f"This is {name}."


async def test_two_images_in_one_message(http: httpx2.AsyncClient) -> None:
    """Each image takes its place in the prompt."""
    urls = [data_uri(encoded(colour)) for colour in (RED, BLUE)]
    one = await http.post(CHAT, json=chat(question("colour?", urls[0])))
    two = await http.post(CHAT, json=chat(question("colour?", *urls)))
    assert text_of(two)
    tokens = [answer.json()["usage"]["prompt_tokens"] for answer in (one, two)]
    assert tokens[1] > tokens[0] + 2


async def test_an_image_after_many_chunks_of_text(http: httpx2.AsyncClient) -> None:
    """A prompt fed in chunks still shows the image to the model."""
    text = "tell me about the weather in Paris today " * 4
    parts = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": data_uri(encoded(BLUE, (200, 200)))}},
        {"type": "text", "text": "What colour is this?"},
    ]
    answer = await http.post(CHAT, json=chat([{"role": "user", "content": parts}]))
    assert "blue" in text_of(answer)


async def test_fifty_first_requests_load_once(http: httpx2.AsyncClient) -> None:
    """Any number of requests for a model that is not loaded cause one load."""
    await http.post("/unload")
    before = (await http.get("/health")).json()["loads"]
    body = chat(max_tokens=2)
    answers = await asyncio.gather(*(http.post(CHAT, json=body) for _ in range(50)))
    assert {text_of(answer) for answer in answers} == {text_of(answers[0])}
    assert (await http.get("/health")).json()["loads"] == before + 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_the_queue(narrow: httpx2.AsyncClient, stream: bool) -> None:
    """A request whose client has gone is taken out of the queue."""
    async with busy(narrow):
        waiting = asyncio.create_task(narrow.post(CHAT, json=chat(stream=stream)))
        await health_when(narrow, active=1, queue=1)
        waiting.cancel()
        await health_when(narrow, active=1, queue=0)
    await health_when(narrow, active=0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_the_prefill(
    http: httpx2.AsyncClient, stream: bool
) -> None:
    """A prompt whose client has gone is not read to its end."""
    text = "tell me about the weather in Paris today " * 100
    body = chat([{"role": "user", "content": text + "Please count."}], stream=stream)
    waiting = asyncio.create_task(http.post(CHAT, json=body))
    await health_when(http, active=1)
    waiting.cancel()
    await health_when(http, active=0)


async def test_a_client_that_leaves_a_stream(http: httpx2.AsyncClient) -> None:
    """A stream whose client has gone ends."""
    async with busy(http):
        assert (await http.get("/health")).json()["active"] == 1
    await health_when(http, active=0)


async def test_a_client_that_leaves_a_whole_answer(http: httpx2.AsyncClient) -> None:
    """An answer that is not streamed ends with its client too, in the middle of decoding."""
    waiting = asyncio.create_task(http.post(CHAT, json=chat(COUNT)))
    await health_when(http, active=1)
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()
    await health_when(http, active=0)


@pytest.mark.parametrize("stop", ["4", ["nothing", "1 2"], "2 3"])
async def test_stop_strings(http: httpx2.AsyncClient, stop: str | list[str]) -> None:
    """An answer is cut right before the stop string, streamed or not."""
    plain = text_of(await http.post(CHAT, json=chat(COUNT, max_tokens=24)))
    cut = min(plain.find(one) for one in ([stop] if isinstance(stop, str) else stop[1:]))
    assert cut > 0
    whole = await http.post(CHAT, json=chat(COUNT, max_tokens=24, stop=stop))
    assert text_of(whole) == plain[:cut]
    assert whole.json()["choices"][0]["finish_reason"] == "stop"
    answer = await http.post(CHAT, json=chat(COUNT, max_tokens=24, stop=stop, stream=True))
    chunks = [json.loads(event.removeprefix("data: ")) for event in answer.text.split("\n\n")[:-2]]
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == plain[:cut]


async def test_max_tokens(http: httpx2.AsyncClient) -> None:
    """The limit is kept to the token, and said."""
    answer = await http.post(CHAT, json=chat(COUNT, max_completion_tokens=7))
    assert answer.json()["usage"]["completion_tokens"] == 7
    assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_seeds(http: httpx2.AsyncClient) -> None:
    """A seed repeats its answer, and other seeds give other ones."""

    async def draw(seed: int) -> str:
        body = chat(COUNT, max_tokens=40, temperature=2, seed=seed)
        return text_of(await http.post(CHAT, json=body))

    assert await draw(7) == await draw(7)
    assert len({await draw(seed) for seed in range(5)}) > 1


async def test_temperature_zero_is_greedy(http: httpx2.AsyncClient) -> None:
    """At temperature 0 the seed plays no part."""
    bodies = [chat(COUNT, max_tokens=20, seed=seed) for seed in (1, 2, 3)]
    assert len({text_of(await http.post(CHAT, json=body)) for body in bodies}) == 1


async def test_tiny_top_p_is_greedy(http: httpx2.AsyncClient) -> None:
    """With a top_p that only the likeliest token fits, temperature plays no part."""
    greedy = text_of(await http.post(CHAT, json=chat(COUNT, max_tokens=20)))
    body = chat(COUNT, max_tokens=20, temperature=2, top_p=1e-6, seed=5)
    assert text_of(await http.post(CHAT, json=body)) == greedy


async def test_high_takes_the_only_place(narrow: httpx2.AsyncClient) -> None:
    """It is answered whole while the LOW one that had the place is paused, and goes on after it."""
    async with busy(narrow):
        waiting = asyncio.create_task(narrow.post(CHAT, json=chat()))
        await health_when(narrow, queue=1)
        answer = await narrow.post(CHAT, params={"priority": "high"}, json=chat())
        assert text_of(answer) == "I see no picture."
        assert (await health_when(narrow, queue=1, active=1))["rows"]["paused"] == 0
        assert not waiting.done()
    assert text_of(await waiting) == "I see no picture."


async def test_a_full_queue(narrow: httpx2.AsyncClient) -> None:
    """Beyond its queue the backend refuses, with a time to come back."""
    async with busy(narrow):
        tasks = [asyncio.create_task(narrow.post(CHAT, json=chat())) for _ in range(60)]
        await health_when(narrow, queue=60)
        refusal = await narrow.post(CHAT, json=chat())
        async with AsyncOpenAI(
            base_url=f"{narrow.base_url}/v1", api_key=TOKEN, max_retries=0
        ) as openai:
            with pytest.raises(RateLimitError):
                await openai.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "x"}], stream=True
                )
        for task in tasks:
            task.cancel()
        await health_when(narrow, queue=0)
    assert refusal.status_code == 429
    assert refusal.json()["error"]["code"] == "queue_full"
    assert int(refusal.headers["retry-after"]) > 0
    await health_when(narrow, active=0)


async def test_two_models_at_a_time(http: httpx2.AsyncClient) -> None:
    """Another model is loaded beside the one that is busy, and answers meanwhile."""
    async with busy(http):
        assert text_of(await http.post(CHAT, json=chat(model="twin"))) == "I see no picture."
        health = await health_when(http, active=1)
        assert {"tiny", "twin"} <= set(health["models"])
    await health_when(http, active=0)


async def test_unload_gives_the_memory_back(http: httpx2.AsyncClient) -> None:
    """After an unload MLX holds nothing, and the next request loads the model again."""
    await http.post(CHAT, json=chat(max_tokens=1))
    loaded = await health_when(http, state="loaded", active=0)
    assert loaded["memory_mb"] > 1
    assert (await http.post("/unload")).json() == {"unloaded": loaded["models"]}
    idle = await health_when(http, state="idle")
    assert idle["memory_mb"] < 0.1
    assert (await http.post("/unload")).json() == {"unloaded": []}
    assert text_of(await http.post(CHAT, json=chat())) == "I see no picture."


async def test_a_model_in_use_is_not_unloaded(http: httpx2.AsyncClient) -> None:
    """Unloading never takes a model from under a generation."""
    async with busy(http):
        refusal = await http.post("/unload")
    assert_error(refusal, "conflict")
    await health_when(http, active=0)


def assert_error(response: httpx2.Response, code: str, param: str | None = None) -> str:
    """Check an error's status, envelope and retry header; returns its text."""
    error = response.json()["error"]
    assert response.json() == {"error": error}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code, error
    assert response.status_code == CODES[code].status
    assert error["type"] == CODES[code].type
    if param is not None:
        assert error["param"] == param
    held_back = response.status_code == 409 or response.status_code >= 500
    expected = "false" if held_back and not CODES[code].retry else None
    assert response.headers.get("x-should-retry") == expected
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "code", "param", "says"),
    [
        (chat(model="qwen3-vl-4b"), "model_not_downloaded", "model", "models pull qwen3-vl-4b"),
        (
            chat(model="mlx-community/Qwen3-VL-4B-Instruct-3bit"),
            "model_not_downloaded",
            "model",
            "2600 MB",
        ),
        (chat(model="evil/repo"), "model_not_found", "model", "evil/repo"),
        (chat(model="evil/" + "x" * 400), "model_not_found", "model", "xxx"),
        (chat(model="../../etc"), "model_not_found", "model", ""),
        (chat(model="no-weights"), "model_load_failed", "model", "safetensors"),
        (chat(model="cut-weights"), "model_load_failed", "model", "model.safetensors is cut short"),
        (chat(model="garbage-weights"), "model_load_failed", "model", "model.safetensors"),
        (chat(model="empty-weights"), "model_load_failed", "model", "model.safetensors"),
        (chat(model="bad-config"), "model_load_failed", "model", "config.json"),
        (chat(model="bad-tokenizer"), "model_load_failed", "model", "tokenizer.json"),
        (chat(model="no-tokenizer"), "model_load_failed", "model", "tokenizer.json"),
        (chat(model="unknown-type"), "model_load_failed", "model", "config.json"),
        (chat(model="own-code"), "model_load_failed", "model", "code of the model's own"),
        (chat(model="wrong-layers"), "model_load_failed", "model", ""),
        (chat(model="refusing"), "invalid_request", "messages", "not so"),
        (chat(model="bad-template"), "generation_failed", None, ""),
        (chat(max_tokens=5000), "context_length_exceeded", "messages", "4096"),
        (chat([{"role": "user", "content": "x " * 3000}]), "context_length_exceeded", None, ""),
        (
            chat(question("colour?", data_uri(encoded()[:60]))),
            "invalid_image",
            None,
            "cannot be decoded",
        ),
        (
            chat(question("colour?", data_uri(encoded(size=(2, 4000))))),
            "invalid_image",
            None,
            "refuses",
        ),
        (chat(question("colour?", "http://127.0.0.1/a")), "image_url_not_allowed", None, ""),
        (chat(tools=[{"type": "function"}]), "invalid_request", "tools[0].function", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_goes_wrong_before_the_first_token(
    http: httpx2.AsyncClient,
    body: dict[str, Any],
    code: str,
    param: str | None,
    says: str,
    stream: bool,
) -> None:
    """Each failure has its status and envelope, streamed or not, and harms nobody after it."""
    text = assert_error(await http.post(CHAT, json={**body, "stream": stream}), code, param)
    assert says in text
    # The text shows no path of this machine, only what the client sent and what it may call.
    for known in ("../../etc", "evil/", "GET /v1/models"):
        text = text.replace(known, "")
    assert "/" not in text
    assert text_of(await http.post(CHAT, json=chat(max_tokens=3)))


async def test_a_broken_model_fails_all_who_wait_for_it(narrow: httpx2.AsyncClient) -> None:
    """A load that fails is tried once for everyone who waits, not once each."""
    async with busy(narrow):
        body = chat(model="wrong-layers")
        tasks = [asyncio.create_task(narrow.post(CHAT, json=body)) for _ in range(5)]
        await health_when(narrow, queue=5)
    for answer in await asyncio.gather(*tasks):
        assert_error(answer, "model_load_failed")


async def test_priority_that_is_none(http: httpx2.AsyncClient) -> None:
    """A priority is one of three; the query goes before the header."""
    headers = {"x-priority": "high"}
    answer = await http.post(f"{CHAT}?priority=7", json=chat(), headers=headers)
    assert_error(answer, "invalid_priority", "priority")
    answer = await http.post(CHAT, json=chat(), headers={"x-priority": "soon"})
    assert_error(answer, "invalid_priority", "priority")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_only_json_is_taken(http: httpx2.AsyncClient, kind: str | None) -> None:
    """What a web page can post without asking is refused."""
    headers = {"content-type": kind} if kind else {}
    answer = await http.post(CHAT, content=json.dumps(chat()).encode(), headers=headers)
    assert_error(answer, "unsupported_media_type")


async def test_a_body_that_is_too_large(http: httpx2.AsyncClient) -> None:
    """A body is refused when it passes the cap, however it comes."""

    async def flood() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b" " * 1024 * 1024

    answer = await http.post(CHAT, content=flood(), headers={"content-type": "application/json"})
    assert_error(answer, "body_too_large")


async def test_paths_and_methods(http: httpx2.AsyncClient) -> None:
    """Unknown paths and wrong methods are answered in the envelope too."""
    assert_error(await http.get("/v1/nothing"), "not_found")
    assert_error(await http.get("/docs"), "not_found")
    assert_error(await http.get("/openapi.json"), "not_found")
    wrong = await http.get(CHAT)
    assert_error(wrong, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("POST", "/unload"),
        ("POST", CHAT),
        ("GET", "/x"),
    ],
)
@pytest.mark.parametrize("value", [None, "Bearer wrong", "Basic x", "Bearer", "Bearer é"])
async def test_every_route_needs_the_token(
    http: httpx2.AsyncClient, method: str, path: str, value: str | None
) -> None:
    """Without the token of this launch nothing is answered, not even whether a path exists."""
    headers = {} if value is None else {"authorization": value.encode().decode("latin-1")}
    async with httpx2.AsyncClient(base_url=http.base_url, trust_env=False) as stranger:
        raw = [(name.encode(), text.encode("latin-1")) for name, text in headers.items()]
        answer = await stranger.request(method, path, headers=raw)
    assert_error(answer, "invalid_api_key")


async def test_models_on_this_machine_are_listed(http: httpx2.AsyncClient) -> None:
    """The list names what can be asked for, and not what is only known of."""
    listed = (await http.get("/v1/models")).json()
    names = {row["id"] for row in listed["data"]}
    assert {"tiny", "twin"} <= names
    assert not {"qwen3-vl-4b", "no-weights"} & names


async def test_health_says_what_the_engine_is(http: httpx2.AsyncClient) -> None:
    """Health tells the state, and that generations share a batch."""
    await http.post(CHAT, json=chat(max_tokens=1))
    health = await health_when(http, state="loaded", active=0)
    assert health["status"] == "ok"
    assert "tiny" in health["models"]
    assert (health["engine"], health["why"]) == ("batched", "")
    async with busy(http), busy(http):
        # Each begins with a prompt to be read.
        await health_when(http, active=2, rows={"prefilling": 0, "decoding": 2, "paused": 0})
    await health_when(http, active=0)


async def test_metrics(http: httpx2.AsyncClient) -> None:
    """Prometheus' text format, each name once with its help and type, and counters that count."""

    async def read() -> dict[str, float]:
        answer = await http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.text.splitlines()
        names = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
        assert len(names) == len(set(names)) == answer.text.count("# HELP ")
        samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert {name.partition("{")[0] for name in samples} == set(names)
        return {name.removeprefix("signalbox_mlx_"): float(at) for name, at in samples.items()}

    before = await read()
    usage = (await http.post(CHAT, json=chat())).json()["usage"]
    names = ("prompt_tokens", "completion_tokens")
    wanted = {f"{name}_total": before[f"{name}_total"] + usage[name] for name in names}
    async with asyncio.timeout(GONE_S):
        # The last step is counted when it is over, a moment after its token is sent.
        after = await read()
        while any(after[name] < count for name, count in wanted.items()):
            await asyncio.sleep(POLL_S)
            after = await read()
    assert after["batched"] == 1
    assert after['rows{state="decoding"}'] == 0
    assert after['queued{priority="high"}'] == 0


async def test_an_sdk_error_is_typed(openai: AsyncOpenAI) -> None:
    """OpenAI's SDK raises the error with its code."""
    with pytest.raises(APIError) as raised:
        await openai.chat.completions.create(
            model="nothing-like-it", messages=[{"role": "user", "content": "x"}]
        )
    assert raised.value.code == "model_not_found"
    assert raised.value.type == "invalid_request_error"
