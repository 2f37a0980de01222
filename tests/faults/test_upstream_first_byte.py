"""Providers that fail before the first byte of their answer: the next is asked, or it is said."""

import asyncio
import datetime as dt
import gzip
import json
import logging
import socket
from contextlib import AsyncExitStack
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.harness.authority import Authority
from tests.harness.one_provider import (
    DELTA,
    DONE,
    HELLO,
    STOP,
    STREAMED,
    error_of,
    one_provider,
    streams,
    two_providers,
)
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, Script, ScriptedUpstream, hello

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_ERROR = b'{ "error" : {"message":"no","odd":1} }'


def _answers(body: bytes, status: int = 200, kind: str = "application/json", **more: str) -> Script:
    """Return the script of a provider that always gives this answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(body, status, kind, **more)

    return script


def _sends(data: bytes) -> Script:
    """Return the script of a provider that sends these bytes and closes."""

    async def script(conversation: Conversation) -> None:
        await conversation.send(data)
        conversation.close()

    return script


async def _resets(conversation: Conversation) -> None:
    conversation.reset()


async def _hangs(conversation: Conversation) -> None:
    await conversation.left()


async def test_row_36_a_closed_port_is_unreachable_and_the_next_request_works(
    tmp_path: Path,
) -> None:
    """A provider that is down is a 502 that says so; the router goes on."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={
                "down": openai_provider("http://127.0.0.1:9/v1"),
                "fm": openai_provider(fm.url),
            },
        ) as signalbox,
    ):
        response = await signalbox.chat({**HELLO, "model": "down/m"})
        again = await signalbox.chat({**HELLO, "model": "fm/m"})
    error = error_of(response.content)
    assert (response.status_code, error["code"]) == (502, "upstream_unreachable")
    assert "running" in error["message"]
    assert again.status_code == 200


