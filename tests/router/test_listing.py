"""`GET /v1/models`: names, and what is known of each."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router import listing
from router.capabilities import Capability
from router.catalog import Alias, Binding, Catalog, Fact, Kind, Locality, Model, Provider, Source
from router.errors import Refused
from router.listing import ModelList
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import fake_builtin, served

HERE = Provider("here", Kind.OPENAI, "http://127.0.0.1:9/v1", Locality.LOCAL)
CLOUD = Provider("cloud", Kind.OPENAI, "https://cloud.example/v1", Locality.REMOTE)
OLLAMA = Provider("ollama", Kind.OLLAMA, "http://127.0.0.1:11434/v1", Locality.LOCAL)


def fact(value: bool) -> Fact:
    return Fact(value, Source.PROVIDER)


SEER = Model("here", "org/seer", {"vision": fact(True), "audio": fact(True)}, 4096)
BLIND = Model("cloud", "blind", {"vision": fact(False), "embeddings": fact(True)}, listed=True)
DARK = Model("ollama", "dark")


def catalog(**more: Any) -> Catalog:
    return Catalog(
        {each.name: each for each in (HERE, CLOUD, OLLAMA)},
        {each.name: each for each in (SEER, DARK, BLIND)},
        {
            Capability.TEXT: Binding(Capability.TEXT, ("here/org/seer", "ollama/dark")),
            Capability.VISION: Binding(Capability.VISION, ("gone/m",)),
        },
        aliases={
            "gpt-4o": Alias("auto"),
            "eyes": Alias("here/org/seer"),
            "x*": Alias("text"),
            "lost": Alias("nobody"),
        },
        **more,
    )


async def rows(known: Catalog) -> dict[str, dict[str, Any]]:
    reply = await ModelList(lambda: known, lambda _: None).all()
    return {row["id"]: row for row in json.loads(reply.body)["data"]}


async def test_every_name_is_listed_with_what_is_known_of_it() -> None:
    """OpenAI's fields stand as ever; the rest is told as true, false, or null for unknown."""
    told = await rows(catalog())
    names = ["auto", "text", "gpt-4o", "eyes", "lost"]
    assert list(told) == [*names, "here/org/seer", "ollama/dark", "cloud/blind"]
    assert told["here/org/seer"] == {
        "id": "here/org/seer",
        "object": "model",
        "created": 0,
        "owned_by": "here",
        "architecture": {
            "input_modalities": ["text", "image", "audio"],
            "output_modalities": ["text"],
        },
        "capabilities": {
            "vision": True,
            "tool_use": None,
            "structured_output": None,
            "text": True,
        },
        "context_length": 4096,
        "locality": "local",
        "status": None,
    }
    assert told["cloud/blind"]["architecture"]["input_modalities"] == ["text"]
    assert told["cloud/blind"]["capabilities"]["embeddings"] is True
    assert (told["cloud/blind"]["locality"], told["cloud/blind"]["owned_by"]) == ("remote", "cloud")
    # Assigned to text, of unknown sight, at an Ollama that has not said where it runs.
    assert told["ollama/dark"]["capabilities"]["text"] is True
    assert (told["ollama/dark"]["architecture"], told["ollama/dark"]["locality"]) == (None, None)
    assert told["auto"]["capabilities"]["text"] is True
    for name in ("text", "eyes"):
        assert (told[name]["model"], told[name]["owned_by"]) == ("here/org/seer", "signalbox")
        assert told[name]["context_length"] == 4096
    assert told["lost"] == {"id": "lost", "object": "model", "created": 0, "owned_by": "signalbox"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("here/org/seer", None),
        ("org/seer", "here/org/seer"),
        ("text", "here/org/seer"),
        ("eyes", "here/org/seer"),
        ("cloud/blind", None),
    ],
)
def test_one_model_is_told_by_any_of_its_names(name: str, model: str | None) -> None:
    """The row bears the name that was asked for, and says whose it is."""
    row = json.loads(ModelList(catalog, lambda _: None).one(name).body)
    assert (row["id"], row.get("model")) == (name, model)


@pytest.mark.parametrize("name", ["nobody", "blind", "vision", "x1", "", "here/"])
def test_a_name_that_nothing_has_is_refused(name: str) -> None:
    """So are a capability without a model, and the bare id of what a cloud merely lists."""
    with pytest.raises(Refused) as refusal:
        ModelList(catalog, lambda _: None).one(name)
    assert refusal.value.code == "model_not_found"


async def test_the_list_is_rendered_once_for_each_catalog_and_state() -> None:
    """Who asks every second costs nothing; a process that moves on, or a new map, is seen."""
    now, state = [catalog()], ["stopped"]
    known = ModelList(lambda: now[0], lambda model: state[0] if model is SEER else None)
    first = await known.all()
    assert await known.all() is first
    state[0] = "ready"
    second = await known.all()
    assert b'"status":"ready"' in second.body
    now[0] = catalog()
    assert await known.all() is not second


