import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.router.cli.conftest import FakeRouter, Signalbox

ROW = {
    "capability": "text",
    "models": ["builtin/smollm2-135m"],
    "source": "file",
    "since": None,
    "file_says": ["builtin/smollm2-135m"],
    "state": "ready",
    "message": None,
}
PNG = b"\x89PNG\r\n\x1a\n rest"


def sse(*events: object) -> bytes:
    """Return a stream of events that ends with [DONE]."""
    lines = [json.dumps(event) for event in events]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def delta(text: str | None) -> dict[str, object]:
    """Return one chunk of a streamed answer."""
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


_CONFIGURATION = (
    "The configuration file has faults; what was in force before them still is:",
    "  router.yaml: server.prt: unknown key",
    "Changed, needs a restart: server.port",
)


def test_status_shows_the_map_and_the_processes(router: FakeRouter, signalbox: Signalbox) -> None:
    """A person sees who serves what and which processes run; a script gets the same as JSON."""
    backend = {"name": "builtin", "state": "ready", "pid": 7, "port": 60316, "memory_mb": 90}
    router.says("GET /health", {"status": "ok"})
    router.says("GET /admin/capabilities", {"data": [{**ROW, "message": "told\x1b[2J"}]})
    router.says("GET /admin/backends", {"data": [{**backend, "restarts": 0}]})
    faults, waiting = ["router.yaml: server.prt: unknown key"], ["server.port"]
    router.says("GET /admin/status", {"faults": faults, "needs_restart": waiting})
    ran = signalbox("status")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines() if line] == [
        ["Signalbox", "runs", "at", f"{router.url}/v1"],
        ["CAPABILITY", "MODELS", "STATE", "SOURCE"],
        ["text", "builtin/smollm2-135m", "ready", "file"],
        ["NAME", "STATE", "PID", "PORT", "MEMORY", "MB", "RESTARTS"],
        ["builtin", "ready", "7", "60316", "90", "0"],
        ["text:", "told[2J"],
        *(line.split() for line in _CONFIGURATION),
    ]
    told = signalbox("--json", "status").json
    assert told["capabilities"][0]["state"] == "ready"
    assert told["backends"][0]["pid"] == 7


def test_without_a_router_every_command_says_how_to_start_one(signalbox: Signalbox) -> None:
    """Exit code 3 and one line, for scripts and for people."""
    for command in (["status"], ["capabilities"], ["models"], ["ask", "x"], ["explain", "x"]):
        ran = signalbox(*command, url="http://127.0.0.1:9")
        assert ran.code == 3
        assert "signalbox serve" in ran.err
        assert len(ran.err.splitlines()) == 1


def test_a_refusal_is_told_with_its_code(router: FakeRouter, signalbox: Signalbox) -> None:
    """What the router refuses ends with exit code 1 and the router's own words."""
    error = {"error": {"message": "No such model.", "code": "model_not_found"}}
    router.says("PUT /admin/capabilities/text", error, 404)
    ran = signalbox("capabilities", "assign", "text", "a/b")
    assert (ran.code, ran.err) == (1, "signalbox: No such model. (model_not_found)\n")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff"])
def test_something_else_on_the_port_is_told_apart(
    body: bytes, router: FakeRouter, signalbox: Signalbox
) -> None:
    """A stranger's answer is not mistaken for the router's."""
    router.says_raw("GET /health", body)
    ran = signalbox("status")
    assert ran.code == 1
    assert "is not Signalbox" in ran.err


@pytest.mark.parametrize(
    ("arguments", "route", "body"),
    [
        (["assign", "text", "a/b", "c/d"], "PUT /admin/capabilities/text", ["a/b", "c/d"]),
        (["assign", "text", "a/b", "--wait"], "PUT /admin/capabilities/text?wait=ready", ["a/b"]),
        (["unassign", "text"], "PUT /admin/capabilities/text", []),
        (["unassign", "text", "--wait"], "PUT /admin/capabilities/text?wait=gone", []),
        (["unassign", "a/b?c"], "PUT /admin/capabilities/a%2Fb%3Fc", []),
        (["reset", "text"], "DELETE /admin/capabilities/text", None),
        (["reset", "text", "--wait"], "DELETE /admin/capabilities/text?wait=ready", None),
    ],
)
def test_capabilities_are_changed_through_the_router(
    arguments: list[str],
    route: str,
    body: list[str] | None,
    router: FakeRouter,
    signalbox: Signalbox,
) -> None:
    """Each action is one call, and what came of it is printed."""
    router.says(route, {**ROW, "message": "fetch it first"})
    ran = signalbox("capabilities", *arguments)
    assert ran.code == 0, ran.err
    (seen,) = router.seen
    assert seen.body == (None if body is None else {"models": body})
    assert "builtin/smollm2-135m" in ran.out
    assert "fetch it first" in ran.out
    assert signalbox("capabilities", *arguments, "--json").json["state"] == "ready"


