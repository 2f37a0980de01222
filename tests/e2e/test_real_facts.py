"""What real providers say of a model, and what trying it out shows, through a real router."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.children import until
from tests.harness.real_providers import RealProvider
from tests.harness.running_router import RunningRouter, openai_provider, running_router

pytestmark = pytest.mark.real_provider


@asynccontextmanager
async def before(provider: RealProvider, kind: str, folder: Path) -> AsyncIterator[RunningRouter]:
    """Run a router that knows this provider, has one of its models bound, and asks for its list."""
    url = provider.url
    settings = (
        {"kind": "ollama", "base_url": url} if kind == "ollama" else openai_provider(f"{url}/v1")
    )
    async with running_router(
        folder,
        providers={kind: settings},
        capabilities={"text": [f"{kind}/{provider.model}"]},
        discovery={"every_s": 300},
    ) as signalbox:
        signalbox.client.timeout = 110
        yield signalbox
        # Asked in the background: a list that is under way is no leak.
        await signalbox.router.discovery.aclose()


async def row(signalbox: RunningRouter, model: str) -> Any:
    """Return what is known of a model."""
    rows = (await signalbox.client.get("/admin/models")).json()["data"]
    return next((each for each in rows if each["model"] == model), None)


async def listed(signalbox: RunningRouter, model: str) -> Any:
    """Return the row of a model once its provider's list is read."""
    found: Any = None
    for _ in range(400):
        found = await row(signalbox, model)
        if found is not None and found["context_length"] is not None:
            return found
        await signalbox.client.get("/v1/models")
    raise AssertionError(found)


async def test_what_llama_server_lists_is_known(llama_server: RealProvider, tmp_path: Path) -> None:
    """Its window, and that it does not see, without a word being generated."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        known = await listed(signalbox, "llama_server/smollm2")
        assert known["context_length"] == 2048
        assert known["facts"]["vision"]["value"] is False
        assert known["facts"]["vision"]["source"] == "provider"
        (model,) = [
            each
            for each in (await signalbox.client.get("/v1/models")).json()["data"]
            if each["id"] == "llama_server/smollm2"
        ]
        assert model["architecture"]["input_modalities"] == ["text"]
        assert model["locality"] == "local"


async def test_what_ollama_lists_is_known(ollama: RealProvider, tmp_path: Path) -> None:
    """That it stays here, and that it neither sees nor calls tools."""
    async with before(ollama, "ollama", tmp_path) as signalbox:
        known = await listed(signalbox, "ollama/smollm2")
        assert known["locality"] == "local"
        assert known["facts"]["vision"]["value"] is False
        assert known["facts"]["tool_use"]["value"] is False
        assert known["facts"]["tool_use"]["source"] == "provider"
        # A tool request is refused here, with the reason, instead of being sent.
        body = {
            "model": "ollama/smollm2",
            "messages": [{"role": "user", "content": "hello"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        }
        refused = await signalbox.chat(body)
        assert refused.json()["error"]["code"] == "capability_mismatch"
        assert "tool_use" in refused.json()["error"]["message"]


async def test_a_model_at_ollama_may_serve_local_only_once_its_list_says_so(
    ollama: RealProvider, tmp_path: Path
) -> None:
    """The first such request has the list read, and is answered."""
    async with before(ollama, "ollama", tmp_path) as signalbox:
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        answer = await signalbox.chat(body, **{"x-signalbox-local-only": "true"})
        assert answer.status_code == 200, answer.text


async def test_a_probe_of_llama_server_tells_what_it_really_does(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """It writes and keeps to schemas; pictures it refuses; tools it leaves out without a word."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        await listed(signalbox, "llama_server/smollm2")
        told = (
            await signalbox.client.post(
                "/admin/models/probe", json={"model": "llama_server/smollm2"}
            )
        ).json()["verdicts"]
        values = {need: verdict["value"] for need, verdict in told.items()}
        # An answer that is cut off before it is over shows nothing of tools either way.
        assert values.pop("tool_use") is not True
        assert values == {"text": True, "structured_output": True, "vision": False}
        assert all(verdict["why"] and verdict["date"] for verdict in told.values())
        known = await row(signalbox, "llama_server/smollm2")
        assert known["facts"]["tool_use"]["source"] == "probe"
        forgotten = await signalbox.client.delete(
            "/admin/models/facts", params={"model": "llama_server/smollm2"}
        )
        assert forgotten.status_code == 200
        await until(lambda: not signalbox.router.in_flight)
        assert "tool_use" not in (await row(signalbox, "llama_server/smollm2"))["facts"]
