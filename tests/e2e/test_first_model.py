"""A first model through the running router: from nothing on disk to an answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.harness.served import free_port, served

pytestmark = pytest.mark.mlx

PULL = "/admin/builtin/models/smollm2-135m/download"
HELLO = {
    "model": "text",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 8,
}


async def test_a_finished_download_starts_what_waits_for_it(tmp_path: Path) -> None:
    """Bound and absent, the model is fetched by its route; then its process starts and answers."""
    settings: dict[str, Any] = {
        "providers": {"builtin": {"kind": "builtin", "port": free_port()}},
        "capabilities": {"text": ["builtin/smollm2-135m"]},
    }
    async with served(tmp_path, **settings) as router:
        assert await router.state("text") == "needs_download"
        missing = await router.client.post("/v1/chat/completions", json=HELLO)
        assert missing.json()["error"]["code"] == "model_not_downloaded"
        assert (await router.client.post(PULL)).status_code == 202
        # Asking twice is one download.
        assert (await router.client.post(PULL)).status_code == 202
        async with asyncio.timeout(300):
            while await router.state("text") != "ready":
                await asyncio.sleep(0.05)
        row = (await router.client.get("/admin/builtin/models")).json()["data"][0]
        assert (row["id"], row["state"], row["percent"]) == ("smollm2-135m", "ready", 100)
        answer = await router.client.post("/v1/chat/completions", json=HELLO)
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]

        refused = await router.client.delete("/admin/builtin/models/smollm2-135m")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        await router.assign("text", wait="gone")
        removed = await router.client.delete("/admin/builtin/models/smollm2-135m")
        assert removed.json() == {"id": "smollm2-135m", "removed": True}
        assert not (tmp_path / "data" / "models" / "smollm2-135m").exists()


async def test_a_download_can_be_cancelled_and_ends_with_the_router(tmp_path: Path) -> None:
    """A cancelled download leaves nothing; one under way does not hold up the stop."""
    async with served(
        tmp_path, providers={"builtin": {"kind": "builtin", "port": free_port()}}
    ) as router:
        await router.client.post(PULL)
        cancelled = await router.client.delete(PULL)
        assert cancelled.json()["state"] == "absent"
        await router.client.post(PULL)
    models = tmp_path / "data" / "models"
    assert [path for path in models.rglob("*") if path.is_file()] == []


async def test_a_model_that_cannot_be_fetched_says_what_can_be_done(tmp_path: Path) -> None:
    """The refusal names another way; an unknown model is a 404."""
    async with served(
        tmp_path, providers={"builtin": {"kind": "builtin", "port": free_port()}}
    ) as router:
        refused = await router.client.post("/admin/builtin/models/qwen3-vl-4b/download")
        unknown = await router.client.post("/admin/builtin/models/none/download")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (409, "download_not_available")
    assert "Hugging Face" in error["message"]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
