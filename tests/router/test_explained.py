"""What explain says of a request is what happens to it, at every endpoint."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.endpoints import ENDPOINTS
from tests.harness.asking import JSON_TYPE, Told, ask
from tests.harness.endpoints import REQUESTS, content_of, serve_all
from tests.harness.pictures import SHOWN, picture, serves, small_network, uri_of, web
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.router.classification.shapes import BODIES

_LAST = {
    "/v1/responses": "response.completed",
    "/v1/messages": "message_stop",
    "/v1/images/generations": "image_generation.completed",
    "/v1/audio/speech": "speech.audio.done",
    "/v1/audio/transcriptions": "transcript.text.done",
}


async def _serve(conversation: Conversation) -> None:
    """Answer whole or as a stream, as asked."""
    if conversation.headers["accept"] != "text/event-stream":
        return await serve_all(conversation)
    event = {
        "type": _LAST.get(urlsplit(conversation.target).path),
        "choices": [{"finish_reason": "stop"}],
    }
    await conversation.begin_stream()
    await conversation.event(b"data: %b\n\n" % json.dumps(event).encode())
    return await conversation.end_stream()


def _settings(fm: ScriptedUpstream, root: Path | None = None) -> dict[str, Any]:
    """Return a map with most of what can be told apart: dialects, facts, localities, limits.

    Pictures may be fetched, and read from `root`.
    """
    proxied = {"proxy": fm.url.removesuffix("/v1"), "dialects": ["chat", "messages"]}
    return {
        "images": {"remote_fetch": True, "local_roots": [str(root)] if root else []},
        "providers": {
            "far": openai_provider("http://far.example/v1", **proxied),
            "all": openai_provider(fm.url, dialects=["chat", "responses", "messages"]),
            "plain": openai_provider(fm.url),
            "cloud": openai_provider(fm.url, locality="remote", dialects=["chat", "messages"]),
            "builtin": {"kind": "builtin", "port": 0},
        },
        "models": {
            "plain/blind": {"capabilities": {"vision": False, "embeddings": False}},
            "all/ears": {"capabilities": {"audio": True, "file": True}},
        },
        "aliases": {"any-*": "auto", "see": "vision", "there": "cloud/big"},
        "capabilities": {
            "text": ["plain/p", "all/ears"],
            "vision": {"models": ["far/v", "all/v", "cloud/big"], "allow_remote_fallback": True},
            "tool_use": ["cloud/big", "all/t"],
            "embeddings": ["plain/e"],
            "speech": {"models": ["cloud/voice"], "local_only": True},
            "image_generation": ["cloud/paint"],
            "transcription": ["plain/w"],
        },
        "limits": {"images": 2},
    }


_MODELS = st.sampled_from(
    [
        *(None, "auto", "text", "vision", "embeddings", "rerank", "any-thing", "see", "there"),
        *(
            "all/x",
            "far/x",
            "plain/x",
            "cloud/big",
            "plain/blind",
            "builtin/smollm2-135m",
            "nobody/none",
            "w",
            "",
        ),
        *("a\nb", "m" * 2000),
    ]
)
_PICTURE_TURN = {
    "role": "user",
    "content": [{"type": kind} for kind in ("image_url", "image", "input_image")],
}
_URI = uri_of(picture())
# A path in the folder of pictures is written PATH, an address that leads to one URL.
_NAMES = st.sampled_from(
    [
        *(_URI, "PATH", "URL", "file://PATH"),
        *("data:image/png;base64,AAAA", uri_of(picture(), "image/gif"), "data:x", ""),
        *("cat.png", "/etc/passwd", "PATH/../x", "file:///%2e%2e/x", "//a/b"),
        *("ftp://picture.example/", "http://127.0.0.1/", "gs://a/b", "http://a@picture.example/"),
    ]
)
_BASE64 = _URI.partition(",")[2]
_SOURCES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["url", "path"]), "url": _NAMES}),
    st.fixed_dictionaries({"type": st.sampled_from(["path", "url"]), "path": _NAMES}),
    st.fixed_dictionaries(
        {
            "type": st.just("base64"),
            "data": st.sampled_from([_BASE64, _BASE64[:-1], "%"]),
            "media_type": st.sampled_from(["image/png", "image/gif", "", None]),
        }
    ),
)
_PICTURES = st.one_of(
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": _NAMES}),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries({"url": _NAMES}, optional={"path": _NAMES}),
        }
    ),
    st.fixed_dictionaries({"type": st.just("input_image"), "image_url": _NAMES}),
    st.fixed_dictionaries({"type": st.just("input_image"), "file_id": st.just("f")}),
    st.fixed_dictionaries({"type": st.just("image"), "image": _NAMES}),
    st.fixed_dictionaries({"type": st.just("image"), "source": _SOURCES}),
)


@st.composite
def _with_pictures(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the fields of a request that names pictures in any way, good and bad."""
    turn = {"role": "user", "content": draw(st.lists(_PICTURES, min_size=1, max_size=3))}
    return draw(st.sampled_from([{"messages": [turn]}, {"input": [turn]}]))


