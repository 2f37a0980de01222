"""The recipes for clients do what they say, as they stand in the documentation."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.wire import Priority
from tests.harness.asking import JSON_TYPE, ask, assert_error
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

ROOT = Path(__file__).parents[2]
DOCUMENTED = "http://127.0.0.1:60315"
HIGH, LOCAL = '"x-priority": "high"', '"x-signalbox-local-only": "true"'
AT_MOST_S = 60
ANSWER = json.dumps({**json.loads(CHAT), "created": 1, "model": "m"}).encode()


def recipes(*, that_have: str = "") -> list[Any]:
    """Return the Python blocks of the pages that people copy from."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page in ("README.md", "docs/clients.md")
        for number, block in enumerate(
            re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"))
        )
        if that_have in block
    ]


async def run(recipe: str, signalbox: RunningRouter) -> tuple[int | None, bytes, bytes]:
    """Run a recipe as it stands, but for the port; return its status and what it printed."""
    assert DOCUMENTED in recipe
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", recipe.replace(DOCUMENTED, f"http://127.0.0.1:{signalbox.port}")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(AT_MOST_S):
        said, complained = await process.communicate()
    return process.returncode, said, complained


def served_by(fm: ScriptedUpstream, **provider: Any) -> dict[str, Any]:
    """Return settings by which one provider serves text."""
    told = openai_provider(fm.url, **provider)
    return {"providers": {"fm": told}, "capabilities": {"text": ["fm/m"]}}


@pytest.mark.parametrize("recipe", recipes())
async def test_a_recipe_prints_the_answer(tmp_path: Path, recipe: str) -> None:
    """And its request has the priority that it asks for."""
    seen: list[int | None] = []

    async def script(conversation: Conversation) -> None:
        (flight,) = signalbox.router.in_flight
        seen.append(flight.priority)
        await conversation.answer(ANSWER)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **served_by(fm)) as signalbox,
    ):
        status, said, complained = await run(recipe, signalbox)
    assert status == 0, complained.decode()
    assert b"hi" in said
    assert seen == [Priority.HIGH if HIGH in recipe else Priority.LOW]


@pytest.mark.parametrize("recipe", recipes(that_have=LOCAL))
async def test_a_recipe_that_stays_here_stays_here(tmp_path: Path, recipe: str) -> None:
    """Where only a remote model could answer, it is refused, and nothing has left."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **served_by(fm, locality="remote")) as signalbox,
    ):
        status, _, complained = await run(recipe, signalbox)
    assert status == 1
    assert b"local_only is set" in complained
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
