"""What is malformed, excessive or hostile in a request is refused by name, before anything acts."""

import asyncio
import gzip
import json
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.asking import (
    CHAT,
    HELLO,
    JSON_TYPE,
    Told,
    answer,
    ask,
    assert_error,
    one_provider,
    post,
)
from tests.harness.one_provider import DONE, STOP
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

MB = 1_000_000


async def _refused(folder: Path, code: str, *bodies: bytes) -> None:
    """Post bodies and check that each is refused and that nobody was called for it."""
    async with ScriptedUpstream() as fm, running_router(folder, **one_provider(fm)) as signalbox:
        for body in bodies:
            assert_error(await post(signalbox.port, body), 400, code)
        assert fm.connections == 0


# JSON


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"a":1} x', json.dumps(HELLO).encode()[:-1]]
)
async def test_row_1_what_is_no_json_is_refused(
    tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Malformed, cut and empty bodies are a 400, and nothing that anybody has to look at."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        told = await ask(
            signalbox.port,
            JSON_TYPE,
            *([] if body else ["content-length: 0"]),
            method="POST",
            path=CHAT,
            body=body,
        )
        assert_error(told, 400, "invalid_json")
        assert fm.connections == 0
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_row_2_deep_nesting_is_refused(tmp_path: Path) -> None:
    """Nesting beyond the limit is a 400, however deep it goes."""
    await _refused(
        tmp_path,
        "json_too_deep",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 100_000,
        b'{"messages":' + b"[" * 65 + b"]" * 65 + b"}",
    )


async def test_row_3_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    """What JSON cannot say is refused, wherever it stands."""
    numbers = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999")
    bodies = [b'{"messages":[{"temperature":%b}]}' % number for number in numbers]
    await _refused(tmp_path, "invalid_json", *bodies)


async def test_row_4_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    """A string that is no text is refused, as a value, as a key, and deep inside."""
    texts = (b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\\uDFFF x")
    places = (b'{"model":"%b"}', b'{"%b":1}', b'{"messages":[{"content":"%b"}]}')
    bodies = [place % text for place in places for text in texts]
    await _refused(tmp_path, "invalid_json", *bodies)


async def test_row_5_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    """Python's own limit for integers surfaces as a 400."""
    await _refused(tmp_path, "invalid_json", b'{"seed":' + b"9" * 5000 + b"}")


async def test_row_6_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Bad UTF-8, other encodings and a byte order mark are refused."""
    await _refused(
        tmp_path,
        "invalid_json",
        b'{"model":"\xff"}',
        b'{"messages":[{"content":"\xc3"}]}',
        b'{"model":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32"),
    )


async def test_row_7_of_two_equal_keys_the_last_counts_on_both_sides(tmp_path: Path) -> None:
    """What was authorised is what the provider gets: a key that came twice goes out once."""
    body = (
        b'{"model":"nobody/none","stream":true,"model":"fm/model-1","stream":false,"x":1,"x":[2]}'
    )
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        told = await post(signalbox.port, body)
        assert told.status == 200
        assert fm.seen[0].body == b'{"model":"model-1","stream":false,"x":[2]}'


async def test_row_8_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    """A request is an object."""
    await _refused(tmp_path, "invalid_request", b"[]", b"null", b'"text"', b"1", b"true", b"[{}]")


# Types and sizes


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/plain; application/json",
        "application/json, text/plain",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", CHAT), ("POST", "/admin/explain"), ("PUT", "/admin/capabilities/text")],
)
async def test_row_9_a_body_that_is_not_called_json_is_refused(
    tmp_path: Path, kind: str | None, method: str, path: str
) -> None:
    """What a web page may send without asking is refused before anything reads it."""
    lines = [] if kind is None else [f"content-type: {kind}"]
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        before = (await ask(signalbox.port, path="/admin/capabilities")).content
        told = await ask(signalbox.port, *lines, method=method, path=path, body=b'{"models":[]}')
        assert_error(told, 415, "unsupported_media_type")
        assert (await ask(signalbox.port, path="/admin/capabilities")).content == before
        assert fm.connections == 0


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/json;x=y"]
)
async def test_row_9_json_may_be_spelled_as_http_allows(tmp_path: Path, kind: str) -> None:
    """Letters of either size and parameters change nothing."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        told = await ask(
            signalbox.port,
            f"content-type: {kind}",
            method="POST",
            path=CHAT,
            body=json.dumps(HELLO).encode(),
        )
        assert told.status == 200


