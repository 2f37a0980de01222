"""Settings, stored assignments and the disk, put together into a Catalog."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backends.catalogue import ModelFolders
from router.capabilities import Capability
from router.catalog import Catalog, Locality, Source
from router.data_folder import DataFolder
from router.launch import model_folders
from router.learned import Learned, Listing
from router.litellm_package import Installed, NoLiteLLM, Package
from router.litellm_table import Table, read_table
from router.metadata import openai_list
from router.overrides import Override
from router.settings import load
from router.snapshot import Ground, build_catalog, survey

BUILTIN = {"builtin": {"kind": "builtin"}}


def ground(
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    folders: ModelFolders | None = None,
    litellm: Installed | None = None,
    **sections: Any,
) -> Ground:
    tree = {"providers": {}, "models": {}, "aliases": {}, "capabilities": {}, **sections}
    config = folder / "router.yaml"
    config.write_text(json.dumps(tree), encoding="utf-8")
    environment = {"HOME": str(folder), **(environ or {})}
    return survey(
        load(config, {}, environment),
        environment,
        folders or ModelFolders(folder / "models", {}),
        builtin_token="token",
        has_mlx=True,
        litellm=litellm,
    )


def catalog(
    folder: Path, stored: Mapping[Capability, Override] | None = None, **more: Any
) -> Catalog:
    return build_catalog(ground(folder, **more), stored or {})


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize(
    ("environ", "present"), [({"KEY": "sk-1"}, True), ({}, False), ({"KEY": " bad key "}, False)]
)
def test_a_provider_without_its_key_is_left_out(
    tmp_path: Path, environ: dict[str, str], present: bool
) -> None:
    """A key that is missing or is none disables its provider, and the ground says why."""
    providers = {
        "cloud": {"kind": "openai", "base_url": "https://c.example/v1", "api_key": {"env": "KEY"}}
    }
    found = ground(tmp_path, environ=environ, providers=providers)
    assert ("cloud" in found.providers) is present
    assert ("KEY" in found.disabled.get("cloud", "")) is not present
    assert "sk-1" not in repr(found)


def test_addresses_and_localities_follow_the_settings(tmp_path: Path) -> None:
    """Loopback is local, anything else remote, and the owner's word outweighs both."""
    providers = {
        **BUILTIN,
        "ollama": {"kind": "ollama"},
        "mac": {"kind": "ollama", "base_url": "http://192.168.1.9:11434", "locality": "local"},
        "relay": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "locality": "remote"},
        "cloud": {"kind": "openai", "base_url": "https://c.example/v1"},
        "later": {"kind": "litellm", "litellm_provider": "anthropic"},
    }
    known = ground(tmp_path, providers=providers).providers
    assert {name: (one.base_url, one.locality) for name, one in known.items()} == {
        "builtin": ("http://127.0.0.1:60316/v1", Locality.LOCAL),
        "ollama": ("http://127.0.0.1:11434/v1", Locality.LOCAL),
        "mac": ("http://192.168.1.9:11434/v1", Locality.LOCAL),
        "relay": ("http://127.0.0.1:9/v1", Locality.REMOTE),
        "cloud": ("https://c.example/v1", Locality.REMOTE),
    }
    assert known["builtin"].api_key == "token"


class Litellm(Installed):
    """A LiteLLM whose table is this; it counts how often it is read."""

    def __init__(self, table: Table | None) -> None:
        super().__init__()
        self.known = table
        self.reads = 0

    def find(self) -> Package:
        if self.known is None:
            raise NoLiteLLM("it is not here")
        return Package(Path("litellm"), self.known.release)

    def table(self) -> Table:
        self.reads += 1
        if self.known is None:
            raise NoLiteLLM("it is not here")
        return self.known


OPENAI = {"kind": "openai", "base_url": "https://api.openai.com/v1"}
RELAY = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}
ROWS = {"gpt": {"litellm_provider": "openai", "mode": "chat", "supports_pdf_input": True}}
TABLE = read_table(json.dumps(ROWS).encode(), "1.2.3")


def test_the_table_tells_of_models_that_no_list_names(tmp_path: Path) -> None:
    """A cloud's model has the table's facts, bound or only named; a relay's has none."""
    surveyed = ground(
        tmp_path,
        litellm=Litellm(TABLE),
        providers={"openai": OPENAI, "relay": RELAY},
        models={"openai/gpt": {"capabilities": {"text": False}}},
    )
    known = build_catalog(surveyed, {})
    declared = known.models["openai/gpt"].facts
    assert (declared["text"].source, declared["file"].source) == (Source.USER, Source.TABLE)
    named = known.model("openai/gpt-other"), known.model("relay/gpt")
    assert [model and model.facts for model in named] == [{}, {}]
    surveyed = ground(tmp_path, litellm=Litellm(TABLE), providers={"openai": OPENAI})
    model = build_catalog(surveyed, {}).model("openai/gpt")
    assert model is not None
    assert model.facts["file"].value


@pytest.mark.parametrize("table", [TABLE, None])
def test_a_cloud_of_another_dialect_needs_litellm(table: Table | None, tmp_path: Path) -> None:
    """Without it the provider is left out, and why is said where a missing key would be."""
    told = {"kind": "litellm", "litellm_provider": "openai", "options": {"api_version": "1"}}
    surveyed = ground(tmp_path, litellm=Litellm(table), providers={"p": told})
    if table is None:
        assert (dict(surveyed.providers), surveyed.disabled) == ({}, {"p": "it is not here"})
        return
    provider = surveyed.providers["p"]
    assert (provider.cloud, provider.locality) == ("openai", Locality.REMOTE)
    model = build_catalog(surveyed, {}).model("p/gpt")
    assert model is not None
    assert model.facts["file"].value


