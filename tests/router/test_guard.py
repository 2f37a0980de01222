"""What the guard does besides deciding who may come in; that is in tests/faults."""

from pathlib import Path

import pytest

from tests.harness.asking import CHAT, HELLO, JSON_TYPE, answer, ask, assert_error, one_provider
from tests.harness.raw_client import RawClient
from tests.harness.running_router import running_router
from tests.harness.scripted_upstream import ScriptedUpstream


@pytest.mark.parametrize("second", ["false", "0", ""])
async def test_one_prohibition_is_enough(tmp_path: Path, second: str) -> None:
    """A second x-signalbox-local-only header does not lift the first."""
    async with ScriptedUpstream() as fm:
        settings = one_provider(fm)
        settings["providers"]["fm"]["locality"] = "remote"
        async with running_router(tmp_path, **settings) as signalbox:
            response = await signalbox.client.post(
                CHAT,
                json=HELLO,
                headers=[("x-signalbox-local-only", "true"), ("x-signalbox-local-only", second)],
            )
        assert fm.seen == []
    assert response.json()["error"]["code"] == "remote_not_allowed"


async def test_while_draining_only_health_is_answered(tmp_path: Path) -> None:
    """A router that stops is alive, not ready, and takes no request; connections are closed."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        guard = signalbox.router.app
        assert repr(guard) == "<Guard open>"
        guard.draining = True
        assert repr(guard) == "<Guard draining>"
        assert (await ask(signalbox.port, path="/health")).status == 200
        told = await ask(signalbox.port, JSON_TYPE, method="POST", path=CHAT, body=b"{}")
        assert_error(told, 503, "shutting_down")
        for path in ("/ready", "/v1/models", "/admin/capabilities", "/nothing"):
            async with RawClient(signalbox.port) as client:
                await client.send(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
                told = await answer(client)
                assert_error(told, 503, "shutting_down")
                assert told.headers["connection"] == "close"
                assert "x-should-retry" not in told.headers
                assert await client.rest() == b""
        assert (await ask(signalbox.port, path="/v1/models", host="evil")).status == 403
        assert fm.connections == 0


@pytest.mark.parametrize(
    ("told", "echoed"),
    [
        ("abc-1", True),
        ("!~" * 64, True),
        ("a b", False),
        ("x" * 129, False),
        ("\xe9", False),
        ("", False),
        (None, False),
    ],
)
async def test_every_answer_bears_a_request_id(
    tmp_path: Path, told: str | None, echoed: bool
) -> None:
    """The client's own id comes back where it is fit for a header; else a new one is made."""
    headers = [(b"x-request-id", told.encode("latin-1"))] if told is not None else []
    seen = set()
    async with running_router(tmp_path) as signalbox:
        paths = ("/v1/models", "/admin/capabilities", "/nothing", "/v1/models/none")
        for path in paths:
            response = await signalbox.client.get(path, headers=headers)
            assert (response.headers["x-request-id"] == told) is echoed
            assert len(response.headers.get_list("x-request-id")) == 1
            seen.add(response.headers["x-request-id"])
    assert len(seen) == (1 if echoed else len(paths))


async def test_of_two_request_ids_none_is_believed(tmp_path: Path) -> None:
    """An id that came twice is replaced."""
    async with running_router(tmp_path) as signalbox:
        told = await ask(signalbox.port, "x-request-id: a", "x-request-id: b")
    assert told.headers["x-request-id"].startswith("req-")


async def test_an_unforeseen_failure_is_logged_and_told_as_an_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake of ours is a JSON 500 with an id and no trace of the code."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **one_provider(fm)) as signalbox:
        del signalbox.router.reaches["fm"]
        response = await signalbox.chat(HELLO)
        assert (await signalbox.client.get("/v1/models")).status_code == 200
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "internal_error")
    assert response.headers["x-request-id"] in error["message"]
    assert "KeyError" not in response.text
    assert "KeyError" in caplog.text