async def test_row_9_a_form_is_taken_where_the_protocol_has_forms_and_json_is_not(
    tmp_path: Path,
) -> None:
    """An audio upload is a form and nothing else."""
    path = "/v1/audio/transcriptions"
    async with running_router(tmp_path) as signalbox:
        told = await ask(
            signalbox.port,
            "content-type: multipart/form-data; boundary=x",
            method="POST",
            path=path,
            body=b"--x--",
        )
        assert_error(told, 404, "capability_not_assigned")
        assert_error(await post(signalbox.port, b"{}", path), 415, "unsupported_media_type")


async def _then_closed(client: RawClient, status: int, code: str) -> None:
    told = await answer(client)
    assert_error(told, status, code)
    assert told.headers["connection"] == "close"
    assert await client.rest() == b""


@pytest.mark.parametrize("length", ["1000001", "9" * 30, "9" * 5000])
@pytest.mark.parametrize("path", [CHAT, "/admin/explain"])
async def test_row_10_a_declared_size_over_the_limit_is_refused_before_it_is_sent(
    tmp_path: Path, length: str, path: str
) -> None:
    """Nothing of it is waited for; the connection is closed."""
    limits = {"body_mb": 1}
    async with (
        running_router(tmp_path, limits=limits) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{JSON_TYPE}\r\n"
            f"content-length: {length}\r\n\r\n".encode()
        )
        if len(length) > 18:
            # Where the parser itself refuses a number that no machine counts to, that will do.
            told = await answer(client)
            assert (told.status, told.headers["connection"]) in {(413, "close"), (400, "close")}
            assert told.content["error"]["code"]
        else:
            await _then_closed(client, 413, "body_too_large")


async def test_row_11_a_body_that_grows_over_the_limit_is_refused_when_it_does(
    tmp_path: Path,
) -> None:
    """No more is held than twice what is allowed, however much is sent."""
    piece = b"%x\r\n%b\r\n" % (65536, b"x" * 65536)
    async with (
        running_router(tmp_path, limits={"body_mb": 8}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        head = f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\n{JSON_TYPE}\r\n"
        tracemalloc.start()
        await client.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        told = asyncio.create_task(answer(client))
        sent = 0
        while not told.done() and sent < 64 * MB:
            try:
                await client.send(piece)
            except ConnectionError:
                break
            sent += 65536
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert_error(await told, 413, "body_too_large")
        assert sent < 32 * MB
        assert peak <= 2 * 8 * MB


async def test_row_11_bodies_together_are_bounded_too(tmp_path: Path) -> None:
    """What all requests hold together has a limit; over it a client is told when to come back."""
    limits = {"body_mb": 1, "buffered_mb": 1}
    part = b'{"model":"text","x":"' + b"x" * 700_000
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, limits=limits, **one_provider(fm)) as signalbox,
        RawClient(signalbox.port) as first,
        RawClient(signalbox.port) as second,
    ):
        lines = (
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\n{JSON_TYPE}\r\n"
            f"content-length: {len(part) + 2}\r\n\r\n"
        ).encode()
        await first.send(lines + part)
        async with asyncio.timeout(5):
            while signalbox.router.buffered.held < len(part):
                await asyncio.sleep(0.005)
        # Never whole, however much of it is read at once: what is not read ends the connection.
        await second.send(lines + part)
        told = await answer(second)
        assert_error(told, 429, "queue_full")
        assert told.headers["retry-after"] == "1"
        assert await second.rest() == b""
        await first.send(b'"}')
        assert (await answer(first)).status == 200
        assert (await post(signalbox.port, part + b'"}')).status == 200
    assert signalbox.router.buffered.held == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "GZIP"])
