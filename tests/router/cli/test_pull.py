from pathlib import Path

import pytest

from router.cli.main import main
from router.data_folder import DataFolder

NOBODY = ("--url", "http://127.0.0.1:9")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with the small model in it, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SIGNALBOX_CONFIG", "XDG_CONFIG_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    model = tmp_path / "data/models/smollm2-135m"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes(b"")
    return tmp_path / "data"


def models(data: Path, *arguments: str) -> int:
    """Run `signalbox models` without a router."""
    return main(["models", *arguments, "--data-dir", str(data), *NOBODY])


def test_a_model_that_is_there_is_not_fetched_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a router the data folder is looked at directly."""
    assert models(data, "pull", "smollm2-135m") == 0
    assert capsys.readouterr().out == f"smollm2-135m is there: {data}/models/smollm2-135m\n"


def test_a_model_is_deleted_without_a_router(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is gone at once, and the second call says that it was not there."""
    assert models(data, "rm", "smollm2-135m") == 0
    assert not (data / "models/smollm2-135m").exists()
    assert models(data, "rm", "smollm2-135m") == 0
    assert capsys.readouterr().out.splitlines() == [
        "smollm2-135m is deleted.",
        "smollm2-135m was not there.",
    ]


def test_what_cannot_be_fetched_says_how_else_to_get_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without a source ends with the code and the command that fetches it."""
    assert models(data, "pull", "qwen3-vl-4b") == 1
    told = capsys.readouterr().err
    assert "hf download" in told
    assert "(download_not_available)" in told


@pytest.mark.parametrize("action", ["pull", "rm"])
def test_a_folder_in_use_is_left_alone(
    action: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A router on another port may hold the folder: then it must do the work."""
    with DataFolder(data):
        assert models(data, action, "smollm2-135m") == 1
    assert "Another Signalbox is running" in capsys.readouterr().err


def test_a_restriction_that_is_not_built_stops_a_download_too(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy that was asked for is never gone around."""
    config = tmp_path / "router.yaml"
    config.write_text("downloads: {proxy: 'http://127.0.0.1:9'}", encoding="utf-8")
    assert models(data, "pull", "smollm2-135m", "--config", str(config)) == 2
    assert "downloads.proxy: not built yet" in capsys.readouterr().err