async def test_row_36_a_closed_port_leads_to_the_next_provider(tmp_path: Path) -> None:
    """Nothing was sent, so the next provider may be asked, and the headers tell."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={
                "down": openai_provider("http://127.0.0.1:9/v1"),
                "fm": openai_provider(fm.url),
            },
            capabilities={"text": ["down/m", "fm/m"]},
        ) as signalbox,
    ):
        response = await signalbox.chat(HELLO)
    assert response.status_code == 200
    assert response.headers["x-signalbox-provider"] == "fm"
    assert response.headers["x-signalbox-attempts"] == "2"


@pytest.mark.parametrize("asked", [HELLO, STREAMED])
async def test_row_37_a_provider_that_hangs_is_a_timeout_and_nothing_is_sent_twice(
    tmp_path: Path, tls: Authority | None, asked: dict[str, object]
) -> None:
    """The first-byte deadline ends the wait; the request may be running, so no one else gets it."""
    async with two_providers(tmp_path, tls, _hangs, hello, timeouts={"first_byte_s": 0.2}) as (
        fm,
        other,
        signalbox,
    ):
        response = await signalbox.chat(asked)
    assert (response.status_code, error_of(response.content)["code"]) == (504, "upstream_timeout")
    assert (len(fm.seen), len(other.seen)) == (1, 0)


async def test_row_37_a_stream_that_never_has_an_event_is_a_timeout(
    tmp_path: Path, tls: Authority | None
) -> None:
    """A head alone is no answer."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.left()

    async with one_provider(tmp_path, tls, script, timeouts={"first_byte_s": 0.2}) as (
        _,
        signalbox,
    ):
        response = await signalbox.chat(STREAMED)
    assert (response.status_code, error_of(response.content)["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("deadline", ["connect_s", "first_byte_s"])
async def test_row_38_a_full_backlog_is_a_timeout_of_the_connection(
    tmp_path: Path, deadline: str
) -> None:
    """Whichever deadline ends a connection that is never made, the next provider is asked."""
    async with AsyncExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        fm = await stack.enter_async_context(ScriptedUpstream())
        address = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        signalbox = await stack.enter_async_context(
            running_router(
                tmp_path,
                providers={"full": openai_provider(address), "fm": openai_provider(fm.url)},
                capabilities={"text": ["full/m", "fm/m"]},
                timeouts={deadline: 0.2},
            )
        )
        alone = await signalbox.chat({**HELLO, "model": "full/m"})
        served = await signalbox.chat(HELLO)
    assert (alone.status_code, error_of(alone.content)["code"]) == (504, "upstream_timeout")
    assert served.headers["x-signalbox-provider"] == "fm"


@pytest.mark.parametrize("asked", [HELLO, STREAMED])
async def test_row_39_a_reset_after_the_request_is_not_tried_again(
    tmp_path: Path, tls: Authority | None, asked: dict[str, object]
) -> None:
    """The request may have been executed: it is a 502, and nobody else gets it."""
    async with two_providers(tmp_path, tls, _resets, hello) as (fm, other, signalbox):
        response = await signalbox.chat(asked)
    assert (response.status_code, error_of(response.content)["code"]) == (502, "upstream_reset")
    assert (len(fm.seen), len(other.seen)) == (1, 0)


async def test_row_40_a_kept_connection_that_dies_under_a_request_is_not_tried_again(
    tmp_path: Path,
    tls: Authority | None,
) -> None:
    """A POST on a connection that was used before may have been executed as well."""

    async def script(conversation: Conversation) -> None:
        if "die" in conversation.json:
            conversation.reset()
        else:
            await conversation.answer()

    async with two_providers(tmp_path, tls, script, hello) as (fm, other, signalbox):
        assert (await signalbox.chat(HELLO)).status_code == 200
        response = await signalbox.chat({**HELLO, "die": True})
        assert (await signalbox.chat(HELLO)).status_code == 200
    assert (response.status_code, error_of(response.content)["code"]) == (502, "upstream_reset")
    assert (fm.connections, len(fm.seen), len(other.seen)) == (2, 3, 0)


async def test_row_40_a_kept_connection_that_was_closed_costs_no_request(
    tmp_path: Path, tls: Authority | None
) -> None:
    """What a provider closed while it was idle is not used again."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer()
        conversation.close()

    async with one_provider(tmp_path, tls, script) as (fm, signalbox):
        for _ in range(20):
            assert (await signalbox.chat(HELLO)).status_code == 200
    assert fm.connections == 20


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        _HEAD + b"x-long: " + b"x" * (100 << 10) + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 1000 + _HEAD + b"\r\n{}",
        _HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    ],
    ids=["garbage", "100 KiB header", "endless 103", "two lengths"],
)
async def test_row_41_what_is_not_http_is_a_bad_gateway(
    tmp_path: Path, tls: Authority | None, data: bytes
) -> None:
    """Garbage, endless headers and endless announcements are refused."""
    async with one_provider(tmp_path, tls, _sends(data)) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == 502
    assert error_of(response.content)["code"] == "upstream_protocol_error"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", "text/html"),
        (200, CHAT, "text/html"),
        (200, b"{oops", "application/json"),
        (200, b"", "application/json"),
        (200, b'{"a":"\xff"}', "application/json"),
        (200, b"[" * 100_000, "application/json"),
        (201, CHAT, "application/json"),
        (999, CHAT, "application/json"),
    ],
    ids=["HTML", "called HTML", "no JSON", "empty", "bad UTF-8", "deep", "201", "999"],
)
async def test_row_42_what_is_not_the_protocol_is_a_bad_gateway(
    tmp_path: Path, tls: Authority | None, status: int, body: bytes, kind: str
) -> None:
    """Nothing of such an answer reaches the client."""
    async with one_provider(tmp_path, tls, _answers(body, status, kind)) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-signalbox-error"] == "1"
    assert error_of(response.content)["code"] == "upstream_invalid_response"
    assert b"html" not in response.content.replace(b"text/html", b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_43_a_redirect_is_not_followed(
    tmp_path: Path, tls: Authority | None, status: int
) -> None:
    """Neither the prompt nor the key goes where a provider points."""
    async with ScriptedUpstream() as elsewhere:
        script = _answers(b"{}", status, location=f"{elsewhere.url}/chat/completions")
        async with one_provider(
            tmp_path,
            tls,
            script,
            fm={"api_key": {"env": "FM_KEY"}},
            environ={"FM_KEY": "sk-secret"},
        ) as (_, signalbox):
            response = await signalbox.chat(HELLO)
        assert elsewhere.connections == 0
    assert response.status_code == 502
    assert error_of(response.content)["code"] == "upstream_invalid_response"
    assert "location" not in response.headers


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("asked", [HELLO, STREAMED])
async def test_row_44_a_refusal_of_our_key_is_not_the_callers(
    tmp_path: Path,
    tls: Authority | None,
    caplog: pytest.LogCaptureFixture,
    status: int,
    asked: dict[str, object],
) -> None:
    """It is a 502 that no SDK retries, and no word of the provider's, which may repeat the key."""
    caplog.set_level(logging.DEBUG)
    body = b'{"error":{"message":"Incorrect API key provided: sk-secret","code":"x"}}'
    async with one_provider(
        tmp_path,
        tls,
        _answers(body, status, www_authenticate="Bearer"),
        fm={"api_key": {"env": "FM_KEY"}},
        environ={"FM_KEY": "sk-secret"},
    ) as (fm, signalbox):
        response = await signalbox.chat(asked)
    assert fm.seen[0].headers["authorization"] == "Bearer sk-secret"
    error = error_of(response.content)
    assert (response.status_code, error["code"]) == (502, "provider_auth_error")
    assert "api_key" in error["message"]
    assert response.headers["x-should-retry"] == "false"
    assert "www-authenticate" not in response.headers
    assert b"sk-secret" not in response.content
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("status", [400, 404, 422, 429])
async def test_row_45_a_refusal_in_openais_shape_passes_untouched(
    tmp_path: Path, tls: Authority | None, status: int
) -> None:
    """Status, bytes and Retry-After are the provider's, whatever type they claim."""
    script = _answers(_ERROR, status, "text/html", retry_after="7", x_ratelimit_reset="1s")
    async with two_providers(tmp_path, tls, script, hello) as (_, other, signalbox):
        response = await signalbox.chat(HELLO)
    assert (response.status_code, response.content) == (status, _ERROR)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-ratelimit-reset"] == "1s"
    assert "x-signalbox-error" not in response.headers
    assert other.connections == 0


def _in_seconds(seconds: int) -> str:
    """Return a point in time as HTTP writes it."""
    at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return format_datetime(at, usegmt=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("0", {"0"}),
        ("120", {"120"}),
        ("121", {"120"}),
        ("9" * 5000, {"120"}),
        # Each worker makes its own list of the tests, and the lists must be the same.
        pytest.param(_in_seconds(3600), {"120"}, id="in an hour"),
        pytest.param(_in_seconds(-3600), {"0"}, id="an hour ago"),
        ("-1", {None}),
        ("1.5", {None}),
        ("soon", {None}),
        ("", {None}),
        ("Wed, 99 Foo 2026 00:00:00 GMT", {None}),
        ("\u00b2", {None}),
    ],
    ids=str,
)
async def test_row_45_retry_after_is_clamped_and_nonsense_is_dropped(
    tmp_path: Path, tls: Authority | None, given: str, told: set[str | None]
) -> None:
    """No SDK waits longer than two minutes, nor can it read what is no number and no date."""
    async with one_provider(tmp_path, tls, _answers(_ERROR, 429, retry_after=given)) as (
        _,
        signalbox,
    ):
        response = await signalbox.chat(HELLO)
    assert response.status_code == 429
    assert response.headers.get("retry-after") in told


@pytest.mark.parametrize("status", [500, 502, 503, 529])
@pytest.mark.parametrize("shaped", [True, False])
async def test_row_46_a_server_error_is_answered_by_the_next_provider(
    tmp_path: Path, tls: Authority | None, status: int, shaped: bool
) -> None:
    """A provider that fails before its first byte is passed over, and the headers tell."""
    script = _answers(_ERROR if shaped else b"<html>", status)
    async with two_providers(tmp_path, tls, script, hello) as (_, _, signalbox):
        response = await signalbox.chat(HELLO)
    assert (response.status_code, response.content) == (200, CHAT)
    assert response.headers["x-signalbox-provider"] == "other"
    assert response.headers["x-signalbox-attempts"] == "2"


@pytest.mark.parametrize("status", [500, 502, 503, 529])
@pytest.mark.parametrize("shaped", [True, False])
async def test_row_46_a_server_error_keeps_its_status_where_nobody_else_is_there(
    tmp_path: Path, tls: Authority | None, status: int, shaped: bool
) -> None:
    """It comes in OpenAI's shape, and as it was where it had that shape."""
    script = _answers(_ERROR if shaped else b"<html>", status, "text/html", retry_after="3")
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "3"
    if shaped:
        assert response.content == _ERROR
    else:
        error = error_of(response.content)
        assert (error["type"], error["code"]) == ("server_error", "upstream_invalid_response")
        assert "html" not in error["message"]


async def test_row_46_a_stream_that_begins_with_an_error_leads_to_the_next_provider(
    tmp_path: Path,
    tls: Authority | None,
) -> None:
    """The status line is held until the first event, so this is still a fallback."""
    script = streams(b": hi\n\n", b'data: {"error":{"message":"no"}}\n\n')
    async with two_providers(tmp_path, tls, script, streams(DELTA, STOP, DONE)) as (
        _,
        _,
        signalbox,
    ):
        response = await signalbox.chat(STREAMED)
    assert (response.status_code, response.content) == (200, DELTA + STOP + DONE)
    assert response.headers["x-signalbox-attempts"] == "2"


@pytest.mark.parametrize("error", ['{"message":"no","code":"own"}', '"no"'])
async def test_row_46_a_stream_that_begins_with_an_error_is_an_error(
    tmp_path: Path, tls: Authority | None, error: str
) -> None:
    """Where nobody else is there the client gets a 502 with an error object."""
    payload = f'{{"error":{error}}}'.encode()
    script = streams(b"data: " + payload + b"\n\n")
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(STREAMED)
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/json"
    assert error_of(response.content)["code"] in {"own", "upstream_invalid_response"}


@pytest.mark.parametrize("status", [400, 500])
async def test_row_47_a_huge_error_is_not_read_to_its_end(
    tmp_path: Path, tls: Authority | None, status: int
) -> None:
    """Of an error's body 64 KiB are read; the answer says what there was."""
    sent = 0
    size = 10 << 20

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.send(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (status, size)
        )
        await conversation.send(b'{"error":{"message":"')
        while sent < size:
            await conversation.send(b"x" * 65536)
            sent += 65536

    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == status
    assert len(response.content) < 1000
    assert "without an error that can be read" in error_of(response.content)["message"]
    assert sent < size


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b'{"error":"model \'x\' not found"}', "application/json", "model 'x' not found"),
        (b'{"detail":"Not Found"}', "application/json", "Not Found"),
        (b"no such\r\nmodel\n", "text/plain; charset=utf-8", "no such model"),
        (b'{"error":"' + b"x" * 5000 + b'"}', "application/json", "x" * 500),
        (b'{"error":"a\\u0007b"}', "application/json", None),
        (b"<html>secret</html>", "text/html", None),
        (b'{"error":null}', "application/json", None),
        (b'{"error":{}}', "application/json", None),
        (b'["no"]', "application/json", None),
        (b"\xff\xfe", "text/plain", None),
        (b"", "text/plain", None),
    ],
)
async def test_row_47_a_local_providers_own_words_are_shown(
    tmp_path: Path, tls: Authority | None, body: bytes, kind: str, text: str | None
) -> None:
    """An error of another dialect is wrapped, with up to 500 characters of what it says."""
    async with one_provider(tmp_path, tls, _answers(body, 404, kind)) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    error = error_of(response.content)
    assert (response.status_code, error["code"]) == (404, "not_found")
    if text is None:
        assert error["message"] == "fm answered 404 without an error that can be read."
    else:
        assert error["message"] == f"fm answered 404: {text}"


