import os
from pathlib import Path

import pytest

from backends.mlx_backend.passed_tests import PassedTests, describe_test, library_versions

VERSIONS = {"mlx": "1", "mlx-vlm": "2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_test_is_the_same_while_nothing_changes(folder: Path) -> None:
    """Asked twice, it is one test; another model's is another."""
    test = describe_test(folder, VERSIONS, "cpu")
    assert test == describe_test(folder, dict(VERSIONS), "cpu")
    twin = folder.rename(folder.with_name("twin"))
    assert describe_test(twin, VERSIONS, "cpu") != test


def test_what_makes_it_another_test(folder: Path) -> None:
    """A library's version, the device, and any file of the model."""
    weights = folder / "model.safetensors"
    seen = {describe_test(folder, VERSIONS, "cpu")}
    seen.add(describe_test(folder, VERSIONS, "gpu"))
    seen.add(describe_test(folder, {**VERSIONS, "mlx": "1.1"}, "cpu"))
    os.utime(weights, ns=(1, 1))
    seen.add(describe_test(folder, VERSIONS, "cpu"))
    weights.write_bytes(b"weights+")
    os.utime(weights, ns=(1, 1))
    seen.add(describe_test(folder, VERSIONS, "cpu"))
    (folder / "generation_config.json").write_text("{}")
    seen.add(describe_test(folder, VERSIONS, "cpu"))
    assert len(seen) == 6


def test_a_link_that_leads_nowhere_is_no_file(folder: Path) -> None:
    """A cache of downloads may lack what no model needs; it counts once it is there."""
    test = describe_test(folder, VERSIONS, "cpu")
    (folder / "README.md").symlink_to(folder / "blob")
    assert describe_test(folder, VERSIONS, "cpu") == test
    (folder.parent / "blob").write_text("more")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(folder.parent / "blob")
    assert describe_test(folder, VERSIONS, "cpu") != test


def test_the_libraries_are_known() -> None:
    """The two that every test depends on are among them."""
    assert {"mlx", "mlx-vlm"} <= library_versions().keys()


def test_what_was_passed_is_known_to_the_next_process(tmp_path: Path) -> None:
    """It lies in a file of its own folder, which is made where it is missing."""
    path = tmp_path / "cache" / "passed.json"
    passed = PassedTests(path)
    assert "a" not in passed
    for test in ("a", "b", "a"):
        passed.add(test)
    assert repr(PassedTests(path)) == "<PassedTests 2>"
    assert "a" in PassedTests(path)
    assert [each.name for each in path.parent.iterdir()] == ["passed.json"]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    """The oldest are forgotten."""
    passed = PassedTests(tmp_path / "passed.json")
    for number in range(102):
        passed.add(str(number))
    assert ("1" in passed, "2" in passed, "101" in passed) == (False, True, True)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[" * 10_000, "\udcff"])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, content: str) -> None:
    """It is replaced by the next test that is passed."""
    path = tmp_path / "passed.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    passed = PassedTests(path)
    assert "a" not in passed
    passed.add("a")
    assert "a" in passed


def test_a_folder_that_cannot_be_written_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is remembered then, and the log says so."""
    (tmp_path / "file").write_text("")
    passed = PassedTests(tmp_path / "file" / "passed.json")
    passed.add("a")
    assert "a" not in passed
    assert "could not be kept" in caplog.text


def test_without_a_file_nothing_is_remembered() -> None:
    """A backend without a cache folder tests each time."""
    passed = PassedTests(None)
    passed.add("a")
    assert "a" not in passed
    assert repr(passed) == "<PassedTests forgotten>"
