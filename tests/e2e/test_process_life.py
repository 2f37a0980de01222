"""The map decides which process lives: shown on the real router and the real MLX backend."""

import asyncio
import json
import random
import signal
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.harness.running_router import openai_provider
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import Served, fake_builtin, gone, served, tiny

HELLO = {
    "model": "text",
    "messages": [{"role": "user", "content": "count"}],
    "max_tokens": 4,
    "temperature": 0,
}
TEXT = {"capabilities": {"text": ["builtin/tiny"]}}
# A child, and its guardian.
GUARDED = 2


async def _chat(router: Served, **changes: Any) -> Any:
    return await router.client.post("/v1/chat/completions", json={**HELLO, **changes})


def _code(response: Any) -> str:
    return str(response.json()["error"]["code"])


def _backends(router: Served) -> list[psutil.Process]:
    """Return the live MLX backend processes below the router, guardians not counted."""
    found = []
    for process in router.descendants():
        try:
            if "backends.mlx_backend" in process.cmdline()[:4]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_a_process_lives_exactly_while_a_capability_points_at_it(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Nothing at first; assigned it comes up, with the last assignment it goes, and returns."""
    async with served(tmp_path, **tiny(tiny_vision_model)) as router:
        assert router.descendants() == []
        refused = await _chat(router, model="builtin/tiny")
        assert (refused.status_code, _code(refused)) == (409, "backend_not_assigned")
        assert refused.headers["x-should-retry"] == "false"
        for _ in range(2):
            up = await router.assign("text", "builtin/tiny", wait="ready")
            assert (up.status_code, up.json()["state"]) == (200, "ready")
            assert (await router.assign("vision", "builtin/tiny")).json()["state"] == "ready"
            (alive,) = _backends(router)
            assert (await _chat(router)).status_code == 200
            assert (await router.assign("text")).status_code == 200
            assert await router.state("vision") == "ready"
            kept = await router.assign("text", wait="gone")
            assert (kept.status_code, _code(kept)) == (409, "conflict")
            down = await router.assign("vision", wait="gone")
            assert (down.status_code, down.json()["state"]) == (200, "unassigned")
            assert not alive.is_running()
            assert router.descendants() == []


async def test_an_assignment_survives_a_restart_and_starts_its_process(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """What was assigned yesterday is up today, although the file binds nothing."""
    settings = tiny(tiny_vision_model)
    async with served(tmp_path, **settings) as router:
        await router.assign("text", "builtin/tiny", wait="ready")
    async with served(tmp_path, **settings) as router:
        assert (await _chat(router)).status_code == 200
        assert (await router.backend())["state"] == "ready"


async def test_twenty_quick_flips_end_as_the_last_one_says(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Never two backends at once, and the final state is the last write."""
    most = 0
    async with served(tmp_path, **tiny(tiny_vision_model)) as router:
        finished = asyncio.Event()

        async def watch() -> None:
            nonlocal most
            while not finished.is_set():
                most = max(most, len(_backends(router)))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        order = random.Random(7)  # noqa: S311 no secret
        for number in range(20):
            models = () if number % 2 else ("builtin/tiny",)
            await router.assign("text", *models)
            for _ in range(order.randrange(20)):
                await asyncio.sleep(0.01)
        await router.assign("text", "builtin/tiny", wait="ready")
        assert (await _chat(router)).status_code == 200
        assert (await router.assign("text", wait="gone")).status_code == 200
        assert router.descendants() == []
        finished.set()
        await watching
    assert most == 1


async def test_fifty_first_requests_to_an_on_demand_backend_start_and_load_it_once(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Nothing runs until the first request; fifty at once are one spawn and one load."""
    async with served(tmp_path, **tiny(tiny_vision_model, start="on_demand"), **TEXT) as router:
        assert router.descendants() == []
        answers = await asyncio.gather(*(_chat(router) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({json.dumps(answer.json()["choices"]) for answer in answers}) == 1
        assert (await router.backend())["generation"] == 1
        lines = (await router.client.get("/admin/backends/builtin/logs")).json()["data"]
        assert len([line for line in lines if "loaded tiny" in line]) == 1


@pytest.mark.parametrize(("kind", "times"), [("mlx", 4), ("quick", 14), ("deaf", 2)])
async def test_a_killed_router_leaves_no_process_behind(
    tmp_path: Path, tiny_vision_model: Path, kind: str, times: int
) -> None:
    """Twenty times SIGKILL: its child is gone each time, in a second and a half at the median.

    The MLX backend takes seconds to start; the others are a child that does not, and one that is
    deaf to SIGTERM.
    """
    if kind == "mlx":
        settings = {**tiny(tiny_vision_model), **TEXT}
    else:
        settings = fake_builtin(tmp_path, *(["--ignore-term"] if kind == "deaf" else []))
    took_s = []
    for number in range(times):
        router = await Served.start(tmp_path, **settings)
        try:
            async with asyncio.timeout(60):
                # Every other time in the middle of the start.
                while await router.state("text") not in {"ready", "starting" if number % 2 else ""}:
                    await asyncio.sleep(0.005)
                # The guardian is there by then, or is just being made.
                while len(family := router.descendants()) < GUARDED:
                    await asyncio.sleep(0.005)
        finally:
            assert await router.stop(signal.SIGKILL) == -signal.SIGKILL
        since = time.monotonic()
        # Each of them alone may wait for its turn on a machine that is busy.
        await gone(family, within_s=15)
        took_s.append(time.monotonic() - since)
    assert statistics.median(took_s) <= 1.5


async def test_a_second_router_with_the_same_data_is_refused(tmp_path: Path) -> None:
    """The second exits with a message; the first goes on."""
    async with served(tmp_path) as router:
        with pytest.raises(RuntimeError, match="Another Signalbox is running"):
            await Served.start(tmp_path)
        assert (await router.client.get("/health")).status_code == 200


async def test_a_stranger_on_the_backends_port_blocks_it_and_is_left_alone(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """The state is blocked, requests say who is there, and it recovers when the stranger goes."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        settings = tiny(tiny_vision_model)
        settings["providers"]["builtin"]["port"] = port
        async with served(tmp_path, **settings, **TEXT) as router:
            answer = await _chat(router)
            assert (answer.status_code, _code(answer)) == (503, "backend_port_in_use")
            assert str(port) in answer.json()["error"]["message"]
            # The port is looked at again and again, each time a moment of starting.
            await router.until("blocked")
            stranger.settimeout(0)
            with pytest.raises(BlockingIOError):
                stranger.accept()
            stranger.close()
            async with asyncio.timeout(60):
                while (await _chat(router)).status_code != 200:
                    await asyncio.sleep(0.05)


async def test_a_corrupt_model_is_named_and_the_next_request_works(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """A folder whose weights are cut short is 503 model_load_failed; another model answers."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_vision_model.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(
            data[: len(data) // 2] if file.suffix == ".safetensors" else data
        )
    settings = tiny(tiny_vision_model)
    settings["models"]["builtin/broken"] = {"path": str(broken)}
    async with served(
        tmp_path,
        **settings,
        capabilities={"text": ["builtin/tiny"], "vision": ["builtin/broken"]},
    ) as router:
        answer = await _chat(router, model="vision")
        assert (answer.status_code, _code(answer)) == (503, "model_load_failed")
        assert "model.safetensors" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert (await _chat(router)).status_code == 200


async def test_a_failing_backend_is_replaced_by_the_next_route(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """A model that is not on disk or a blocked backend leads to the next model of the binding."""

    async def other(conversation: Conversation) -> None:
        await conversation.answer()

    async with ScriptedUpstream(other) as fm:
        settings = tiny(tiny_vision_model)
        settings["providers"]["fm"] = openai_provider(fm.url)
        capabilities = {"text": ["builtin/qwen3-vl-4b", "fm/m"]}
        async with served(tmp_path, **settings, capabilities=capabilities) as router:
            answer = await _chat(router)
            assert answer.headers["x-signalbox-provider"] == "fm"
            # What is not on disk was not asked.
            assert answer.headers["x-signalbox-attempts"] == "1"
            assert await router.state("text") == "needs_download"


async def test_a_killed_backend_is_an_error_frame_and_comes_back(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """A backend that dies within a stream ends it in an error frame, and a new one serves."""
    async with served(tmp_path, **tiny(tiny_vision_model), **TEXT) as router:
        assert (await _chat(router)).status_code == 200
        (backend,) = _backends(router)
        asked = {**HELLO, "stream": True, "max_tokens": 200}
        async with router.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            pieces = answer.aiter_bytes()
            body = await anext(pieces)
            backend.kill()
            async for piece in pieces:
                body += piece
        last = [event for event in body.split(b"\n\n") if event][-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_truncated"
        assert b"[DONE]" not in body
        async with asyncio.timeout(60):
            while (await _chat(router)).status_code != 200:
                await asyncio.sleep(0.05)
        assert (await router.backend())["restarts"] == 1


async def test_the_backend_has_its_secrets_from_nobody_but_the_router(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Its door wants the token, which is not on its command line, and no key is in its env."""
    settings = tiny(tiny_vision_model)
    async with served(tmp_path, **settings, **TEXT) as router:
        assert (await _chat(router)).status_code == 200
        (backend,) = _backends(router)
        token = backend.environ()["SIGNALBOX_BACKEND_TOKEN"]
        assert all(token not in argument for argument in backend.cmdline())
        port = settings["providers"]["builtin"]["port"]
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = await router.client.get(f"http://127.0.0.1:{port}/v1/models", headers=headers)
            assert (answer.status_code, _code(answer)) == (401, "invalid_api_key")
        assert {entry.laddr.ip for entry in backend.net_connections("tcp")} == {"127.0.0.1"}


async def test_a_backend_that_failed_for_good_gets_a_new_chance_by_a_new_assignment(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Its own last words are the error; assigning again starts it again, and nothing else does."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such device >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o700)
    settings = tiny(tiny_vision_model, python=str(program))
    async with served(tmp_path, **settings, **TEXT, processes={"starts_per_window": 1}) as router:
        async with asyncio.timeout(60):
            while await router.state("text") != "failed":
                await asyncio.sleep(0.01)
        answer = await _chat(router)
        assert (answer.status_code, _code(answer)) == (503, "backend_failed")
        assert "no such device" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
        assert await router.state("text") == "failed"
        again = await router.assign("text", "builtin/tiny", wait="ready")
        assert (again.status_code, again.json()["state"]) == (200, "ready")
        assert (await _chat(router)).status_code == 200
