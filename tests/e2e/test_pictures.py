"""A picture that a request names is seen by a real model on this machine."""

from pathlib import Path

import pytest
from PIL import Image

from tests.harness.colours import COLOURS
from tests.harness.pictures import shows
from tests.harness.served import served, tiny


@pytest.mark.mlx
async def test_the_builtin_model_sees_a_file_by_its_path(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """The backend takes data: URIs alone, and tells the colour of each."""
    root = tmp_path / "pictures"
    root.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (64, 64), COLOURS[name]).save(root / f"{name}.png")
    settings = {
        **tiny(tiny_vision_model),
        "capabilities": {"vision": ["builtin/tiny"]},
        "images": {"local_roots": [str(root)]},
    }
    async with served(tmp_path, **settings) as router:
        for name in ("red", "blue"):
            request = shows(f"file://{root}/{name}.png", max_tokens=8, temperature=0)
            request["messages"][0]["content"][0]["text"] = "What colour is this?"
            answer = await router.client.post("/v1/chat/completions", json=request)
            assert answer.headers["x-signalbox-shims"] == "images"
            assert name in answer.json()["choices"][0]["message"]["content"]
