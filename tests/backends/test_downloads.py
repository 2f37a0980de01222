import asyncio
import json
import os
import venv
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from backends.catalogue import PACKAGES, Package, find_builtin, is_model_folder
from backends.downloads import DownloadError, Downloads, ModelStatus
from backends.installer import child_environment
from backends.wire import CODES, DownloadEvent, DownloadStage
from tests.harness.package_index import PackageIndex
from tests.harness.tiny_gguf import gguf, package, wheel

pytestmark = pytest.mark.mlx

ALIAS = "smollm2-135m"
# Larger than what pip reads at once, so that half of it is to be seen.
WHEEL = wheel(gguf(), padding=3_000_000)


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    """Serve the tiny wheel on a loopback port."""
    with PackageIndex(WHEEL).serving() as serving:
        yield serving


@dataclass
class Bench:
    """A `Downloads` on an index of this machine, and all that it said."""

    downloads: Downloads
    events: list[DownloadEvent] = field(default_factory=list)
    half: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self, event: DownloadEvent) -> None:
        self.events.append(event)
        if event.stage is DownloadStage.DOWNLOADING:
            self.half.set()

    @property
    def status(self) -> ModelStatus:
        return next(row for row in self.downloads.status() if row.id == ALIAS)

    def offer(self, offered: Package) -> None:
        self.downloads.packages = {ALIAS: offered}

    def left(self) -> list[str]:
        """Names of everything below the models folder but the empty staging folder."""
        folder = self.downloads.models_dir
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != ".staging")


@pytest.fixture
async def bench(index: PackageIndex, tmp_path: Path) -> AsyncIterator[Bench]:
    """Return downloads that use the index, and end them."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))
    } | {"PIP_INDEX_URL": index.url, "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    downloads = Downloads(tmp_path / "models", emit=lambda _: None, environment=environment)
    bench = Bench(downloads)
    downloads.emit = bench.heard
    bench.offer(package(WHEEL))
    yield bench
    index.gate.set()
    await downloads.aclose()
    assert not psutil.Process().children(recursive=True)


async def half_way(bench: Bench, index: PackageIndex) -> asyncio.Task[Path]:
    """Begin a download that the index holds back after half of the file."""
    index.gate.clear()
    pulling = asyncio.create_task(bench.downloads.pull(ALIAS))
    await bench.half.wait()
    return pulling


async def test_a_model_is_fetched_and_converted(bench: Bench, index: PackageIndex) -> None:
    """A pull answers with a complete model folder, and nothing but it is left."""
    folder = await bench.downloads.pull(ALIAS)
    assert folder == bench.downloads.models_dir / ALIAS
    assert is_model_folder(folder)
    sampling = json.loads((folder / "generation_config.json").read_bytes())
    assert (sampling["do_sample"], sampling["temperature"]) == (True, 0.2)
    assert all(name.split("/")[0] == ALIAS for name in bench.left())
    assert (bench.status.state, bench.status.percent, bench.status.path) == ("ready", 100, folder)
    assert await bench.downloads.pull(ALIAS) == folder
    assert index.asked == 1


async def test_progress_is_true(bench: Bench, index: PackageIndex) -> None:
    """Bytes count only what has arrived, never fall, and never pass the total."""
    pulling = await half_way(bench, index)
    status = bench.status
    assert status.state == "downloading"
    assert 0 < status.percent <= 50
    index.gate.set()
    await pulling
    counts = [event.current for event in bench.events]
    assert counts == sorted(counts)
    assert {event.total for event in bench.events} == {len(WHEEL)}
    assert counts[-1] == len(WHEEL)
    stages = list(dict.fromkeys(event.stage for event in bench.events))
    assert stages == ["connecting", "downloading", "converting", "ready"]


async def test_two_callers_share_one_download(bench: Bench, index: PackageIndex) -> None:
    """Two callers for one model cause one request for the file, and both get the folder."""
    first = await half_way(bench, index)
    second = asyncio.create_task(bench.downloads.pull(ALIAS))
    index.gate.set()
    assert await first == await second
    assert index.asked == 1


async def test_one_of_two_callers_may_leave(bench: Bench, index: PackageIndex) -> None:
    """A caller who is cancelled does not take the download from the other."""
    first = await half_way(bench, index)
    second = asyncio.create_task(bench.downloads.pull(ALIAS))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    index.gate.set()
    assert is_model_folder(await second)


@pytest.mark.parametrize("how", ["last caller", "cancel", "close"])
async def test_cancelling_leaves_nothing(bench: Bench, index: PackageIndex, how: str) -> None:
    """A download that is cancelled leaves no child, no file and no failure."""
    pulling = await half_way(bench, index)
    if how == "last caller":
        pulling.cancel()
    elif how == "cancel":
        assert await bench.downloads.cancel(ALIAS)
    else:
        await bench.downloads.aclose()
    await asyncio.wait([pulling])
    assert not psutil.Process().children(recursive=True)
    assert bench.left() == []
    assert (bench.status.state, bench.events[-1].stage) == ("absent", "failed")
    if how != "last caller":
        error = pulling.exception()
        assert isinstance(error, DownloadError)
        assert error.code == "request_cancelled"
    assert not await bench.downloads.cancel(ALIAS)


async def refused(bench: Bench, alias: str = ALIAS) -> DownloadError:
    """Pull a model that cannot be had; return the error, whose code is on the wire's list."""
    with pytest.raises(DownloadError) as caught:
        await bench.downloads.pull(alias)
    assert caught.value.code in CODES
    return caught.value


