"""Who may knock: Host, Origin, Sec-Fetch-Site, Content-Type, keys, and what errors look like."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

HELLO = {"model": "text", "messages": [{"role": "user", "content": "hello"}]}
CHAT = "/v1/chat/completions"


def _one(upstream: ScriptedUpstream, **server: Any) -> dict[str, Any]:
    return {
        "providers": {"fm": openai_provider(upstream.url)},
        "capabilities": {"text": ["fm/m"]},
        "server": server,
    }


async def _ask(port: int, *lines: str, method: str = "GET", path: str = "/v1/models") -> Any:
    """Send a request with exactly these header lines; return status, headers and decoded body."""
    async with RawClient(port) as client:
        head = "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", *lines))
        await client.send(f"{head}\r\n".encode("latin-1"))
        status, headers = await client.head()
        body = await client.body(headers) if status != 204 else b""
    return status, headers, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("hosts", "status", "code"),
    [
        (["127.0.0.1"], 200, None),
        (["127.0.0.1:1"], 200, None),
        (["localhost:60315"], 200, None),
        (["LocalHost"], 200, None),
        (["[::1]:60315"], 200, None),
        (["box.lan"], 200, None),
        (["evil.com:60315"], 403, "host_not_allowed"),
        (["127.0.0.1.evil.com"], 403, "host_not_allowed"),
        (["localhost."], 403, "host_not_allowed"),
        (["evil.com@127.0.0.1"], 403, "host_not_allowed"),
        (["127.0.0.1/health?"], 403, "host_not_allowed"),
        ([""], 400, "invalid_request"),
        ([], 400, "invalid_request"),
        (["127.0.0.1", "evil.com"], 400, "invalid_request"),
    ],
)
async def test_only_this_machines_names_are_answered(
    tmp_path: Path, hosts: list[str], status: int, code: str | None
) -> None:
    """A page that rebinds its name to loopback is refused, wherever it knocks."""
    lines = [f"host: {host}" for host in hosts]
    async with running_router(tmp_path, server={"allowed_hosts": ["box.lan"]}) as signalbox:
        for path in ("/v1/models", "/health", "/admin/capabilities", "/nothing"):
            got, headers, body = await _ask(signalbox.port, *lines, path=path)
            if code is None:
                assert got == (404 if path == "/nothing" else status)
            else:
                assert (got, body["error"]["code"]) == (status, code)
                assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["origin: https://evil.com"], 403),
        (["origin: null"], 403),
        (["origin: http://127.0.0.1:1"], 403),
        (["origin: http://127.0.0.1"], 200),
        (["origin: tauri://localhost"], 200),
        (["origin: tauri://localhost", "sec-fetch-site: cross-site"], 200),
        (["origin: tauri://localhost", "origin: https://evil.com"], 403),
        (["sec-fetch-site: cross-site"], 403),
        (["sec-fetch-site: same-origin"], 200),
    ],
)
async def test_other_web_pages_are_refused(tmp_path: Path, lines: list[str], status: int) -> None:
    """Only our own origin and listed ones pass; a listed one is echoed exactly."""
    server = {"allowed_origins": ["tauri://localhost"]}
    async with running_router(tmp_path, server=server) as signalbox:
        got, headers, _ = await _ask(signalbox.port, "host: 127.0.0.1", *lines)
    assert got == status
    listed = status == 200 and "origin: tauri://localhost" in lines
    assert headers.get("access-control-allow-origin") == ("tauri://localhost" if listed else None)
    assert headers.get("vary") == ("Origin" if listed else None)


async def test_a_preflight_is_answered_for_listed_origins_only(tmp_path: Path) -> None:
    """A listed page learns what it may send; another one is refused."""
    server = {"allowed_origins": ["tauri://localhost"]}
    host = "host: 127.0.0.1"
    asks = ("origin: tauri://localhost", "access-control-request-method: POST")
    async with running_router(tmp_path, server=server) as signalbox:
        port = signalbox.port
        good, headers, _ = await _ask(port, host, *asks, method="OPTIONS", path=CHAT)
        bad, _, _ = await _ask(port, host, "origin: http://evil", method="OPTIONS", path=CHAT)
        none, _, _ = await _ask(port, host, method="OPTIONS", path=CHAT)
    assert (good, bad, none) == (204, 403, 405)
    assert "content-type" in headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/admin/explain"])
async def test_a_form_cannot_post_json(tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    """What a web page may send without asking is refused before anything reads it."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        response = await signalbox.client.post(
            path, content=json.dumps(HELLO).encode(), headers=headers
        )
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"
    assert fm.seen == []


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """A declared size over the cap is answered at once, an undeclared one when it is crossed."""
    over = (1 << 20) + 1
    async with running_router(tmp_path, limits={"body_mb": 1}) as signalbox:
        status, _, body = await _ask(
            signalbox.port,
            "host: 127.0.0.1",
            "content-type: application/json",
            f"content-length: {over}",
            method="POST",
            path=CHAT,
        )
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        async with RawClient(signalbox.port) as client:
            await client.send(
                f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                f"transfer-encoding: chunked\r\n\r\n{over:x}\r\n".encode()
                + b"x" * over
            )
            status, headers = await client.head()
            assert status == 413
            await client.body(headers)