def test_capabilities_alone_lists_them(router: FakeRouter, signalbox: Signalbox) -> None:
    """The map is what the word alone shows."""
    router.says("GET /admin/capabilities", {"data": [ROW, {**ROW, "models": [], "source": "none"}]})
    assert signalbox("capabilities").out == signalbox("capabilities", "list").out
    assert signalbox("capabilities").out.splitlines()[2].split() == ["text", "-", "ready", "none"]
    assert signalbox("capabilities", "--json").json["data"][0] == ROW


def test_ask_prints_the_answer_as_it_comes(router: FakeRouter, signalbox: Signalbox) -> None:
    """Text is shown piece by piece, as HIGH, and what a terminal would obey is taken out."""
    router.says_raw(
        "POST /v1/chat/completions",
        b": ping\n\n" + sse(delta(None), delta("Hel"), delta("lo\x1b[31m\n"), {"choices": []}),
    )
    ran = signalbox("ask", "Hi", "--model", "text")
    assert (ran.code, ran.out) == (0, "Hello[31m\n\n")
    (seen,) = router.seen
    assert seen.body == {
        "model": "text",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }
    assert seen.headers["x-priority"] == "1"


def test_ask_for_json_prints_the_whole_answer(router: FakeRouter, signalbox: Signalbox) -> None:
    """A script gets the completion as the protocol has it."""
    router.says("POST /v1/chat/completions", {"id": "x"})
    assert signalbox("ask", "Hi", "--json").json == {"id": "x"}
    assert "stream" not in router.seen[0].body


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (sse(delta("a"), {"error": {"message": "cut", "code": "upstream_truncated"}}), "cut (up"),
        (b'data: {"choices": []}\n\n', "ended early"),
        (b"data: " + b"x" * (1 << 20) + b"x", "more than"),
    ],
)
def test_an_answer_that_breaks_off_is_a_failure(
    body: bytes, told: str, router: FakeRouter, signalbox: Signalbox
) -> None:
    """A part of an answer is never taken for the whole."""
    router.says_raw("POST /v1/chat/completions", body)
    ran = signalbox("ask", "Hi")
    assert ran.code == 1
    assert told in ran.err


def test_ask_sends_pictures_inside_the_request(
    router: FakeRouter, signalbox: Signalbox, tmp_path: Path
) -> None:
    """A picture goes as a data: URI of the kind that its bytes say, before the text."""
    picture = tmp_path / "a.txt"
    picture.write_bytes(PNG)
    router.says_raw("POST /v1/chat/completions", sse(delta("A cat.")))
    assert signalbox("ask", "What?", "--image", picture).out == "A cat.\n"
    content = router.seen[0].body["messages"][0]["content"]
    uri = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert content == [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "What?"},
    ]


def test_what_is_no_picture_is_not_sent(
    router: FakeRouter, signalbox: Signalbox, tmp_path: Path
) -> None:
    """A missing file and a file of another kind are mistakes of the command line."""
    (tmp_path / "a.png").write_text("text", encoding="utf-8")
    for name in ("a.png", "missing.png", "."):
        ran = signalbox("ask", "What?", "--image", tmp_path / name)
        assert ran.code == 2
    assert router.seen == []


def test_explain_shows_the_decision(
    router: FakeRouter, signalbox: Signalbox, tmp_path: Path
) -> None:
    """Who was considered, who serves, and why nobody does."""
    router.says(
        "POST /admin/explain",
        {
            "needs": ["vision", "tool_use"],
            "candidates": [
                {"model": "a/[red]b", "kept": False, "why": "no", "facts": {"vision": False}}
            ],
            "routes": [
                {"provider": "o", "model": "m", "capability": "vision", "locality": "local"}
            ],
            "error": {"code": "capability_mismatch", "message": "Nobody can."},
        },
    )
    ran = signalbox("explain", "Hi")
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines() if line]
    assert rows[0] == ["needs:", "vision,", "tool_use"]
    assert rows[2] == ["a/[red]b", "no", "no", "vision", "no"]
    assert rows[4] == ["o", "m", "vision", "local", "-"]
    assert rows[5] == ["refused:", "Nobody", "can.", "(capability_mismatch)"]
    body = tmp_path / "body.json"
    body.write_text('{"model": "auto", "x": 1}', encoding="utf-8")
    assert signalbox("explain", "--body", body, "--json").json["routes"][0]["provider"] == "o"
    assert router.seen[-1].body == {
        "path": "/v1/chat/completions",
        "body": {"model": "auto", "x": 1},
        "local_only": False,
        "priority": None,
    }


