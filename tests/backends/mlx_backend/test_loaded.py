import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from backends.mlx_backend.embeddings import cut_span
from backends.mlx_backend.generation import Generation, Sampling
from backends.mlx_backend.loaded import LoadedModels
from backends.mlx_backend.passed_tests import PassedTests
from backends.mlx_backend.prompt import Reading
from backends.mlx_backend.self_test import Verdict
from backends.wire import LoadPhase, Priority

pytestmark = pytest.mark.mlx


def phases(
    models: LoadedModels, folder: Path, *, stay: bool = False
) -> list[tuple[LoadPhase, float]]:
    """Load a model, and unload it unless it is to stay; returns what was told of its progress."""
    told: list[tuple[LoadPhase, float]] = []
    models.load("key", "tiny", folder, 1, lambda phase, done: told.append((phase, done)))
    if not stay:
        models.unload("key")
    return told


def test_the_self_test_is_done_once(tiny_vision_model: Path, tmp_path: Path) -> None:
    """A model that has passed is not tested again, not even by another process; a changed one is.

    Each phase ends with all of it done.
    """
    folder = shutil.copytree(tiny_vision_model, tmp_path / "tiny")
    models = LoadedModels(chunk_s=1e-9, passed=PassedTests(tmp_path / "passed.json"))
    first = phases(models, folder)
    assert (LoadPhase.WEIGHTS, 1.0) in first
    assert first[-1] == (LoadPhase.SELF_TEST, 1.0)
    models.close()
    models = LoadedModels(chunk_s=1e-9, passed=PassedTests(tmp_path / "passed.json"))
    assert phases(models, folder)[-1] == (LoadPhase.WARM_UP, 0)
    (folder / "config.json").touch()
    assert phases(models, folder)[-1] == (LoadPhase.SELF_TEST, 1.0)
    models.close()


def test_a_self_test_that_failed_is_done_again(
    tiny_vision_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is served one by one for ever because of something that passed by."""
    models = LoadedModels(chunk_s=1e-9, passed=PassedTests(tmp_path / "passed.json"))
    with monkeypatch.context() as broken:
        failed = Verdict(9, 0, "rows differ")
        broken.setattr("backends.mlx_backend.loaded.try_batching", lambda *_: failed)
        models.load("key", "tiny", tiny_vision_model, 1)
        assert models.why_serial == "rows differ"
        models.unload("key")
    assert phases(models, tiny_vision_model)[-1] == (LoadPhase.SELF_TEST, 1.0)
    models.close()


@pytest.mark.parametrize("texts_too", [False, True])
def test_pictures_that_cannot_be_read_in_parts_are_read_whole(
    tiny_vision_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, texts_too: bool
) -> None:
    """Where that is all that is wrong rows share batches; where it is not, it is done as well."""

    def spoil(embeddings: Mapping[str, Any], start: int, stop: int, length: int) -> Any:
        cut = cut_span(embeddings, start, stop, length)
        if start and (texts_too or "visual_pos_masks" in embeddings):
            cut["inputs_embeds"] = -cut["inputs_embeds"]
        return cut

    monkeypatch.setattr("backends.mlx_backend.prefill.cut_span", spoil)
    models = LoadedModels(chunk_s=1e-9, passed=PassedTests(tmp_path / "passed.json"))
    told = phases(models, tiny_vision_model, stay=True)
    assert told.count((LoadPhase.SELF_TEST, 1.0)) == 2
    model = models["key"].model
    assert bool(models.why_serial) is texts_too
    content = [{"type": "image"}, {"type": "text", "text": "colour?"}]
    messages = [{"role": "user", "content": content}]
    wanted = Generation("tiny", Path(), messages, (), Sampling(), 1, (), Priority.LOW)
    reading = Reading(model, wanted, [Image.new("RGB", (120, 120), "teal")])
    assert reading.prompt().whole
    assert not model.resumes[True]
    # Else it would be read in parts at the next load.
    assert repr(PassedTests(tmp_path / "passed.json")) == "<PassedTests 0>"
    models.close()


def test_nothing_is_left_of_a_load_that_failed(
    tiny_vision_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that were read before are gone when it is told."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no such grammar")

    models = LoadedModels(chunk_s=1e-9)
    before_mb = models.memory_mb
    monkeypatch.setattr("backends.mlx_backend.models.Grammars.prepare", fail)
    with pytest.raises(RuntimeError, match="no such grammar"):
        models.load("key", "tiny", tiny_vision_model, 1)
    assert models.memory_mb <= before_mb
    models.close()


def test_weights_are_told_piece_by_piece(
    tiny_vision_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a model is, what is told of its weights grows by pieces of a bounded size."""
    monkeypatch.setattr("backends.mlx_backend.models._PIECE_BYTES", 64 * 1024)
    models = LoadedModels(chunk_s=1e-9)
    told = [done for phase, done in phases(models, tiny_vision_model) if phase is LoadPhase.WEIGHTS]
    assert len(told) > 5
    assert told == sorted(set(told))
    assert (told[0], told[-1]) == (0, 1)
    models.close()