@pytest.mark.parametrize(
    ("more", "status"),
    [("content-length: 2000000", 413), ("content-length: 9\r\norigin: http://evil.com", 403)],
)
async def test_a_connection_whose_body_was_not_read_is_closed(
    tmp_path: Path, more: str, status: int
) -> None:
    """What a refused client goes on sending is neither read nor taken for another request."""
    async with (
        running_router(tmp_path, limits={"body_mb": 1}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"{more}\r\n\r\n".encode()
        )
        answered, headers = await client.head()
        assert (answered, headers["connection"]) == (status, "close")
        await client.body(headers)
        assert await client.rest() == b""


async def test_an_empty_form_changes_nothing(tmp_path: Path) -> None:
    """A form without fields has a type and no body: it is refused like any other form."""
    async with running_router(tmp_path) as signalbox:
        response = await signalbox.client.post(
            "/admin/backends/builtin/restart",
            headers={"content-type": "application/x-www-form-urlencoded"},
        )
    assert response.status_code == 415


@pytest.mark.parametrize("second", ["false", "0", ""])
async def test_one_prohibition_is_enough(tmp_path: Path, second: str) -> None:
    """A second x-signalbox-local-only header does not lift the first."""
    async with ScriptedUpstream() as fm:
        settings = _one(fm)
        settings["providers"]["fm"]["locality"] = "remote"
        async with running_router(tmp_path, **settings) as signalbox:
            response = await signalbox.client.post(
                CHAT,
                json=HELLO,
                headers=[("x-signalbox-local-only", "true"), ("x-signalbox-local-only", second)],
            )
        assert fm.seen == []
    assert response.json()["error"]["code"] == "remote_not_allowed"


@pytest.mark.parametrize(
    ("headers", "v1", "admin"),
    [
        ({}, 401, 401),
        ({"authorization": "Bearer wrong"}, 401, 401),
        ({"authorization": "Basic a2V5"}, 401, 401),
        ({"authorization": "Bearer one"}, 200, 401),
        ({"authorization": "bearer two"}, 200, 401),
        ({"x-api-key": "one"}, 200, 401),
        ({"authorization": "Bearer boss"}, 200, 200),
        ({"x-api-key": "boss"}, 200, 200),
    ],
)
async def test_each_door_wants_its_key(
    tmp_path: Path, headers: dict[str, str], v1: int, admin: int
) -> None:
    """With keys set, /v1 takes an API key or the admin key, /admin the admin key alone."""
    server = {"api_keys": [{"env": "K1"}, {"env": "K2"}], "admin_key": {"env": "BOSS"}}
    environ = {"K1": "one", "K2": "two", "BOSS": "boss"}
    async with running_router(tmp_path, server=server, environ=environ) as signalbox:
        client = signalbox.client
        assert (await client.get("/v1/models", headers=headers)).status_code == v1
        assert (await client.get("/v1/models?api_key=one")).status_code == 401
        assert (await client.get("/admin/capabilities", headers=headers)).status_code == admin
        assert (await client.get("/health")).status_code == 200


async def test_without_keys_any_bearer_is_accepted(tmp_path: Path) -> None:
    """SDKs insist on a key; where none is configured, whatever they send is fine."""
    async with running_router(tmp_path) as signalbox:
        told = {"authorization": "Bearer sk-anything"}
        assert (await signalbox.client.get("/v1/models", headers=told)).status_code == 200


@pytest.mark.parametrize(
    ("told", "echoed"), [("abc-1", True), ("a b", False), ("x" * 200, False), (None, False)]
)
async def test_every_answer_bears_a_request_id(
    tmp_path: Path, told: str | None, echoed: bool
) -> None:
    """The client's own id comes back where it is fit for a header; else a new one is made."""
    headers = {"x-request-id": told} if told else {}
    async with running_router(tmp_path) as signalbox:
        for path in ("/v1/models", "/admin/capabilities", "/nothing", "/v1/models/none"):
            response = await signalbox.client.get(path, headers=headers)
            assert (response.headers["x-request-id"] == told) is echoed
            assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/chat/completions", 404, "not_found"),
        ("GET", "/models", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
        ("GET", "/v1/chat/completions/", 404, "not_found"),
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/admin/nothing", 404, "not_found"),
        ("PATCH", "/admin/capabilities", 405, "method_not_allowed"),
    ],
)
async def test_wrong_doors_are_told_in_openais_shape(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    """Unknown paths and methods are JSON errors; a forgotten /v1 is named."""
    async with running_router(tmp_path) as signalbox:
        response = await signalbox.client.request(
            method, path, content=b"{}", headers={"content-type": "application/json"}
        )
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if status == 405:
        assert response.headers["allow"]
    if path in {"/chat/completions", "/models"}:
        assert "/v1" in response.json()["error"]["message"]


async def test_an_unforeseen_failure_is_logged_and_told_as_an_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours is a JSON 500 with an id and no trace of the code."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_one(fm)) as signalbox:
        del signalbox.router.reaches["fm"]
        response = await signalbox.chat(HELLO)
        assert (await signalbox.client.get("/v1/models")).status_code == 200
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "internal_error")
    assert response.headers["x-request-id"] in error["message"]
    assert "KeyError" not in response.text
    assert "KeyError" in caplog.text
