"""The life of a model as a follower of the router's events sees it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.served import Served, served, tiny

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
BODY = {
    "model": "text",
    "messages": [{"role": "user", "content": "count"}],
    "temperature": 0,
    "max_tokens": 4,
}
LIFE_S = 60


@asynccontextmanager
async def followed(router: Served) -> AsyncIterator["asyncio.Queue[tuple[str, Any]]"]:
    """Follow the events while this is entered."""
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    begun = asyncio.Event()

    async def follow() -> None:
        async with router.client.stream("GET", "/admin/events") as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            begun.set()
            name = ""
            async for line in lines:
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    events.put_nowait((name, json.loads(value)))

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow())
        await begun.wait()
        yield events
        following.cancel()


async def up_to(events: "asyncio.Queue[tuple[str, Any]]", last: str) -> list[tuple[str, Any]]:
    """Return the events about models up to the next of this name."""
    seen = [await events.get()]
    while seen[-1][0] != last:
        seen.append(await events.get())
    return [(name, data) for name, data in seen if name.startswith("model_")]


async def test_a_load_is_followed_from_the_first_request_to_the_end(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Each phase is told in order, then that it is loaded; later that it is gone, and why."""
    settings = tiny(tiny_vision_model, token="none")
    port = settings["providers"]["builtin"]["port"]
    async with (
        served(tmp_path, **settings, capabilities={"text": ["builtin/tiny"]}) as router,
        asyncio.timeout(LIFE_S),
        followed(router) as events,
    ):
        assert (await router.client.post(CHAT, json=BODY)).status_code == 200
        *loads, loaded = await up_to(events, "model_loaded")
        assert {name for name, _ in loads} == {"model_load"}
        assert {data["name"] for _, data in loads} == {"builtin"}
        assert {data["model"] for _, data in loads} == {"tiny"}
        told = [(data["phase"], data["percent"]) for _, data in loads]
        order = ["preparing", "weights", "warm_up", "self_test"]
        assert list(dict.fromkeys(phase for phase, _ in told)) == order
        assert ("weights", 100) in told
        assert ("self_test", 100) in told
        for phase in order:
            percents = [percent for each, percent in told if each == phase]
            assert percents == sorted(set(percents)), phase
        assert loaded[1]["load_s"] > 0
        row = await router.backend()
        assert (row["models"], row["loading"]) == (["tiny"], None)

        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"http://127.0.0.1:{port}/unload")
        assert answer.json() == {"unloaded": ["tiny"]}
        gone = {"name": "builtin", "model": "tiny", "reason": "asked"}
        assert await up_to(events, "model_unloaded") == [("model_unloaded", gone)]
        assert (await router.backend())["models"] == []

        await router.client.post(CHAT, json=BODY)
        await up_to(events, "model_loaded")
        os.kill((await router.backend())["pid"], signal.SIGKILL)
        gone["reason"] = "ended"
        assert await up_to(events, "model_unloaded") == [("model_unloaded", gone)]


async def test_the_configured_size_of_a_picture_counts(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """The router names it, and `images.max_mb` reaches the backend, which others may ask."""
    url = "data:image/png;base64," + "A" * 1_400_000
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = {**BODY, "messages": [{"role": "user", "content": content}]}
    settings = tiny(tiny_vision_model, token="none")
    capabilities = {"text": ["builtin/tiny"], "vision": ["builtin/tiny"]}
    async with served(
        tmp_path, **settings, capabilities=capabilities, images={"max_mb": 1}
    ) as router:
        answer = await router.client.post(CHAT, json=body)
        await router.until("ready", "vision", 60)
        port = settings["providers"]["builtin"]["port"]
        behind = await router.client.post(
            f"http://127.0.0.1:{port}{CHAT}", json={**body, "model": "tiny"}
        )
    for each, says in ((answer, "1 MB at most"), (behind, "at most 1 MB")):
        error = each.json()["error"]
        assert (each.status_code, error["code"]) == (400, "invalid_image")
        assert says in error["message"]


async def test_a_load_under_way_is_shown(tmp_path: Path, tiny_vision_model: Path) -> None:
    """The router tells how far it is without asking the process; its failure is an event too."""
    folder = tmp_path / "stuck"
    folder.mkdir()
    for path in tiny_vision_model.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).symlink_to(path)
    # Opening it does not return before somebody writes to it.
    os.mkfifo(folder / "model.safetensors")
    settings = tiny(folder, token="none")
    port = settings["providers"]["builtin"]["port"]
    async with (
        served(tmp_path, **settings, capabilities={"text": ["builtin/tiny"]}) as router,
        asyncio.timeout(LIFE_S),
        followed(router) as events,
    ):
        asking = asyncio.ensure_future(router.client.post(CHAT, json=BODY))
        while (loading := (await router.backend())["loading"]) is None:
            await asyncio.sleep(0.02)
        assert loading == {"model": "tiny", "phase": "preparing", "percent": 0}
        async with httpx2.AsyncClient(trust_env=False) as client:
            health = (await client.get(f"http://127.0.0.1:{port}/health")).json()
        assert health["state"] == "loading"
        assert health["loading"].pop("seconds") > 0
        assert health["loading"] == loading
        with (folder / "model.safetensors").open("wb") as weights:
            weights.write(b"nonsense")
        *_, (_, failed) = await up_to(events, "model_load_failed")
        assert failed["model"] == "tiny"
        assert "model.safetensors is damaged" in failed["message"]
        assert (await router.backend())["loading"] is None
        assert (await asking).status_code == 503
