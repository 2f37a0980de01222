"""What is known of a model, by whom it is believed, and what is kept of it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.catalog import Catalog, Fact, Kind, Locality, Model, Provider, Source
from router.learned import Learned, Listing, Verdict
from router.model_folder import described
from router.store import Store
from router.stored_verdicts import read_verdicts

HERE = Provider("here", Kind.OPENAI, "http://127.0.0.1:9/v1", Locality.LOCAL)
CLOUD = Provider("cloud", Kind.OPENAI, "https://cloud.example/v1", Locality.REMOTE)
USER, TOLD = Fact(value=False, source=Source.USER), Fact(value=True, source=Source.PROVIDER)


def listing(provider: Provider, *models: Model) -> Learned:
    listed = {model.name: model for model in models}
    return Learned({provider.name: Listing(provider, listed, "2026-01-01")})


def verdict(value: bool | None) -> Verdict:
    return Verdict(value, "2026-01-02", "it said so")


@pytest.mark.parametrize(
    ("user", "probe", "provider", "expected"),
    [
        (USER, True, TOLD, (False, Source.USER)),
        (None, False, TOLD, (False, Source.PROBE)),
        (None, None, TOLD, (True, Source.PROVIDER)),
        (None, True, None, (True, Source.PROBE)),
        (None, None, None, None),
    ],
)
def test_the_user_is_believed_before_a_probe_and_that_before_the_provider(
    user: Fact | None,
    probe: bool | None,
    provider: Fact | None,
    expected: tuple[bool, Source] | None,
) -> None:
    """A probe that showed nothing leaves the provider's word standing."""
    listed = Model("here", "m", {"vision": provider} if provider else {}, listed=True)
    learned = listing(HERE, listed).with_verdicts("here/m", {"vision": verdict(probe)})
    model = learned.applied(Model("here", "m", {"vision": user} if user else {}), HERE)
    fact = model.facts.get("vision")
    assert (fact and (fact.value, fact.source)) == expected
    assert not model.listed
    if user is None and probe is not None:
        # The catalogue of builtin models is a provider's word like any other.
        model = learned.applied(Model("here", "m", {"vision": TOLD}), HERE)
        assert model.facts["vision"].source is Source.PROBE


def test_a_list_counts_for_the_provider_that_it_came_from_alone() -> None:
    """At another address another server may have a model of the same name."""
    moved = Provider("here", Kind.OPENAI, "http://127.0.0.1:10/v1", Locality.LOCAL)
    learned = listing(HERE, Model("here", "m", {"vision": TOLD}, 4096, listed=True))
    assert learned.applied(Model("here", "m"), HERE).context_length == 4096
    assert learned.applied(Model("here", "m", {}, 8), HERE).context_length == 8
    assert learned.applied(Model("here", "m"), moved) == Model("here", "m")
    assert list(learned.listed({"here": moved})) == []


def test_what_is_forgotten_is_not_known_any_more() -> None:
    """Verdicts go model by model."""
    learned = Learned().with_verdicts("a/m", {"text": verdict(True)})
    learned = learned.with_verdicts("b/m", {"text": verdict(True)}).without_verdicts("a/m")
    assert set(learned.verdicts) == {"b/m"}


def test_an_id_leads_to_what_was_declared_first_and_never_to_what_a_cloud_lists() -> None:
    """A model that stays here is found by its bare id; further names are found both ways."""
    listed = Model("here", "m:latest", other_names=("m",), listed=True)
    far = Model("cloud", "m", listed=True)
    known = Catalog({"cloud": CLOUD, "here": HERE}, {m.name: m for m in (far, listed)}, {})
    assert known.by_id("m") is known.by_id("m:latest") is known.model("here/m") is listed
    assert known.model("cloud/m") is far
    declared = Model("cloud", "m")
    known = Catalog({"cloud": CLOUD, "here": HERE}, {m.name: m for m in (declared, listed)}, {})
    assert known.by_id("m") is declared
    assert known.model("here/m") is listed


def test_what_the_store_keeps_of_probes_is_what_the_start_reads(tmp_path: Path) -> None:
    """Verdicts are replaced one by one, and deleted by model."""
    database = tmp_path / "s.db"
    assert read_verdicts(database) == {}
    store = Store(database)
    store.save_verdicts("a/m", {"vision": verdict(True), "text": verdict(None)})
    store.save_verdicts("a/m", {"vision": verdict(False)})
    store.save_verdicts("b/m", {"vision": verdict(True)})
    assert read_verdicts(database) == {
        "a/m": {"vision": verdict(False), "text": verdict(None)},
        "b/m": {"vision": verdict(True)},
    }
    store.delete_verdicts("a/m")
    assert set(read_verdicts(database)) == {"b/m"}
    store.close()


def test_a_database_of_the_version_before_gets_the_table(tmp_path: Path) -> None:
    """Nobody has to move a database away for a table that is new."""
    database = tmp_path / "s.db"
    store = Store(database)
    store.save_verdicts("a/m", {"text": verdict(True)})
    store.close()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE model_fact")
        connection.execute("PRAGMA user_version = 1")
    assert read_verdicts(database) == {}
    store.save_verdicts("a/m", {"text": verdict(True)})
    store.close()
    assert read_verdicts(database) == {"a/m": {"text": verdict(True)}}


@pytest.mark.parametrize(
    ("config", "vision", "context_length"),
    [
        ({"vision_config": {}, "text_config": {"max_position_embeddings": 4096}}, True, 4096),
        ({"max_position_embeddings": 8192}, None, 8192),
        ({"vision_config": None, "max_position_embeddings": True}, None, None),
    ],
)
def test_a_folder_tells_what_its_model_sees(
    tmp_path: Path, config: dict[str, object], vision: bool | None, context_length: int | None
) -> None:
    """A part that sees says so; one that is missing may have another name."""
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    told = described(tmp_path)
    fact = told.facts.get("vision")
    assert (fact and fact.value, told.context_length) == (vision, context_length)
    assert told.facts["tool_use"].value


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_a_folder_that_cannot_be_read_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    """Nothing is known then, and nothing fails."""
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    assert described(tmp_path).facts == {}