async def test_a_long_list_is_rendered_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread or not, it is the same."""
    short = await rows(catalog())
    monkeypatch.setattr(listing, "_AT_ONCE", 1)
    assert await rows(catalog()) == short


async def test_a_map_that_changes_while_the_list_is_rendered_is_in_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long list is that of one moment: a provider that goes meanwhile breaks nothing."""
    monkeypatch.setattr(listing, "_AT_ONCE", 1)
    before = catalog()
    after = replace(before, providers={"here": HERE}, models={SEER.name: SEER})
    now: list[Catalog] = []

    class Passing(dict[str, Model]):
        """Models of a map that is no more as soon as one of them is looked up."""

        def get(self, name: str, default: Any = None) -> Any:
            now[0] = after
            return super().get(name, default)

    def status(model: Model) -> str | None:
        return now[0].providers[model.provider].kind

    now.append(replace(before, models=Passing(before.models)))
    known = ModelList(lambda: now[0], status)
    first = json.loads((await known.all()).body)["data"]
    assert "ollama/dark" in [row["id"] for row in first]
    second = json.loads((await known.all()).body)["data"]
    assert "ollama/dark" not in [row["id"] for row in second]


async def test_sdks_find_models_whose_ids_have_slashes(tmp_path: Path) -> None:
    """What a provider lists is in the list, and is found alone by its path, escaped or not."""

    async def script(conversation: Conversation) -> None:
        row = {"id": "org/m", "architecture": {"input_modalities": ["text", "image"]}}
        await conversation.answer(json.dumps({"data": [row]}).encode())

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"p": openai_provider(fm.url)}) as signalbox,
    ):
        client = signalbox.client
        assert (await client.get("/v1/models")).json()["data"] == []
        await signalbox.router.discovery.discover("p")
        (row,) = (await client.get("/v1/models")).json()["data"]
        assert row["id"] == "p/org/m"
        for path in ("p/org/m", "p%2Forg%2Fm"):
            assert (await client.get(f"/v1/models/{path}")).json() == row
        (told,) = (await client.get("/admin/models")).json()["data"]
        assert told["facts"]["vision"]["source"] == "provider"
        assert told["facts"]["vision"]["date"] == told["listed_at"]
        assert (told["model"], told["locality"]) == ("p/org/m", "local")


OPENAI = {"kind": "openai", "base_url": "https://api.openai.com/v1"}
TABLE = {"gpt": {"litellm_provider": "openai", "supports_vision": True, "max_input_tokens": 1000}}


async def test_facts_of_the_table_are_told_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound cloud model has what the installed LiteLLM's table says of it, and its release."""
    package = tmp_path / "packages" / "litellm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package.parent / "litellm-1.2.3.dist-info").mkdir()
    file = package / "model_prices_and_context_window_backup.json"
    file.write_text(json.dumps(TABLE), encoding="utf-8")
    monkeypatch.syspath_prepend(str(package.parent))
    sections: dict[str, Any] = {
        "providers": {"cloud": OPENAI},
        "models": {"cloud/gpt": {}},
        "discovery": {"every_s": None},
    }
    async with running_router(tmp_path, **sections) as signalbox:
        told = (await signalbox.client.get("/admin/models")).json()
        assert told["notices"] == []
        (row,) = told["data"]
        assert row["context_length"] == 1000
        assert row["facts"] == {
            "vision": {
                "value": True,
                "source": "litellm table",
                "date": None,
                "why": "as of litellm 1.2.3",
            }
        }
        listed = (await signalbox.client.get("/v1/models/cloud/gpt")).json()
        assert (listed["capabilities"]["vision"], listed["context_length"]) == (True, 1000)


async def test_a_table_that_is_not_there_is_told_where_it_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without LiteLLM the list of models says what is missing, for whom, and what to do."""
    monkeypatch.setitem(sys.modules, "litellm", None)
    sections: dict[str, Any] = {"providers": {"cloud": OPENAI}, "discovery": {"every_s": None}}
    async with running_router(tmp_path, **sections) as signalbox:
        (notice,) = (await signalbox.client.get("/admin/models")).json()["notices"]
    assert notice.startswith("What LiteLLM's table says of the models of cloud is not known: ")
    assert notice.endswith("LiteLLM is not installed; install it with: scripts/setup cloud.")


async def test_the_list_tells_where_a_builtin_model_stands_and_wakes_nothing(
    tmp_path: Path,
) -> None:
    """Absent, stopped, ready: as the process is, without a request to it."""
    settings = fake_builtin(tmp_path, start="on_demand")
    async with served(tmp_path, **settings) as router:

        async def status(name: str) -> Any:
            return (await router.client.get(f"/v1/models/{name}")).json()["status"]

        assert await status("builtin/fake") == "stopped"
        assert await status("builtin/qwen3-vl-4b") == "absent"
        assert (await router.backend())["state"] == "stopped"
        await router.assign("text", "builtin/fake", wait="ready")
        assert await status("builtin/fake") == "ready"
        assert await status("text") == "ready"