async def test_row_12_a_compressed_body_is_refused_and_never_inflated(
    tmp_path: Path, encoding: str
) -> None:
    """A bomb of 64 KiB stays 64 KiB."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        bomb = gzip.compress(b" " * 64 * MB)[:65536]
        told = await ask(
            signalbox.port,
            JSON_TYPE,
            f"content-encoding: {encoding}",
            method="POST",
            path=CHAT,
            body=bomb,
        )
        assert_error(told, 415, "unsupported_media_type")
        assert fm.connections == 0


# Injection


@pytest.mark.parametrize(
    "odd", ["\r\nx-evil: 1", "\nevil", "\x00", "\r", "\x1b[31m", "\u2028", "\x85"]
)
async def test_row_18_a_name_cannot_break_a_header_or_a_line_of_the_log(
    tmp_path: Path, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A model's name with a control character is a 400; a tool's stays inside its JSON."""
    caplog.set_level(logging.DEBUG)
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        told = await post(signalbox.port, json.dumps({**HELLO, "model": f"m{odd}"}).encode())
        assert_error(told, 400, "invalid_request")
        tools = [{"type": "function", "function": {"name": f"t{odd}", "parameters": {}}}]
        told = await post(
            signalbox.port, json.dumps({**HELLO, "model": "fm/model-1", "tools": tools}).encode()
        )
        assert "x-evil" not in told.headers
        told = await ask(signalbox.port, path="/v1/models/" + quote(f"m{odd}"))
        assert_error(told, 404, "model_not_found")
        assert "x-evil" not in told.headers
        assert [each.json["tools"] for each in fm.seen] == [tools]
    for record in caplog.records:
        assert record.getMessage().isprintable(), record


async def test_row_16_a_models_name_has_a_bound(tmp_path: Path) -> None:
    """It is sent back in a header and remembered, so that one of megabytes is refused."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        told = await post(signalbox.port, json.dumps({**HELLO, "model": "fm/" + "m" * MB}).encode())
        assert_error(told, 400, "invalid_request")
        assert told.content["error"]["param"] == "model"
        assert fm.connections == 0
        whole = await post(
            signalbox.port, json.dumps({**HELLO, "model": "fm/" + "m" * 1000}).encode()
        )
        assert whole.status == 200


@pytest.mark.parametrize("value", ["a\x00b", "a\rb", "a\nb", "\x00", "a\x7fb"])
@pytest.mark.parametrize("name", ["x-request-id", "x-priority", "x-other"])
async def test_row_18_a_header_with_a_control_character_is_refused(
    tmp_path: Path, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No header of an answer and no line of the log is made by a request."""
    async with running_router(tmp_path) as signalbox:
        told = await ask(signalbox.port, f"{name}: {value}")
        assert_error(told, 400, "invalid_request")
    assert all(record.getMessage().isprintable() for record in caplog.records)


# Doors


_SPELLINGS = [
    ("GET", CHAT, 405, "method_not_allowed"),
    ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ("POST", "/v1/models", 405, "method_not_allowed"),
    ("POST", "/health", 405, "method_not_allowed"),
    ("OPTIONS", CHAT, 405, "method_not_allowed"),
    ("PATCH", "/admin/capabilities", 405, "method_not_allowed"),
    ("POST", f"{CHAT}/", 404, "not_found"),
    ("GET", "/v1/models/", 404, "model_not_found"),
    ("GET", "//v1/models", 404, "not_found"),
    ("GET", "/v1//models", 404, "not_found"),
    ("GET", "/V1/models", 404, "not_found"),
    ("GET", "/v1/%2e%2e/admin/capabilities", 404, "not_found"),
    ("GET", "/v1/../admin/capabilities", 404, "not_found"),
    ("GET", "//admin/capabilities", 404, "not_found"),
    ("GET", "/health/..%2fadmin/capabilities", 404, "not_found"),
    ("GET", "/admin/nothing", 404, "not_found"),
    ("GET", "/admin/capabilities/", 404, "not_found"),
    ("GET", "/admin", 404, "not_found"),
    ("GET", "/", 404, "not_found"),
    ("GET", "/health/", 404, "not_found"),
    ("GET", "/health;x", 404, "not_found"),
    ("GET", "/health%00", 404, "not_found"),
    ("GET", "/metrics", 404, "not_found"),
    ("GET", "/%ff%fe", 404, "not_found"),
]


