"""Whatever is edited in whatever order: it ends as a fresh start from the same file and store."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from router.catalog import Catalog
from router.errors import SignalboxError
from router.providers import Providers
from router.settings import SettingsError
from router.store import Store
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save

NAMES = st.sampled_from(["a", "b", "c"])
URLS = st.sampled_from(["http://127.0.0.1:9/v1", "http://10.0.0.1:9/v1", "https://c.example/v1"])
PROVIDER = st.fixed_dictionaries(
    {"kind": st.just("openai"), "base_url": URLS},
    optional={
        "locality": st.sampled_from(["local", "remote"]),
        "headers": st.just({"X-Team": "a"}),
        "ca_file": st.just("/none.pem"),
        "api_key": st.just({"keyring": "none"}),
        "timeouts": st.just({"idle_s": 3}),
    },
)
MODELS = st.lists(NAMES.map(lambda name: f"{name}/m"), unique=True, max_size=3)
SECTIONS = st.fixed_dictionaries(
    {"providers": st.dictionaries(NAMES, PROVIDER, max_size=3)},
    optional={
        "capabilities": st.fixed_dictionaries({"text": MODELS}),
        "local_only": st.booleans(),
        "aliases": st.just({"x": "auto"}),
    },
)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), SECTIONS),
        st.tuples(st.just("add"), NAMES, PROVIDER),
        st.tuples(st.just("edit"), NAMES, PROVIDER),
        st.tuples(st.just("remove"), NAMES),
        st.tuples(st.just("assign"), MODELS),
    ),
    min_size=1,
    max_size=8,
)


def _in_order(catalog: Catalog) -> Any:
    """Return all of a catalog; the order of names means something, which == does not see."""
    return catalog, list(catalog.providers), list(catalog.models), list(catalog.bindings)


async def _make(signalbox: RunningRouter, providers: Providers, edit: Any) -> None:
    router = signalbox.router
    match edit:
        case ("save", sections):
            save(router._settings.source.parent, **sections)
            await router.configuration.reload()
        case ("add", name, told):
            await providers.add(name, told)
        case ("edit", name, told):
            await providers.edit(name, told)
        case ("remove", name):
            await providers.remove(name)
        case ("assign", models):
            await signalbox.client.put("/admin/capabilities/text", json={"models": models})


async def _check(folder: Path, edits: list[Any]) -> None:
    valid: dict[str, Any] = {"providers": {"a": openai_provider("http://127.0.0.1:9/v1")}}
    async with running_router(folder, **valid) as signalbox:
        router = signalbox.router
        store = Store(folder / "data" / "signalbox.db")
        providers = Providers(router.configuration, router.reaches, store, folder / "keys")
        for edit in edits:
            last = (folder / "router.yaml").read_bytes()
            try:
                await _make(signalbox, providers, edit)
            except SettingsError:
                # A fresh start would refuse it, too: the last file that was good is the measure.
                (folder / "router.yaml").write_bytes(last)
            except SignalboxError:
                pass
            assert set(router.reaches) == set(router.capability_map.catalog.providers)
        store.close()
        lived = _in_order(router.capability_map.catalog), set(router.configuration.disabled)
        async with asyncio.timeout(5):
            while router.configuration._reaches.retired:
                await asyncio.sleep(0.005)
    sections = json.loads((folder / "router.yaml").read_bytes())
    async with running_router(folder, **sections) as fresh:
        assert _in_order(fresh.router.capability_map.catalog) == lived[0]
        assert set(fresh.router.configuration.disabled) == lived[1]


@settings(max_examples=25)
@given(EDITS)
def test_any_sequence_of_edits_ends_as_a_fresh_start(edits: list[Any]) -> None:
    """The same catalog in the same order, and the same providers left out for the same reasons."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_check(Path(folder), edits))