_SHAPES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *({}, {"tools": [{"type": "function"}]}, {"stream": True}, {"service_tier": "flex"}),
        *({"messages": [_PICTURE_TURN]}, {"input": [_PICTURE_TURN]}),
        *({"messages": [_PICTURE_TURN] * 3}, {"input": [_PICTURE_TURN] * 3}),
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
        *({"stream_format": "sse"}, {"response_format": {"type": "json_schema"}}),
    ]
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, dict[str, Any], bool, str | None]:
    path = draw(st.sampled_from(list(ENDPOINTS)))
    fields: dict[str, Any] = {**REQUESTS[path], **draw(_SHAPES | _with_pictures()), **draw(BODIES)}
    model = draw(_MODELS)
    fields.pop("model", None)
    if model is not None:
        fields["model"] = model
    if ENDPOINTS[path].form:
        fields = {"stream": draw(st.sampled_from(["true", "false", "maybe"])), **_texts(fields)}
    wish = draw(st.sampled_from([None, None, None, "high", "10", "system", "soon"]))
    return path, fields, draw(st.booleans()), wish


def _texts(fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": fields["model"]} if "model" in fields else {}


@contextmanager
def _running(folder: Path, names: dict[str, str]) -> Iterator[tuple[asyncio.Runner, RunningRouter]]:
    """Run a router; `names` gets what stands in it for PATH and URL."""
    (folder / "cat.png").write_bytes(picture())
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> RunningRouter:
            fm = await stack.enter_async_context(ScriptedUpstream(_serve))
            outer = await stack.enter_async_context(web(serves(picture())))
            names["PATH"] = f"{folder}/cat.png"
            names["URL"] = f"http://{SHOWN}:{outer.port}/"
            return await stack.enter_async_context(
                running_router(folder, network=small_network(), **_settings(fm, folder))
            )

        signalbox = runner.run(enter())
        try:
            yield runner, signalbox
        finally:
            runner.run(stack.aclose())


async def _explained(port: int, question: dict[str, Any]) -> tuple[str | None, ...]:
    told = await ask(
        port,
        JSON_TYPE,
        method="POST",
        path="/admin/explain",
        body=json.dumps(question).encode(),
    )
    assert told.status == 200, told
    if (error := told.content["error"]) is not None:
        return (error["code"], None, None)
    first = told.content["routes"][0]
    return (None, first["provider"], first["model"])


def _happened(told: Told) -> tuple[str | None, ...]:
    if told.code is not None:
        assert told.headers["x-signalbox-error"] == "1"
        return (told.code, None, None)
    return (None, told.headers["x-signalbox-provider"], told.headers["x-signalbox-model"])


def test_what_is_explained_is_what_happens(tmp_path: Path) -> None:
    """The first route or the refusal is the same, for a thousand requests."""
    names: dict[str, str] = {}
    with _running(tmp_path, names) as (runner, signalbox):

        async def both(
            path: str, fields: dict[str, Any], wish: str | None, *, local: bool
        ) -> tuple[tuple[str | None, ...], tuple[str | None, ...]]:
            question = {"path": path, "body": fields, "local_only": local, "priority": wish}
            kind, body = content_of(path, fields)
            lines = [kind, *(["x-signalbox-local-only: true"] if local else [])]
            lines += [f"x-priority: {wish}"] if wish is not None else []
            happened = await ask(signalbox.port, *lines, method="POST", path=path, body=body)
            return await _explained(signalbox.port, question), _happened(happened)

        @settings(max_examples=1000, suppress_health_check=list(HealthCheck), deadline=None)
        @given(_requests())
        def compare(request: tuple[str, dict[str, Any], bool, str | None]) -> None:
            path, fields, local, wish = request
            for name, stands_for in names.items():
                fields = json.loads(json.dumps(fields).replace(f'{name}"', f'{stands_for}"'))
            explained, happened = runner.run(both(path, fields, wish, local=local))
            assert explained == happened

        compare()


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ({"path": "/v1/nothing", "body": {}}, 400),
        ({"path": "/v1/embeddings", "body": {}, "odd": 1}, 400),
        ({"path": "/v1/embeddings", "body": []}, 400),
    ],
)
async def test_a_question_that_is_none_is_refused(
    tmp_path: Path, question: dict[str, Any], code: int
) -> None:
    """With what may be asked."""
    async with running_router(tmp_path) as signalbox:
        answer = await signalbox.client.post("/admin/explain", json=question)
    assert answer.status_code == code


async def test_the_priority_is_explained_too(tmp_path: Path) -> None:
    """The wish, else the service tier, else the default."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_settings(fm)) as signalbox:

        async def priority(**question: Any) -> Any:
            told = {"body": {}, **question}
            return (await signalbox.client.post("/admin/explain", json=told)).json()["priority"]

        assert await priority() == "low"
        assert await priority(priority=1) == "high"
        assert await priority(body={"service_tier": "priority"}) == "high"
        assert await priority(priority="soon") is None