async def test_row_19_a_door_that_is_not_there_says_so(tmp_path: Path) -> None:
    """Wrong methods and other spellings are JSON errors; a 405 tells what is possible."""
    async with running_router(tmp_path) as signalbox:
        for method, path, status, code in _SPELLINGS:
            told = await ask(signalbox.port, JSON_TYPE, method=method, path=path)
            assert_error(told, status, code)
            if status == 405:
                assert told.headers["allow"]
                assert method not in told.headers["allow"]


async def test_row_19_no_spelling_of_a_path_opens_a_door(tmp_path: Path) -> None:
    """With keys set, whatever is not public is shut, and an API key opens no more than /v1."""
    server = {"api_keys": [{"env": "USER"}], "admin_key": {"env": "BOSS"}}
    environ = {"USER": "user", "BOSS": "boss"}
    async with running_router(tmp_path, server=server, environ=environ) as signalbox:
        for method, path, status, code in _SPELLINGS:

            async def told(*lines: str, method: str = method, path: str = path) -> Told:
                return await ask(signalbox.port, JSON_TYPE, *lines, method=method, path=path)

            shut = await told()
            if path == "/health":
                assert shut.status == 405
            else:
                assert_error(shut, 401, "invalid_api_key")
            user = await told("authorization: Bearer user")
            is_admins = path.startswith(("/admin", "/metrics"))
            assert user.status == (401 if is_admins else status)
            assert_error(await told("authorization: Bearer boss"), status, code)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/%6dodels", "http://127.0.0.1/v1/models"])
async def test_row_19_every_spelling_of_one_path_is_one_decision(tmp_path: Path, path: str) -> None:
    """An encoded letter and an absolute target are the path that they stand for."""
    server = {"api_keys": [{"env": "USER"}]}
    async with running_router(tmp_path, server=server, environ={"USER": "user"}) as signalbox:
        assert_error(await ask(signalbox.port, path=path), 401, "invalid_api_key")
        told = await ask(signalbox.port, "authorization: Bearer user", path=path)
        assert told.status == 200


async def test_row_19_a_path_that_only_reads_answers_head(tmp_path: Path) -> None:
    """Where GET is possible HEAD is, and has no body."""
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        for path in ("/health", "/v1/models"):
            await client.send(f"HEAD {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
            status, headers = await client.head()
            assert (status, headers["content-type"]) == (200, "application/json")
        await client.send(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await answer(client)).content == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/chat/completions", "must end in /v1"),
        ("/models", "must end in /v1"),
        ("/embeddings", "must end in /v1"),
        ("/responses", "must end in /v1"),
        ("/messages/count_tokens", "must end in /v1"),
        ("/v1/v1/chat/completions", "one /v1"),
        ("/v1/chat/completions/", "take the / off"),
        ("/metrics", "not built yet"),
    ],
)
async def test_row_19_a_near_miss_is_told_what_to_change(
    tmp_path: Path, path: str, hint: str
) -> None:
    """A forgotten /v1 and an endpoint of the protocol that is not there yet are named as such."""
    async with running_router(tmp_path) as signalbox:
        told = await post(signalbox.port, b"{}", path)
    assert_error(told, 404, "not_found")
    assert hint in told.content["error"]["message"]


# Hostile values


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", "auto", "text", "../../etc/passwd", "http://127.0.0.1:1/", "\x00", "\r\nx: y", "a/" * 99]
)
_NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.sampled_from(
    [
        *("messages", "model", "stream", "tools", "tool_choice", "functions", "response_format"),
        *("temperature", "max_tokens", "n", "stop", "stream_options", "service_tier", "metadata"),
        *("logit_bias", "audio", "modalities", "seed", "user", "x"),
    ]
)
_PARTS = st.sampled_from(["text", "image_url", "input_audio", "file", "video_url", "refusal"])


