import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.catalog import Kind, Locality, Model, Provider
from router.litellm_package import STOLE_KEYS, Installed, NoLiteLLM, find_package

OPENAI = Provider("p", Kind.OPENAI, "https://x/v1", Locality.REMOTE, cloud="openai")
NAME = "model_prices_and_context_window_backup.json"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder before all others in which packages are found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert "litellm" not in sys.modules


def install(place: Path, release: str = "1.106.2", table: str | None = "{}") -> None:
    (place / "litellm").mkdir(exist_ok=True)
    # Whoever runs it has done what must not be done.
    (place / "litellm/__init__.py").write_text("raise SystemExit('was run')", encoding="utf-8")
    (place / f"litellm-{release}.dist-info").mkdir()
    if table is not None:
        (place / "litellm" / NAME).write_text(table, encoding="utf-8")


def test_an_installed_package_is_found_and_not_run(place: Path) -> None:
    """Its folder and its release are read off the disk."""
    install(place)
    package = find_package()
    assert (package.folder, package.release) == (place / "litellm", "1.106.2")


@pytest.mark.parametrize("release", sorted(STOLE_KEYS))
def test_a_release_that_stole_keys_is_not_used(release: str, place: Path) -> None:
    """Nothing of it is read, and the text says what else is to be done."""
    install(place, release)
    with pytest.raises(NoLiteLLM, match=r"stole credentials.*change every key.*setup cloud"):
        Installed().table()


def test_without_the_package_the_text_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is told with the command that installs it."""
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(NoLiteLLM, match="not installed; install it with: scripts/setup cloud"):
        Installed().find()


def test_a_table_is_read_once_for_each_state_of_its_file(place: Path) -> None:
    """The same file gives the same table, a changed one another."""
    install(place)
    installed = Installed()
    before = installed.table()
    assert installed.table() is before
    told = {"m": {"litellm_provider": "openai", "supports_vision": True}}
    (place / "litellm" / NAME).write_text(json.dumps(told), encoding="utf-8")
    assert installed.table().fill(Model("p", "m"), OPENAI).facts["vision"].value


@pytest.mark.parametrize("table", [None, "[1]", "x" * 32_000_001])
def test_a_table_that_cannot_be_read_is_told(table: str | None, place: Path) -> None:
    """A file that is missing, another thing, or too large is no table."""
    install(place, table=table)
    with pytest.raises(NoLiteLLM, match=r"the table of LiteLLM 1\.106\.2 cannot be read"):
        Installed().table()
