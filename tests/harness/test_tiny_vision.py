from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheels for this machine")

from tests.harness.tiny_vision import verify


@pytest.mark.mlx
@pytest.mark.parametrize("seed", [1, 2])
def test_unseen_pictures_are_named(tiny_vision_model: Path, seed: int) -> None:
    """The tiny model names 18 of 18 pictures it never saw, small-talks and counts on."""
    assert verify(tiny_vision_model, seed=seed) == []