@pytest.mark.parametrize(
    ("status", "more"), [(404, {"locality": "remote"}), (500, {}), (500, {"locality": "remote"})]
)
async def test_row_47_words_that_may_hold_a_secret_are_not_shown(
    tmp_path: Path, tls: Authority | None, status: int, more: dict[str, str]
) -> None:
    """A cloud's error may repeat a key, a server's own failure a path of its machine."""
    script = _answers(b'{"error":"sk-secret in /home/me"}', status)
    async with one_provider(tmp_path, tls, script, fm=more) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == status
    assert b"secret" not in response.content


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "x-odd"])
@pytest.mark.parametrize("asked", [HELLO, STREAMED])
async def test_row_48_an_encoded_answer_is_refused_and_never_inflated(
    tmp_path: Path, tls: Authority | None, encoding: str, asked: dict[str, object]
) -> None:
    """Nothing but identity was asked for, so a bomb does not go off."""
    bomb = gzip.compress(b" " * (16 << 20))
    kind = "text/event-stream" if asked is STREAMED else "application/json"
    script = _answers(bomb, 200, kind, content_encoding=encoding)
    async with one_provider(tmp_path, tls, script) as (fm, signalbox):
        response = await signalbox.chat(asked)
    assert fm.seen[0].headers["accept-encoding"] == "identity"
    assert response.status_code == 502
    error = error_of(response.content)
    assert error["code"] == "upstream_invalid_response"
    # Refused for what its head says, before any of its body is looked at.
    assert "encoding" in error["message"]


