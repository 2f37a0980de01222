"""The recipes for clients do what they say, as they stand in the documentation."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from backends.wire import Priority
from tests.harness.asking import JSON_TYPE, ask, assert_error
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

ROOT = Path(__file__).parents[2]
DOCUMENTED = "http://127.0.0.1:60315"
HIGH, LOCAL = '"x-priority": "high"', '"x-signalbox-local-only": "true"'
AT_MOST_S = 60
ANSWER = json.dumps({**json.loads(CHAT), "created": 1, "model": "m"}).encode()


# Runs each argument as a program; one process, for they spend nearly all their time on imports.
ONE_BY_ONE = """
import contextlib, io, json, sys, traceback

for recipe in sys.argv[1:]:
    raised, said = "", io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(recipe, {"__name__": "__main__"})
    except Exception:
        raised = traceback.format_exc()
    print(json.dumps({"said": said.getvalue(), "raised": raised}))
"""


def recipes() -> list[str]:
    """Return the Python blocks of the pages that people copy from."""
    pages = [(ROOT / page).read_text("utf-8") for page in ("README.md", "docs/clients.md")]
    return [block for page in pages for block in re.findall(r"(?ms)^```python\n(.*?)^```", page)]


async def run(recipes: list[str], signalbox: RunningRouter) -> list[dict[str, str]]:
    """Run recipes as they stand, but for the port; return what each has `said`, and `raised`."""
    assert all(DOCUMENTED in recipe for recipe in recipes)
    here = f"http://127.0.0.1:{signalbox.port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ONE_BY_ONE),
        *(recipe.replace(DOCUMENTED, here) for recipe in recipes),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(AT_MOST_S):
        told, _ = await process.communicate()
    return [json.loads(line) for line in told.splitlines()]


def served_by(fm: ScriptedUpstream, **provider: Any) -> dict[str, Any]:
    """Return settings by which one provider serves text."""
    told = openai_provider(fm.url, **provider)
    return {"providers": {"fm": told}, "capabilities": {"text": ["fm/m"]}}


async def test_the_recipes_print_the_answer(tmp_path: Path) -> None:
    """And their requests have the priority that they ask for."""
    seen: list[int | None] = []

    async def script(conversation: Conversation) -> None:
        (flight,) = signalbox.router.in_flight
        seen.append(flight.priority)
        await conversation.answer(ANSWER)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **served_by(fm)) as signalbox,
    ):
        told = await run(recipes(), signalbox)
    assert [each["raised"] for each in told] == [""] * len(recipes())
    assert all("hi" in each["said"] for each in told)
    assert seen == [Priority.HIGH if HIGH in each else Priority.LOW for each in recipes()]
    assert set(seen) == {Priority.HIGH, Priority.LOW}


async def test_the_recipes_that_stay_here_stay_here(tmp_path: Path) -> None:
    """Where only a remote model could answer, they are refused, and nothing has left."""
    local = [recipe for recipe in recipes() if LOCAL in recipe]
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **served_by(fm, locality="remote")) as signalbox,
    ):
        told = await run(local, signalbox)
    assert len(told) == len(local) > 1
    assert all("local_only is set" in each["raised"] for each in told)
    assert not fm.seen


CONTAINER = "host.docker.internal"
WEBUI = (
    "authorization: Bearer webui",
    "x-openwebui-user-name: Ada",
    "x-openwebui-user-email: ada@example.org",
    "x-openwebui-chat-id: 7",
)


async def test_open_webui_in_a_container_is_served_as_the_recipe_says(tmp_path: Path) -> None:
    """By the host's name for containers and its key's priority; its users are told to nobody."""
    seen: list[int | None] = []

    async def script(conversation: Conversation) -> None:
        (flight,) = signalbox.router.in_flight
        seen.append(flight.priority)
        await conversation.answer(ANSWER)

    server = {
        "allowed_hosts": [CONTAINER],
        "api_keys": [{"env": "WEBUI_KEY", "priority": "high"}],
        "admin_key": {"env": "BOSS"},
    }
    keys = {"WEBUI_KEY": "webui", "BOSS": "boss"}
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, server=server, environ=keys, **served_by(fm)) as signalbox,
    ):
        host = f"{CONTAINER}:{signalbox.port}"
        listed = await ask(signalbox.port, *WEBUI, host=host)
        assert "auto" in [row["id"] for row in listed.content["data"]]
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}]})
        answer = await ask(
            signalbox.port,
            *(JSON_TYPE, *WEBUI),
            method="POST",
            path="/v1/chat/completions",
            body=body.encode(),
            host=host,
        )
    assert answer.status == 200
    assert seen == [Priority.HIGH]
    assert [name for name in fm.seen[0].headers if name.startswith("x-openwebui")] == []
    assert "webui" not in str(fm.seen[0].headers)


async def test_a_container_is_refused_until_its_name_for_us_is_listed(tmp_path: Path) -> None:
    """The refusal says which setting it is."""
    async with running_router(tmp_path) as signalbox:
        told = await ask(signalbox.port, *WEBUI, host=f"{CONTAINER}:{signalbox.port}")
    assert_error(told, 403, "host_not_allowed")
    assert "server.allowed_hosts" in told.content["error"]["message"]