def test_what_a_cloud_lists_keeps_its_own_word(tmp_path: Path) -> None:
    """The table fills what a list leaves open."""
    surveyed = ground(tmp_path, litellm=Litellm(TABLE), providers={"openai": OPENAI})
    row = {"id": "gpt", "architecture": {"output_modalities": ["image"]}}
    models = openai_list(json.dumps({"data": [row]}).encode(), "openai")
    learned = Learned({"openai": Listing(surveyed.providers["openai"], models, "today")})
    facts = build_catalog(surveyed, {}, learned).models["openai/gpt"].facts
    assert (facts["text"].value, facts["text"].source) == (False, Source.PROVIDER)
    assert (facts["file"].value, facts["file"].source) == (True, Source.TABLE)


@pytest.mark.parametrize(
    ("provider", "reads", "why"), [(OPENAI, 1, "it is not here"), (RELAY, 0, None)]
)
def test_the_table_is_read_where_a_provider_may_stand_in_it(
    provider: dict[str, Any], reads: int, why: str | None, tmp_path: Path
) -> None:
    """Nobody else waits for it, and where it is missing the ground says why."""
    litellm = Litellm(None)
    surveyed = ground(tmp_path, litellm=litellm, providers={"p": provider})
    assert (litellm.reads, surveyed.no_table, surveyed.table) == (reads, why, None)


def test_builtin_models_are_present_when_they_are_on_disk(tmp_path: Path) -> None:
    """The catalogue's models are known either way; present only with their files."""
    known = catalog(tmp_path, providers=BUILTIN)
    assert known.models["builtin/smollm2-135m"].present is False
    model_at(tmp_path / "models" / "smollm2-135m")
    known = catalog(tmp_path, providers=BUILTIN)
    assert known.models["builtin/smollm2-135m"].present is True
    told = known.models["builtin/smollm2-135m"].facts["vision"]
    assert (told.value, told.source) == (False, Source.PROVIDER)


def test_a_hugging_face_id_is_the_builtin_model_of_that_id(tmp_path: Path) -> None:
    """Bound by its id, a catalogue model keeps its one name; another id counts if it is cached."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--org--other" / "snapshots" / "abc"
    model_at(snapshot)
    (cache / "models--org--other" / "refs").mkdir()
    (cache / "models--org--other" / "refs" / "main").write_text("abc", encoding="utf-8")
    names = ("builtin/HuggingFaceTB/SmolLM2-135M-Instruct", "builtin/org/other", "builtin/org/none")
    known = catalog(
        tmp_path,
        {Capability.TEXT: Override(names, "now")},
        providers=BUILTIN,
        folders=ModelFolders(tmp_path / "models", {}, (cache,)),
    )
    bound = known.bound(Capability.TEXT)
    assert [(model.name, model.present) for model in bound] == [
        ("builtin/smollm2-135m", False),
        ("builtin/org/other", True),
    ]


def test_the_users_facts_outweigh_the_catalogues(tmp_path: Path) -> None:
    """What the file says of a model is the fact, with the user as its source."""
    known = catalog(
        tmp_path,
        providers=BUILTIN,
        models={
            "builtin/smollm2-135m": {"capabilities": {"tool_use": True}, "context_length": 2048}
        },
    )
    model = known.models["builtin/smollm2-135m"]
    assert (model.facts["tool_use"].value, model.facts["tool_use"].source) == (True, Source.USER)
    assert model.context_length == 2048


def test_a_stored_assignment_keeps_the_files_restrictions(tmp_path: Path) -> None:
    """Assigning other models at run time does not lift local_only."""
    sections = {
        "providers": {"a": {"kind": "ollama"}},
        "capabilities": {"text": {"models": ["a/x"], "local_only": True}},
    }
    known = catalog(tmp_path, {Capability.TEXT: Override(("a/y",), "now")}, **sections)
    binding = known.bindings[Capability.TEXT]
    assert (binding.models, binding.local_only) == (("a/y",), True)


def test_without_mlx_the_packaged_default_binds_nothing_to_it(tmp_path: Path) -> None:
    """A machine without MLX starts with text unbound; one with it starts with SmolLM2."""
    settings = load(None, {}, {"HOME": str(tmp_path)})
    folders = ModelFolders(tmp_path, {})
    bound = {}
    for has_mlx in (True, False):
        here = survey(settings, {}, folders, builtin_token=None, has_mlx=has_mlx)
        bound[has_mlx] = build_catalog(here, {}).bindings
    assert bound[True][Capability.TEXT].models == ("builtin/smollm2-135m",)
    assert bound[False] == {}


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "/c/hub", "HF_HOME": "/h"}, "/c/hub"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_variables_say(
    tmp_path: Path, environ: dict[str, str], cache: str
) -> None:
    """Models that another tool fetched are found where that tool put them."""
    settings = load(None, {"data_dir": str(tmp_path)}, {"HOME": str(tmp_path)})
    assert model_folders(settings, environ, DataFolder(tmp_path)).hf_caches == (Path(cache),)