def _objects(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with some of the known fields, each as it should be or of any other kind."""
    return st.fixed_dictionaries(
        {}, optional={name: each | _VALUES for name, each in known.items()}
    )


_MESSAGES = st.lists(
    _objects(
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        content=_TEXTS
        | st.lists(_objects(type=_PARTS, text=_TEXTS, image_url=_VALUES), max_size=3),
        tool_calls=st.lists(_objects(id=_TEXTS, type=_TEXTS, function=_VALUES), max_size=2),
    ),
    max_size=3,
)
_CHATS = st.builds(
    lambda odd, messages, model: {"messages": messages, "model": model, **odd},
    st.dictionaries(_FIELDS, _VALUES, max_size=3),
    _MESSAGES,
    st.sampled_from(["auto", "text", "fm/model-1"]) | _VALUES,
)


async def _as_asked(conversation: Conversation) -> None:
    """Answer whole or as a stream."""
    if conversation.json.get("stream") is not True:
        return await conversation.answer()
    await conversation.begin_stream()
    await conversation.event(STOP + DONE)
    return await conversation.end_stream()


@contextmanager
def _running(folder: Path) -> Iterator[tuple[asyncio.Runner, RunningRouter]]:
    """Run one router for many examples."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> RunningRouter:
            fm = await stack.enter_async_context(ScriptedUpstream(_as_asked))
            return await stack.enter_async_context(running_router(folder, **one_provider(fm)))

        signalbox = runner.run(enter())
        try:
            yield runner, signalbox
        finally:
            runner.run(stack.aclose())


def _check(told: Told) -> None:
    """Check that an answer is none of our failures, and an error only in the error's shape."""
    assert told.status < 500, told
    if told.status >= 400:
        assert_error(told, told.status, str(told.code))


def test_row_21_no_value_of_a_chat_fails_the_router(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever stands in a field, the answer is the provider's or an error with a code."""
    with _running(tmp_path) as (runner, signalbox):

        @settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
        @given(_CHATS, st.none() | _TEXTS)
        def ask_it(chat: dict[str, Any], priority: str | None) -> None:
            path = CHAT if priority is None else f"{CHAT}?priority={quote(priority)}"
            _check(runner.run(post(signalbox.port, json.dumps(chat).encode(), path)))

        ask_it()
    assert "failed" not in caplog.text


def test_row_21_no_value_fails_the_control_plane(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every route under /admin answers odd names, queries and bodies with an error of a code."""
    with _running(tmp_path) as (runner, signalbox):
        schema = runner.run(ask(signalbox.port, path="/admin/openapi.json")).content
        routes = [
            (method.upper(), path)
            for path, methods in schema["paths"].items()
            for method in methods
            # Its answer never ends.
            if path != "/admin/events"
        ]
        bodies = _objects(
            models=st.lists(st.sampled_from(["fm/model-1", "fm/x"]) | _TEXTS, max_size=3),
            path=st.just(CHAT),
            body=_CHATS,
        )

        @settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)
        @given(
            st.sampled_from(routes),
            st.sampled_from(["text", "vision"]) | _TEXTS,
            bodies | _VALUES,
            st.none() | _TEXTS,
        )
        def ask_it(route: tuple[str, str], name: str, body: Any, wait: str | None) -> None:
            method, path = route
            for parameter in ("capability", "name", "model", "number"):
                path = path.replace("{" + parameter + "}", quote(name, safe=""))
            if wait is not None:
                path += f"?wait={quote(wait)}"
            data = json.dumps(body).encode() if method in {"POST", "PUT", "PATCH"} else b""
            lines = [JSON_TYPE] if data else []
            _check(runner.run(ask(signalbox.port, *lines, method=method, path=path, body=data)))

        ask_it()
    assert "failed" not in caplog.text