def test_requests_shows_what_is_in_flight_and_ends_one(
    router: FakeRouter, signalbox: Signalbox
) -> None:
    """A table of who waits for whom; nothing in flight is said; one is ended by its number."""
    row = {"id": 7, "priority": 1, "state": "queued", "provider": "o", "model": "m"}
    row |= {"age_s": 2, "attempts": 0, "request_id": "mine"}
    router.says("GET /admin/requests", {"data": [row]})
    router.says("DELETE /admin/requests/7", row)
    shown = ["7", "1", "queued", "o", "m", "2", "0", "mine"]
    assert signalbox("requests").out.splitlines()[1].split() == shown
    assert signalbox("requests", "cancel", "7").out.splitlines()[1].split() == shown
    assert signalbox("requests", "cancel", "7", "--json").json["id"] == 7
    router.answers.clear()
    router.says("GET /admin/requests", {"data": []})
    assert signalbox("requests").out == "nothing is in flight\n"


@pytest.mark.parametrize(
    ("path", "field", "content"),
    [
        ("/v1/messages", "messages", [{"role": "user", "content": "Hi"}]),
        ("/v1/embeddings", "input", "Hi"),
        ("/v1/responses", "input", "Hi"),
    ],
)
def test_explain_asks_at_any_endpoint(
    router: FakeRouter, signalbox: Signalbox, path: str, field: str, content: Any
) -> None:
    """The question stands where that endpoint's protocol has it; the wishes go along."""
    decided = {"needs": ["text"], "candidates": [], "routes": [], "error": None}
    router.says("POST /admin/explain", decided)
    ran = signalbox("explain", "Hi", "--path", path, "--local-only", "--priority", "high")
    assert ran.code == 0
    assert router.seen[-1].body == {
        "path": path,
        "body": {"model": "auto", field: content},
        "local_only": True,
        "priority": "high",
    }


def test_explain_puts_pictures_into_chats_only(
    router: FakeRouter, signalbox: Signalbox, tmp_path: Path
) -> None:
    """Elsewhere a picture has another shape, which a file can hold."""
    picture = tmp_path / "a.gif"
    picture.write_bytes(b"GIF89a")
    ran = signalbox("explain", "Hi", "--path", "/v1/responses", "--image", picture)
    assert ran.code == 2
    assert "--body" in ran.err
    assert router.seen == []


@pytest.mark.parametrize("text", [None, "{", "[]", "[" * 100_000])
def test_a_body_that_is_no_request_is_a_mistake_of_the_command_line(
    text: str | None, signalbox: Signalbox, tmp_path: Path
) -> None:
    """Nothing is sent; one line says what is wrong."""
    path = tmp_path / "body.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    ran = signalbox("explain", "--body", path)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1