async def test_a_wrong_hash_is_never_ready(bench: Bench) -> None:
    """A file of the right size with a changed byte is refused and nothing of it is kept."""
    bench.offer(replace(package(WHEEL), sha256="0" * 64))
    error = await refused(bench)
    assert error.code == "download_failed"
    assert "do not match the hashes" in error.message.lower().replace("don't", "do not")
    assert (bench.status.state, bench.status.message) == ("failed", error.message)
    assert bench.left() == []


async def test_a_file_that_cannot_be_converted(bench: Bench, index: PackageIndex) -> None:
    """A package whose file is damaged fails with the conversion's reason and leaves nothing."""
    index.wheel = wheel(gguf()[:-1])
    bench.offer(package(index.wheel))
    error = await refused(bench)
    assert (error.code, "cut off" in error.message) == ("internal_error", True)
    assert bench.left() == []


async def test_an_index_that_is_not_there(bench: Bench, index: PackageIndex) -> None:
    """An index without the package fails with the installer's own words."""
    bench.offer(replace(package(WHEEL), requirement="tiny-llama==2.0"))
    error = await refused(bench)
    assert (error.code, "tiny-llama==2.0" in error.message) == ("download_failed", True)


async def test_a_failure_can_be_tried_again(bench: Bench) -> None:
    """After a failure the next pull starts afresh and its success is what is shown."""
    bench.offer(replace(package(WHEEL), sha256="0" * 64))
    await refused(bench)
    bench.offer(package(WHEEL))
    await bench.downloads.pull(ALIAS)
    assert (bench.status.state, bench.status.message) == ("ready", "")


async def test_too_little_space_is_said_before(bench: Bench, index: PackageIndex) -> None:
    """A disk that cannot hold the work is refused with needed and free bytes, before any fetch."""
    bench.offer(package(WHEEL, disk_bytes=10**18))
    error = await refused(bench)
    assert error.code == "disk_full"
    assert "1,000,000,000,000 MB" in error.message
    assert "MB are free" in error.message
    assert index.asked == 0


async def test_a_model_without_a_source(bench: Bench) -> None:
    """A model that nothing here can fetch is refused with what a person can do."""
    error = await refused(bench, "qwen3-vl-4b")
    assert error.code == "download_not_available"
    assert "hf download mlx-community/Qwen3-VL-4B-Instruct-3bit" in error.message
    assert str(bench.downloads.models_dir / "qwen3-vl-4b") in error.message


async def test_an_unknown_model(bench: Bench) -> None:
    """A name that no builtin model has is refused with the names there are."""
    error = await refused(bench, "evil/repo")
    assert (error.code, ALIAS in error.message) == ("model_not_found", True)


async def test_a_python_without_mlx(bench: Bench, tmp_path: Path, index: PackageIndex) -> None:
    """Where MLX is missing nothing is fetched, because nothing could use it."""
    venv.create(tmp_path / "bare", symlinks=True)
    bench.downloads.python = str(tmp_path / "bare" / "bin" / "python")
    error = await refused(bench)
    assert (error.code, "no MLX" in error.message) == ("download_not_available", True)
    assert index.asked == 0


async def test_a_folder_that_is_no_model_is_kept(bench: Bench) -> None:
    """Something else in the model's place is neither overwritten nor deleted."""
    place = bench.downloads.models_dir / ALIAS
    place.mkdir(parents=True)
    (place / "mine").touch()
    assert (await refused(bench)).code == "conflict"
    assert (place / "mine").exists()


async def test_removing_a_model(bench: Bench, index: PackageIndex) -> None:
    """A model is removed as a whole, once, and not while it is being fetched."""
    pulling = await half_way(bench, index)
    with pytest.raises(DownloadError) as caught:
        bench.downloads.remove(ALIAS)
    assert caught.value.code == "conflict"
    index.gate.set()
    await pulling
    assert bench.downloads.remove(ALIAS)
    assert not bench.downloads.remove(ALIAS)
    assert (bench.status.state, bench.left()) == ("absent", [])


async def test_leftovers_of_a_killed_process_go(bench: Bench) -> None:
    """What a killed process left in the staging folder is removed by the next download."""
    left = bench.downloads.models_dir / ".staging" / f"{ALIAS}@gone"
    left.mkdir(parents=True)
    await bench.downloads.pull(ALIAS)
    assert not left.exists()


def test_what_children_inherit() -> None:
    """Children get the installer's configuration, proxies and certificates, no keys of ours."""
    kept = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "PIP_INDEX_URL": "https://mirror",
        "UV_INDEX": "https://mirror",
        "https_proxy": "http://proxy",
        "NO_PROXY": "localhost",
        "SSL_CERT_FILE": "/ca.pem",
    }
    secret = {"OPENAI_API_KEY": "sk", "PIP_TARGET": "/else", "PIP_USER": "1", "PYTHONPATH": "/x"}
    assert child_environment(kept | secret) == kept


def test_packages_belong_to_models() -> None:
    """Every package is of a builtin model that names it as its source, and is pinned by hash."""
    for alias, offered in PACKAGES.items():
        model = find_builtin(alias)
        assert model is not None
        assert "pypi" in model.sources
        assert "==" in offered.requirement
        assert len(bytes.fromhex(offered.sha256)) == 32
