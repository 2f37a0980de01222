"""What web pages, name tricks and missing keys may not do."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from router.endpoints import ENDPOINTS
from router.guard import DATA_PREFIX, PUBLIC_PATHS
from router.planes import UNBUILT
from tests.harness.asking import (
    CHAT,
    JSON_TYPE,
    ask,
    assert_error,
    one_provider,
)
from tests.harness.endpoints import FORM_TYPE
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, running_router
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.served import PROGRAM, environment

KEYS: dict[str, Any] = {
    "server": {"api_keys": [{"env": "K1"}, {"env": "K2"}], "admin_key": {"env": "BOSS"}},
    "environ": {"K1": "one", "K2": "two", "BOSS": "boss"},
}
TAURI = "tauri://localhost"
PATHS = ("/v1/models", "/health", "/ready", "/admin/capabilities", "/nothing", "/")


# Host


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:1", "localhost:60315", "LocalHost", "[::1]", "[::1]:60315"),
        *("box.lan", "BOX.lan:80", "[fd00::1]:60315"),
    ],
)
async def test_row_135_this_machines_names_are_answered(tmp_path: Path, host: str) -> None:
    """The loopback names and those that are listed pass with any port."""
    server = {"allowed_hosts": ["Box.lan", "fd00:0::1"]}
    async with running_router(tmp_path, server=server) as signalbox:
        for path in PATHS:
            told = await ask(signalbox.port, path=path, host=host)
            assert told.status == (404 if path in {"/nothing", "/"} else 200)


async def test_row_135_another_name_is_refused_wherever_it_knocks(tmp_path: Path) -> None:
    """A page that rebinds its name to loopback gets a 403 from every path."""
    names = [
        *("evil.com", "evil.com:60315", "127.0.0.1.evil.com", "localhost.", "evil.com@127.0.0.1"),
        *("127.0.0.1/health?", "[::2]", "[::1]evil", "::1", "0.0.0.0", "127.0.0.2"),  # noqa: S104 names
        *("127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:1:1", "2130706433", "box.lan."),
        *("[0:0:0:0:0:0:0:1]", ":60315", "[fe80::1%25eth0]", "xn--localhost", "\xe9"),
    ]
    server = {"allowed_hosts": ["box.lan"]}
    async with running_router(tmp_path, server=server) as signalbox:
        for name in names:
            for path in PATHS if name == names[0] else ("/health",):
                told = await ask(signalbox.port, f"host: {name}", path=path, host=None)
                assert_error(told, 403, "host_not_allowed")
                assert told.headers["connection"] == "close"


async def test_row_135_exactly_one_host_is_needed(tmp_path: Path) -> None:
    """None, an empty one and two are a 400 on every path, in whatever order and case."""
    async with running_router(tmp_path) as signalbox:
        for lines in (
            [],
            ["host:"],
            ["host: 127.0.0.1", "host: evil.com"],
            ["host: 127.0.0.1", "HOST: 127.0.0.1"],
            ["host: evil.com", "Host: 127.0.0.1"],
        ):
            for path in PATHS:
                told = await ask(signalbox.port, *lines, path=path, host=None)
                assert_error(told, 400, "invalid_request")


async def test_row_135_an_absolute_target_names_the_host_that_was_named(tmp_path: Path) -> None:
    """A target that names another host than Host is refused, and one that names a foreign host."""
    async with running_router(tmp_path) as signalbox:
        for path in ("http://evil.com/health", "http://evil.com:60315/health", "http:///health"):
            assert_error(await ask(signalbox.port, path=path), 400, "invalid_request")
        told = await ask(signalbox.port, path="http://evil.com/health", host="evil.com")
        assert_error(told, 403, "host_not_allowed")
        assert (await ask(signalbox.port, path="http://127.0.0.1/health")).status == 200


async def test_row_135_names_of_many_ports_are_each_checked(tmp_path: Path) -> None:
    """Remembering what was allowed lets nothing else in, however much there is to remember."""
    async with running_router(tmp_path) as signalbox:
        for port in range(100):
            assert (await ask(signalbox.port, path="/health", host=f"[::1]:{port}")).status == 200
        assert (await ask(signalbox.port, path="/health", host="[::2]:1")).status == 403


# Origin


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.com"],
        ["null"],
        [""],
        ["http://127.0.0.1:1"],
        ["https://127.0.0.1"],
        ["http://localhost"],
        ["http://127.0.0.1.evil.com"],
        ["TAURI://localhost"],
        [f"{TAURI}/"],
        [TAURI, "https://evil.com"],
        [TAURI, TAURI],
        [f"{TAURI}, {TAURI}"],
    ],
)
async def test_row_136_another_web_page_is_refused(
    tmp_path: Path, method: str, origins: list[str]
) -> None:
    """Any method from a page that is not ours and not listed is a 403 that it cannot read."""
    lines = [f"origin: {origin}" for origin in origins]
    server = {"allowed_origins": [TAURI]}
    async with running_router(tmp_path, server=server) as signalbox:
        for path in ("/v1/models", "/health", "/admin/capabilities", "/nothing"):
            told = await ask(signalbox.port, JSON_TYPE, *lines, method=method, path=path)
            assert_error(told, 403, "origin_not_allowed")
            assert "access-control-allow-origin" not in told.headers


@pytest.mark.parametrize("origin", [TAURI, "null", "https://chat.example:8443"])
async def test_row_136_a_listed_page_is_echoed_exactly(tmp_path: Path, origin: str) -> None:
    """Its answers and its errors can be read by it, and caches keep them apart."""
    server = {"allowed_origins": [TAURI, "null", "https://chat.example:8443"]}
    async with running_router(tmp_path, server=server) as signalbox:
        for path, status in (("/v1/models", 200), ("/nothing", 404), ("/admin/capabilities", 200)):
            told = await ask(signalbox.port, f"origin: {origin}", path=path)
            assert told.status == status
            assert told.headers["access-control-allow-origin"] == origin
            assert told.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in told.headers


async def test_row_136_our_own_page_needs_no_permission(tmp_path: Path) -> None:
    """The origin that the Host names is ours, and is told nothing about origins."""
    async with running_router(tmp_path) as signalbox:
        for host in ("127.0.0.1:60315", "localhost", "LOCALHOST:1"):
            told = await ask(signalbox.port, f"origin: http://{host.lower()}", host=host)
            assert told.status == 200
            assert "access-control-allow-origin" not in told.headers


@pytest.mark.parametrize(
    ("lines", "path", "status"),
    [
        (["sec-fetch-site: cross-site"], "/v1/models", 403),
        (["sec-fetch-site: same-site"], "/v1/models", 403),
        (["sec-fetch-site: odd"], "/v1/models", 403),
        (["sec-fetch-site: same-origin", "sec-fetch-site: cross-site"], "/v1/models", 403),
        (["sec-fetch-site: cross-site", "origin: tauri://localhost"], "/v1/models", 200),
        (["sec-fetch-site: same-origin"], "/v1/models", 200),
        (["sec-fetch-site: none"], "/v1/models", 200),
        (["sec-fetch-site: cross-site", "sec-fetch-mode: navigate"], "/", 403),
        (["sec-fetch-site: cross-site", "sec-fetch-mode: no-cors"], "/", 403),
    ],
)
async def test_row_137_another_site_is_refused_without_an_origin_too(
    tmp_path: Path, lines: list[str], path: str, status: int
) -> None:
    """A picture, a script or a frame of another site that points here is a 403."""
    server = {"allowed_origins": [TAURI]}
    async with running_router(tmp_path, server=server) as signalbox:
        assert (await ask(signalbox.port, *lines, path=path)).status == status


async def test_row_137_a_link_leads_to_a_page_and_to_nothing_else(tmp_path: Path) -> None:
    """A person may follow a link to where a page is; not to data, and not into a frame."""
    link = ["sec-fetch-site: cross-site", "sec-fetch-mode: navigate"]
    window, frame = "sec-fetch-dest: document", "sec-fetch-dest: iframe"
    async with running_router(tmp_path) as signalbox:
        # No page is built yet, but the way to it is open.
        assert_error(await ask(signalbox.port, *link, window, path="/"), 404, "not_found")
        for path in ("/v1/models", "/health", "/admin/capabilities", "/nothing"):
            told = await ask(signalbox.port, *link, window, path=path)
            assert_error(told, 403, "origin_not_allowed")
        assert (await ask(signalbox.port, *link, frame, path="/")).status == 403
        told = await ask(signalbox.port, *link, window, JSON_TYPE, method="POST", path="/")
        assert_error(told, 403, "origin_not_allowed")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (CHAT, {"POST"}),
        ("/v1/models", {"GET", "HEAD"}),
        ("/admin/capabilities/text", {"GET", "POST", "PUT", "PATCH", "DELETE"}),
    ],
)
async def test_row_138_a_listed_page_learns_the_methods_of_a_path(
    tmp_path: Path, path: str, methods: set[str]
) -> None:
    """A preflight of a listed page needs no key; there is no `*` and no way into networks."""
    server = {**KEYS["server"], "allowed_origins": [TAURI]}
    asks = (
        f"origin: {TAURI}",
        "access-control-request-method: POST",
        "access-control-request-private-network: true",
    )
    async with running_router(tmp_path, server=server, environ=KEYS["environ"]) as signalbox:
        told = await ask(signalbox.port, *asks, method="OPTIONS", path=path)
    assert told.status == 204
    assert set(told.headers["access-control-allow-methods"].split(", ")) == methods
    assert {"authorization", "content-type", "x-api-key"} <= set(
        told.headers["access-control-allow-headers"].split(", ")
    )
    assert told.headers["access-control-allow-origin"] == TAURI
    assert told.headers["vary"] == "Origin"
    assert "*" not in str(told.headers)
    assert "access-control-allow-private-network" not in told.headers


async def test_row_138_a_listed_page_may_send_what_sdks_send(tmp_path: Path) -> None:
    """What OpenAI's and Anthropic's SDKs add in a browser; of what else it asks for, nothing."""
    of_sdks = {
        *("x-stainless-lang", "x-stainless-retry-count", "x-stainless-helper-method"),
        *("openai-organization", "openai-project"),
        *("anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"),
    }
    ours = {
        *("authorization", "content-type", "x-api-key"),
        *("x-priority", "x-request-id", "x-signalbox-local-only"),
    }
    odd = ["Cookie", "x-evil", "x-stainless-", "x-stainless-a b", "x-stainless-*", "*", ""]
    server = {"allowed_origins": [TAURI]}
    async with running_router(tmp_path, server=server) as signalbox:
        told = await ask(
            signalbox.port,
            f"origin: {TAURI}",
            "access-control-request-method: POST",
            f"access-control-request-headers: {','.join([*odd, *of_sdks]).title()}",
            method="OPTIONS",
            path=CHAT,
        )
    allowed = told.headers["access-control-allow-headers"].split(", ")
    assert set(allowed) == of_sdks | ours
    assert len(allowed) == len(set(allowed))


async def test_row_138_nobody_else_is_told_anything(tmp_path: Path) -> None:
    """A preflight of another page is a 403, one for nothing a 404, and OPTIONS alone a 405."""
    wish = "access-control-request-method: POST"
    server = {"allowed_origins": [TAURI]}
    async with running_router(tmp_path, server=server) as signalbox:
        for origin in ("https://evil.com", "null"):
            told = await ask(signalbox.port, f"origin: {origin}", wish, method="OPTIONS", path=CHAT)
            assert_error(told, 403, "origin_not_allowed")
            assert not [name for name in told.headers if name.startswith("access-control")]
        told = await ask(signalbox.port, f"origin: {TAURI}", wish, method="OPTIONS", path="/no")
        assert_error(told, 404, "not_found")
        for lines in ([], [f"origin: {TAURI}"], [wish]):
            told = await ask(signalbox.port, *lines, method="OPTIONS", path=CHAT)
            assert_error(told, 405, "method_not_allowed")


_SIMPLE_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


async def test_row_139_a_form_of_a_web_page_changes_nothing(tmp_path: Path) -> None:
    """What a page may send without asking is refused, with its origin and without it."""
    lines = {
        403: ["origin: https://evil.com", "sec-fetch-site: cross-site"],
        415: [],
    }
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        before = (await ask(signalbox.port, path="/admin/capabilities")).content
        for path in (CHAT, "/admin/explain", "/admin/backends/builtin/restart"):
            for kind in (*_SIMPLE_TYPES, None):
                for body in (b'{"model":"text","messages":[]}', b""):
                    for status, more in lines.items():
                        told = await ask(
                            signalbox.port,
                            *more,
                            *([f"content-type: {kind}"] if kind else []),
                            method="POST",
                            path=path,
                            body=body,
                        )
                        if status == 415 and not kind and not body and path != CHAT:
                            # Nothing to go by is what no browser sends: fetch tells its origin.
                            continue
                        assert told.status == status, (path, kind, body)
        assert (await ask(signalbox.port, path="/admin/capabilities")).content == before
        assert fm.connections == 0


# Routes


async def _routes(signalbox: RunningRouter) -> list[tuple[str, str]]:
    """Return method and path of everything that answers; a name in braces stands for one."""
    planes = signalbox.router.planes
    data = [(method, path) for path, each in planes.doors.items() for method in each.methods]
    # The first request loads the control plane.
    await ask(signalbox.port, "authorization: Bearer boss", path="/admin/capabilities")
    control = signalbox.router.control.app
    assert isinstance(control, FastAPI)
    admin = [
        (method, str(route.path))
        for route in iter_route_contexts(control.routes)
        for method in route.methods or {"GET"}
    ]
    assert len(admin) > 10
    return data + admin


async def test_row_140_reading_changes_nothing(tmp_path: Path) -> None:
    """Every GET there is leaves the map as it was and calls nobody."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        before = (await ask(signalbox.port, path="/admin/capabilities")).content
        for method, path in await _routes(signalbox):
            # The stream of events has no end to wait for.
            if method != "GET" or path == "/admin/events":
                continue
            for name in ("text", "builtin", "fm/model-1", "smollm2-135m"):
                told = await ask(signalbox.port, path=re.sub(r"\{\w+\}", name, path))
                assert told.status in {200, 404}
        assert (await ask(signalbox.port, path="/admin/capabilities")).content == before
        async with RawClient(signalbox.port) as client:
            await client.send(b"GET /admin/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert (await client.head())[0] == 200
        assert (await ask(signalbox.port, path="/admin/requests")).content == {"data": []}
        assert fm.connections == 0


async def test_row_141_every_route_is_public_by_name_or_wants_a_key(tmp_path: Path) -> None:
    """Whatever answers anywhere is on the short public list, or is a 401 without a key."""
    async with running_router(tmp_path, **KEYS) as signalbox:
        routes = await _routes(signalbox)
        routes += [("POST", path) for path in UNBUILT]
        public = {path for _, path in routes} & PUBLIC_PATHS
        assert public == {"/health", "/ready"}
        for method, path in routes:
            here = path.replace("{id}", "x")
            kind = FORM_TYPE if path in ENDPOINTS and ENDPOINTS[path].form else JSON_TYPE
            told = await ask(signalbox.port, kind, method=method, path=here)
            if path in PUBLIC_PATHS:
                assert told.status == 200
                continue
            assert told.status == 401, path
            if not path.startswith(DATA_PREFIX):
                user = await ask(
                    signalbox.port, JSON_TYPE, "x-api-key: one", method=method, path=here
                )
                assert user.status == 401, path


@pytest.mark.parametrize("keys", [["api_keys"], ["admin_key"], ["api_keys", "admin_key"]])
async def test_row_141_a_path_that_is_forgotten_is_not_open(
    tmp_path: Path, keys: list[str]
) -> None:
    """Where nothing is known to be, some key is needed as soon as there is one."""
    server = {name: KEYS["server"][name] for name in keys}
    async with running_router(tmp_path, server=server, environ=KEYS["environ"]) as signalbox:
        for path in ("/", "/new", "/docs", "/openapi.json", "//admin", "/V1/models", "/v1"):
            assert_error(await ask(signalbox.port, path=path), 401, "invalid_api_key")


async def test_row_142_only_the_path_of_the_request_line_decides(tmp_path: Path) -> None:
    """No header can make a path look like a public one."""
    async with running_router(tmp_path, **KEYS) as signalbox:
        for host in ("x/health?", "127.0.0.1/health?", "127.0.0.1/health#", "127.0.0.1\\health?"):
            told = await ask(signalbox.port, path="/admin/capabilities", host=host)
            assert_error(told, 403, "host_not_allowed")
        for line in (
            "x-original-url: /health",
            "x-rewrite-url: /health",
            "x-forwarded-prefix: /health",
            "x-http-method-override: GET",
        ):
            told = await ask(signalbox.port, line, path="/admin/capabilities")
            assert_error(told, 401, "invalid_api_key")
        for path in ("/admin/capabilities?/health", "/health/../admin/capabilities"):
            assert_error(await ask(signalbox.port, path=path), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("lines", "v1", "admin"),
    [
        ([], 401, 401),
        (["authorization: Bearer wrong"], 401, 401),
        (["authorization: Bearer"], 401, 401),
        (["authorization: Bearer "], 401, 401),
        (["authorization: one"], 401, 401),
        (["authorization: Basic b25l"], 401, 401),
        (["authorization: Basic one"], 401, 401),
        (["authorization: Digest one"], 401, 401),
        (["authorization: Bearer_one"], 401, 401),
        (["authorization: Bearer one"], 200, 401),
        (["authorization: bearer  two"], 200, 401),
        (["authorization: BEARER two"], 200, 401),
        (["authorization: Bearer One"], 401, 401),
        (["authorization: Bearer onetwo"], 401, 401),
        (["authorization: Bearer one, Bearer two"], 401, 401),
        (["authorization: Bearer one", "authorization: Bearer one"], 401, 401),
        (["authorization: Bearer one", "authorization: Bearer wrong"], 401, 401),
        (["authorization: Bearer wrong", "x-api-key: one"], 401, 401),
        (["authorization: Bearer one", "x-api-key: wrong"], 401, 401),
        (["authorization: Bearer one", "x-api-key: boss"], 401, 401),
        (["authorization: Basic b25l", "x-api-key: one"], 401, 401),
        (["authorization: Bearer one", "x-api-key: one"], 200, 401),
        (["x-api-key: one"], 200, 401),
        (["x-api-key: one", "x-api-key: one"], 401, 401),
        (["x-api-key: Bearer one"], 401, 401),
        (["x-api-key:"], 401, 401),
        (["authorization: Bearer boss"], 200, 200),
        (["x-api-key: boss"], 200, 200),
        (["authorization: Bearer \xfc"], 401, 401),
        (["cookie: key=boss", "x-auth-token: boss", "proxy-authorization: Bearer boss"], 401, 401),
    ],
)
async def test_row_143_each_door_wants_its_key(
    tmp_path: Path, lines: list[str], v1: int, admin: int
) -> None:
    """One bearer token or x-api-key: /v1 takes any key, /admin the admin key alone."""
    async with running_router(tmp_path, **KEYS) as signalbox:
        port = signalbox.port
        for path, status in (("/v1/models", v1), ("/admin/capabilities", admin), ("/health", 200)):
            told = await ask(port, *lines, path=path)
            assert told.status == status, path
            if status == 401:
                assert_error(told, 401, "invalid_api_key")
                for key in ("one", "two", "boss"):
                    assert f"'{key}'" not in told.content["error"]["message"]


async def test_row_143_a_key_in_the_query_counts_for_nothing(tmp_path: Path) -> None:
    """A query ends in logs and histories: a key in it is none."""
    async with running_router(tmp_path, **KEYS) as signalbox:
        for name in ("api_key", "key", "api-key", "x-api-key", "token", "access_token"):
            told = await ask(signalbox.port, path=f"/v1/models?{name}=boss")
            assert_error(told, 401, "invalid_api_key")


async def test_row_143_without_keys_any_credential_is_fine(tmp_path: Path) -> None:
    """SDKs insist on a key; where none is configured, whatever they send is ignored."""
    async with running_router(tmp_path) as signalbox:
        for line in ("authorization: Bearer sk-anything", "authorization: Basic x", "x-api-key: y"):
            assert (await ask(signalbox.port, line)).status == 200


async def test_row_143_an_api_key_alone_leaves_the_control_plane_to_this_machine(
    tmp_path: Path,
) -> None:
    """On loopback /admin asks for a key only where an admin key is set."""
    server = {"api_keys": [{"env": "K1"}]}
    async with running_router(tmp_path, server=server, environ={"K1": "one"}) as signalbox:
        assert (await ask(signalbox.port, path="/v1/models")).status == 401
        assert (await ask(signalbox.port, path="/admin/capabilities")).status == 200


# Other machines


async def _serve(folder: Path, tree: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """Run `signalbox serve` until it ends; return its exit code and what it wrote."""
    config = folder / "router.yaml"
    config.write_text(json.dumps({"providers": {}, "capabilities": {}, **tree}), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *("serve", "--config", str(config), "--data-dir", str(folder / "data"), *arguments),
        cwd=Path(__file__).parents[2],
        env=environment(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    written, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, written.decode()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.lan"])  # noqa: S104 refused
async def test_row_157_an_open_address_without_keys_is_no_start(tmp_path: Path, host: str) -> None:
    """Nothing listens where others can knock before both keys are there; it says which."""
    code, written = await _serve(tmp_path, {}, "--host", host)
    assert code == 2
    assert "both api_keys and admin_key are needed" in written
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["api_keys", "admin_key"])
async def test_row_157_one_kind_of_key_is_not_enough(tmp_path: Path, missing: str) -> None:
    """API keys alone would leave /admin open to others, the admin key alone /v1."""
    keys: dict[str, Any] = {"api_keys": [{"env": "PATH"}], "admin_key": {"env": "PATH"}}
    del keys[missing]
    code, written = await _serve(tmp_path, {"server": {"host": "0.0.0.0", **keys}})  # noqa: S104
    assert code == 2
    assert "both api_keys and admin_key are needed" in written


async def test_row_157_a_key_that_is_named_and_not_there_is_no_start(tmp_path: Path) -> None:
    """A door whose key is missing stays shut: the router does not open it instead."""
    code, written = await _serve(tmp_path, {"server": {"api_keys": [{"env": "NOT_SET"}]}})
    assert code == 2
    assert "NOT_SET" in written


@pytest.mark.parametrize(
    "line",
    [
        "x-forwarded-for: 127.0.0.1",
        "forwarded: for=127.0.0.1;host=127.0.0.1",
        "x-real-ip: 127.0.0.1",
        "x-forwarded-host: 127.0.0.1",
        "x-forwarded-proto: https",
    ],
)
async def test_row_158_what_a_proxy_would_say_counts_for_nothing(tmp_path: Path, line: str) -> None:
    """No header makes a request come from this machine or for another host."""
    async with running_router(tmp_path, **KEYS) as signalbox:
        told = await ask(signalbox.port, line)
        assert_error(told, 401, "invalid_api_key")
        told = await ask(signalbox.port, line, "x-api-key: boss", host="evil.com")
        assert_error(told, 403, "host_not_allowed")
        told = await ask(signalbox.port, line, "x-api-key: one")
        assert told.status == 200