def test_the_key_comes_from_the_option_or_the_variable(
    router: FakeRouter, signalbox: Signalbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option wins over the variable; without either none is sent."""
    router.says("GET /admin/capabilities", {"data": []})
    signalbox("capabilities")
    monkeypatch.setenv("SIGNALBOX_API_KEY", "variable")
    signalbox("capabilities")
    signalbox("capabilities", "--api-key", "option")
    assert [seen.headers.get("authorization") for seen in router.seen] == [
        None,
        "Bearer variable",
        "Bearer option",
    ]


def test_the_configured_admin_key_never_goes_to_another_address(
    router: FakeRouter, signalbox: Signalbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A key of this machine's router is shown to that router only."""
    config = tmp_path / "router.yaml"
    config.write_text("server: {admin_key: {env: ADMIN}}", encoding="utf-8")
    monkeypatch.setenv("ADMIN", "secret")
    router.says("GET /admin/capabilities", {"data": []})
    signalbox("capabilities", "--config", config)
    assert "authorization" not in router.seen[0].headers


def test_models_are_listed_with_where_they_stand(router: FakeRouter, signalbox: Signalbox) -> None:
    """Builtin models in a table, all others in one with their facts, other names in a line."""
    row = {"id": "smollm2-135m", "state": "ready", "size_mb": 93, "capabilities": ["text"]}
    router.says("GET /admin/builtin/models", {"data": [{**row, "path": None}]})
    told = {"value": True, "source": "probe", "date": "2026-01-01", "why": "it named red"}
    known: dict[str, Any] = {
        "model": "o/m",
        "id": "smollm2-135m",
        "status": None,
        "locality": None,
        "context_length": 4096,
        "assigned": [],
        "facts": {
            "vision": told,
            "tool_use": {**told, "value": False},
            "text": {**told, "value": None},
        },
    }
    ours = {**known, "model": "mlx/smollm2-135m", "status": "ready"}
    notice = "What LiteLLM's table says of the models of o is not known."
    router.says("GET /admin/models", {"data": [ours, known], "notices": [notice]})
    names = [{"id": "auto", "owned_by": "signalbox"}, {"id": "o/m", "owned_by": "o"}]
    router.says("GET /v1/models", {"data": names})
    out = signalbox("models").out.splitlines()
    assert out[1].split() == ["smollm2-135m", "ready", "93", "text", "-"]
    assert out[4].split() == [
        *("o/m", "vision", "(probe)", "tool_use", "(probe)", "4096", "unknown", "-"),
    ]
    assert out[-3:] == ["also answering to: auto", "", notice]
    document = signalbox("models", "list", "--json").json
    assert document["notices"] == [notice]
    assert (document["names"], [each["model"] for each in document["others"]]) == (
        ["auto"],
        ["o/m"],
    )


def test_a_model_is_tried_out_and_forgotten(router: FakeRouter, signalbox: Signalbox) -> None:
    """A person reads each verdict and why; leave to ask elsewhere is given by --yes alone."""
    seen = {"value": None, "date": "2026-01-01", "why": "it was shown red and said 'blue'"}
    verdicts = {"text": {**seen, "value": True, "why": "it said 'Hi'"}, "vision": seen}
    router.says("POST /admin/models/probe", {"model": "o/m", "verdicts": verdicts})
    out = signalbox("models", "probe", "o/m").out.splitlines()
    assert out[1].split() == ["text", "yes", "it", "said", "'Hi'"]
    assert out[2].split()[:2] == ["vision", "unknown"]
    assert router.seen[0].body == {"model": "o/m", "allow_remote": False}
    told = signalbox("models", "probe", "o/m", "--capability", "vision", "--yes", "--json").json
    assert told["verdicts"] == verdicts
    wanted = {"model": "o/m", "allow_remote": True, "capabilities": ["vision"]}
    assert router.seen[1].body == wanted
    router.says("DELETE /admin/models/facts?model=o%2Fm", {"forgotten": ["text", "vision"]})
    assert signalbox("models", "forget", "o/m").out == "o/m: text, vision forgotten.\n"
    assert signalbox("models", "forget", "o/m", "--json").json["forgotten"] == ["text", "vision"]


def test_a_model_is_fetched_by_the_router_that_runs(
    router: FakeRouter, signalbox: Signalbox
) -> None:
    """The download is begun once and followed to its end."""
    row = {"id": "smollm2-135m", "percent": 0, "message": "", "path": None}
    router.says("GET /health", {"status": "ok"})
    router.says("POST /admin/builtin/models/smollm2-135m/download", {}, 202)
    for state in ("downloading", "ready"):
        router.says("GET /admin/builtin/models", {"data": [{**row, "state": state, "path": "/m"}]})
    ran = signalbox("models", "pull", "smollm2-135m")
    assert (ran.code, ran.out) == (0, "smollm2-135m is there: /m\n")
    assert [seen.method for seen in router.seen] == ["GET", "POST", "GET", "GET"]
    # The last answer is repeated: the model is there, and the router looks whether it knows.
    assert signalbox("models", "pull", "builtin/smollm2-135m", "--json").json["state"] == "ready"
    assert [seen.method for seen in router.seen[4:]] == ["GET", "POST", "GET"]


def test_a_failed_download_is_told(router: FakeRouter, signalbox: Signalbox) -> None:
    """The router's words end the command with exit code 1."""
    row = {"id": "smollm2-135m", "percent": None, "path": None}
    router.says("GET /health", {"status": "ok"})
    router.says("POST /admin/builtin/models/smollm2-135m/download", {}, 202)
    downloading = {**row, "state": "downloading", "message": ""}
    router.says("GET /admin/builtin/models", {"data": [downloading]})
    failed = {**row, "state": "failed", "message": "disk full"}
    router.says("GET /admin/builtin/models", {"data": [failed]})
    ran = signalbox("models", "pull", "smollm2-135m")
    assert (ran.code, ran.err) == (1, "signalbox: disk full\n")


def test_a_model_is_deleted_by_the_router_that_runs(
    router: FakeRouter, signalbox: Signalbox
) -> None:
    """The router decides whether it may be deleted."""
    router.says("GET /health", {"status": "ok"})
    router.says("DELETE /admin/builtin/models/smollm2-135m", {"id": "x", "removed": True})
    router.says("DELETE /admin/builtin/models/smollm2-135m", {"id": "x", "removed": False})
    assert signalbox("models", "rm", "smollm2-135m").out == "smollm2-135m is deleted.\n"
    assert signalbox("models", "rm", "smollm2-135m").out == "smollm2-135m was not there.\n"
    assert not signalbox("models", "rm", "smollm2-135m", "--json").json["removed"]


def test_an_unknown_builtin_model_is_a_mistake_of_the_command_line(signalbox: Signalbox) -> None:
    """The text names those that there are."""
    ran = signalbox("models", "pull", "gpt-5")
    assert ran.code == 2
    assert "smollm2-135m" in ran.err
