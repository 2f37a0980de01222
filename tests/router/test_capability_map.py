"""The map and its one writer."""

import threading
from pathlib import Path
from typing import Any

import pytest

from router.snapshot import build_catalog
from tests.harness.running_router import openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

TEXT = "/admin/capabilities/text"


async def _lists(conversation: Conversation) -> None:
    if conversation.target == "/v1/models":
        await conversation.answer(b'{"data": [{"id": "m"}]}')
    else:
        await conversation.answer()


async def test_no_change_of_the_map_holds_up_the_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever changes it, the new catalog is put together beside the event loop."""
    threads: list[threading.Thread] = []

    def watched(*told: Any) -> Any:
        threads.append(threading.current_thread())
        return build_catalog(*told)

    async with ScriptedUpstream(_lists) as fm:
        there: dict[str, Any] = {"providers": {"p": openai_provider(fm.url)}}
        async with running_router(tmp_path, **there) as signalbox:
            client, router = signalbox.client, signalbox.router
            monkeypatch.setattr("router.capability_map.build_catalog", watched)
            await router.discovery.discover("p")
            assert (await client.put(TEXT, json={"models": ["p/m"]})).is_success
            assert (await client.delete(TEXT)).is_success
            probe = {"model": "p/m", "capabilities": ["text"]}
            assert (await client.post("/admin/models/probe", json=probe)).is_success
            assert (await client.delete("/admin/models/facts?model=p/m")).is_success
            await router.capability_map.models_changed()
            told = {"name": "q", **openai_provider(fm.url)}
            assert (await client.post("/admin/providers", json=told)).is_success
            save(tmp_path, **there, aliases={"a": "auto"})
            assert (await client.post("/admin/reload")).json()["changed"] == ["aliases.a"]
    assert len(threads) >= 8
    assert threading.main_thread() not in threads


async def test_a_model_of_a_provider_that_has_gone_has_no_status(tmp_path: Path) -> None:
    """Whoever renders an older catalog meanwhile comes to its end."""
    providers = {"p": openai_provider("http://127.0.0.1:9/v1")}
    async with running_router(tmp_path, providers=providers, models={"p/m": {}}) as signalbox:
        the_map = signalbox.router.capability_map
        model = the_map.catalog.models["p/m"]
        assert the_map.status(model) is None
        save(tmp_path)
        assert (await signalbox.client.post("/admin/reload")).is_success
        assert the_map.status(model) is None


async def test_an_assignment_without_a_provider_is_told_which_one_was_meant(tmp_path: Path) -> None:
    """Requests may name a model by its id alone; the map wants the whole name, and says it."""
    providers = {"p": openai_provider("http://127.0.0.1:9/v1")}
    async with running_router(tmp_path, providers=providers, models={"p/m": {}}) as signalbox:
        refused = await signalbox.client.put(TEXT, json={"models": ["m"]})
    assert refused.json()["error"]["message"].endswith("Is p/m meant?")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "models: this key is missing."),
        ({"models": [], "modles": []}, "modles: unknown key."),
        ({"models": "p/m"}, "models: should be a valid list."),
    ],
)
async def test_a_body_with_a_fault_is_told_as_a_file_is(
    tmp_path: Path, body: Any, told: str
) -> None:
    """Where, and what is due there."""
    async with running_router(tmp_path) as signalbox:
        refused = await signalbox.client.put(TEXT, json=body)
    assert refused.json()["error"]["message"] == told


async def test_an_assignment_that_is_refused_leaves_no_trace(tmp_path: Path) -> None:
    """Neither in the map nor in the catalog, nor in what is stored."""
    async with ScriptedUpstream(_lists) as fm:
        there: dict[str, Any] = {"providers": {"p": openai_provider(fm.url)}}
        async with running_router(tmp_path, **there) as signalbox:
            before = signalbox.router.capability_map.catalog
            refused = await signalbox.client.put(TEXT, json={"models": ["nobody/m"]})
            error = refused.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "models")
            assert error["message"].endswith("The providers here are p.")
            assert signalbox.router.capability_map.catalog is before
            assert (await signalbox.client.get(TEXT)).json()["source"] == "none"
    assert not list((tmp_path / "data").glob("signalbox.db"))