async def test_row_48_an_encoded_error_is_wrapped(tmp_path: Path, tls: Authority | None) -> None:
    """An error that cannot be read without inflating it is none that can be read."""
    script = _answers(gzip.compress(_ERROR), 400, content_encoding="gzip")
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert response.status_code == 400
    assert "content-encoding" not in response.headers
    assert error_of(response.content)["code"] == "invalid_request"


async def test_row_49_a_proxy_of_the_environment_sees_nothing(
    tmp_path: Path, tls: Authority | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to this machine goes to this machine."""
    async with ScriptedUpstream() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with one_provider(tmp_path, tls, hello) as (_, signalbox):
            assert (await signalbox.chat(HELLO)).status_code == 200
        assert proxy.connections == 0


async def test_row_50_localhost_is_never_a_stranger_on_the_other_protocol(tmp_path: Path) -> None:
    """`localhost` is 127.0.0.1, whoever listens on the same port of ::1."""
    strangers = 0

    async def stranger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal strangers
        strangers += 1
        writer.close()

    async with ScriptedUpstream() as fm:
        six = await asyncio.start_server(stranger, "::1", fm.port)
        try:
            async with running_router(
                tmp_path,
                providers={"fm": openai_provider(fm.url.replace("127.0.0.1", "localhost"))},
                capabilities={"text": ["fm/m"]},
            ) as signalbox:
                response = await signalbox.chat(HELLO)
        finally:
            six.close()
            await six.wait_closed()
    assert response.status_code == 200
    assert strangers == 0


async def test_row_51_nothing_of_the_clients_headers_reaches_a_provider(
    tmp_path: Path, tls: Authority | None
) -> None:
    """Credentials, cookies and fingerprints stay; the provider's own key and headers go."""
    async with one_provider(
        tmp_path,
        tls,
        hello,
        environ={"FM_KEY": "sk-provider"},
        fm={"api_key": {"env": "FM_KEY"}, "headers": {"x-team": "a"}, "locality": "remote"},
    ) as (fm, signalbox):
        await signalbox.chat(
            HELLO,
            authorization="Bearer sk-caller",
            connection="keep-alive, x-foo",
            cookie="a=b",
            te="trailers",
            **{
                "x-foo": "1",
                "x-api-key": "sk-caller",
                "proxy-authorization": "Basic sk-caller",
                "x-stainless-os": "MacOS",
                "traceparent": "00-1-1-01",
                "x-forwarded-for": "1.2.3.4",
                "forwarded": "for=1.2.3.4",
            },
        )
    assert fm.seen[0].headers == {
        "host": f"127.0.0.1:{fm.port}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-provider",
        "x-team": "a",
        "content-length": str(len(fm.seen[0].body)),
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_row_51_of_a_providers_headers_only_those_of_the_protocol_come_back(
    tmp_path: Path, tls: Authority | None, stream: bool
) -> None:
    """No cookie, server name or rule for browsers is set by a provider."""
    kind = "text/event-stream" if stream else "application/json"
    script = _answers(
        DELTA + STOP + DONE if stream else CHAT,
        kind=kind,
        connection="keep-alive, x-foo",
        x_foo="1",
        keep_alive="timeout=5",
        set_cookie="a=b",
        server="secret",
        access_control_allow_origin="*",
        strict_transport_security="max-age=1",
        alt_svc="h3",
        x_request_id="u1",
        openai_processing_ms="9",
        x_signalbox_provider="forged",
    )
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(STREAMED if stream else HELLO)
    assert response.status_code == 200
    told = set(response.headers) - {"date", "content-length", "transfer-encoding", "connection"}
    assert {name for name in told if not name.startswith("x-signalbox-")} == {
        "content-type",
        "x-request-id",
        "x-upstream-request-id",
        "openai-processing-ms",
    }
    assert response.headers["x-upstream-request-id"] == "u1"
    assert response.headers.get_list("x-signalbox-provider") == ["fm"]


async def test_row_51_an_answer_is_json_whatever_a_header_of_the_provider_holds(
    tmp_path: Path,
    tls: Authority | None,
) -> None:
    """A value that cannot travel in a header costs the header, not the answer."""
    script = _sends(
        _HEAD + b"openai-organization: \xe2\x82\xac\r\nx-ratelimit-limit: 9\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(CHAT), CHAT)
    )
    async with one_provider(tmp_path, tls, script) as (_, signalbox):
        response = await signalbox.chat(HELLO)
    assert json.loads(response.content)
    assert "openai-organization" not in response.headers
    assert response.headers["x-ratelimit-limit"] == "9"
