"""The models that are in memory, each with its rows; the MLX thread's own."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from traceback import clear_frames

import mlx.core as mx

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import LoadProgress, Totals
from backends.mlx_backend.images import DEFAULT_LIMITS, ImageLimits
from backends.mlx_backend.models import LoadedModel, give_back_memory
from backends.mlx_backend.passed_tests import PassedTests, describe_test, library_versions
from backends.mlx_backend.rows import ModelRows
from backends.mlx_backend.self_test import try_batching
from backends.wire import LoadPhase

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
# Of the memory that MLX may take: the models' weights, the caches of their rows, and what is kept
# of earlier prompts for each model. The rest is for what a step needs, and for pictures.
_WEIGHTS_SHARE = 0.6
_CACHES_SHARE = 0.25
_PREFIXES_SHARE = 0.05


class LoadedModels:
    """Models by key; `chunk_s` is how long a chunk of a prompt may take.

    `memory_mb` is what all of them may take; None leaves it to the machine. `kv_bits` quantizes
    the caches of their rows. A model whose self-test is among `passed` is not tested again.
    """

    def __init__(
        self,
        *,
        chunk_s: float,
        memory_mb: float | None = None,
        kv_bits: int | None = None,
        image_limits: ImageLimits = DEFAULT_LIMITS,
        passed: PassedTests | None = None,
    ) -> None:
        self._passed = passed or PassedTests(None)
        self._chunk_s = chunk_s
        bound_mb = memory_mb or _machine_mb()
        self.weights_mb = bound_mb * _WEIGHTS_SHARE
        self.caches_mb = bound_mb * _CACHES_SHARE
        self._prefixes_mb = bound_mb * _PREFIXES_SHARE
        self._image_limits = image_limits
        self._kv_bits = kv_bits
        self._models: dict[str, ModelRows] = {}
        # Two, because a large picture takes hundreds of megabytes for a moment.
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="pictures")
        self.totals = Totals()
        # The limit of wired memory before it was raised; None while it is not.
        self._unwired: int | None = None

    def __repr__(self) -> str:
        return f"<LoadedModels {list(self._models.values())}>"

    def __getitem__(self, key: str) -> ModelRows:
        return self._models[key]

    @property
    def memory_mb(self) -> float:
        """What MLX holds, weights and caches together, in MiB."""
        held: int = mx.get_active_memory() + mx.get_cache_memory()
        return held / _MIB

    @property
    def why_serial(self) -> str:
        """Why rows may not share a batch; empty where they may."""
        return next((rows.why_serial for rows in self._models.values() if rows.why_serial), "")

    def of(self, ticket: int) -> ModelRows:
        """Return the model that serves a row; KeyError where none does."""
        for rows in self._models.values():
            if ticket in rows:
                return rows
        raise KeyError(ticket)

    def load(
        self,
        key: str,
        name: str,
        folder: Path,
        size_mb: float,
        progress: LoadProgress = lambda _phase, _done: None,
    ) -> None:
        """Load a model; ChatError that names a bad file, or whatever else loading raises.

        `progress` hears how far it is.
        """
        if size_mb > self.weights_mb:
            raise ChatError(
                "model_load_failed",
                f"{name} cannot be loaded: its weights take {size_mb:,.0f} of"
                f" {self.weights_mb:,.0f} MB that models may take here; choose a smaller one",
                "model",
            )
        try:
            self._models[key] = self._rows(name, folder, progress)
        except BaseException as error:
            # Its frames hold what they have read.
            clear_frames(error.__traceback__)
            give_back_memory()
            raise

    def _rows(self, name: str, folder: Path, progress: LoadProgress) -> ModelRows:
        model = LoadedModel(
            name,
            folder,
            chunk_s=self._chunk_s,
            kv_bits=self._kv_bits,
            prefixes_mb=self._prefixes_mb,
            image_limits=self._image_limits,
            progress=progress,
        )
        why = self._test(model, folder, progress)
        return ModelRows(model, self._decoders, self.totals, why)

    def _test(self, model: LoadedModel, folder: Path, progress: LoadProgress) -> str:
        """Tell why rows of a model may not share a batch; an empty text where they may.

        A model that fails has another try with prompts with pictures read in one step, and keeps to
        that: reading them in parts may be all that is wrong.
        """
        circumstances = f"{mx.default_device()} {mx.device_info()} kv_bits={self._kv_bits}"
        test = describe_test(folder, library_versions(), circumstances)
        if test in self._passed:
            return ""
        why = _try(model, progress)
        if not why:
            self._passed.add(test)
        elif model.sees:
            log.warning("prompts with pictures are read in one step from now on: %s", why)
            model.reads_pictures_whole = True
            why = _try(model, progress)
        return why

    def unload(self, key: str) -> None:
        """Give a model's memory back."""
        self._models.pop(key).close()

    def remove(self, ticket: int) -> None:
        """Forget a row, whichever model it belongs to."""
        for rows in self._models.values():
            rows.remove(ticket)

    def wake(self) -> None:
        """Keep the models' memory from being paged out while they work, where the system can."""
        if self._unwired is None and mx.metal.is_available():
            recommended = mx.device_info()["max_recommended_working_set_size"]
            self._unwired = mx.set_wired_limit(int(recommended))

    def rest(self) -> None:
        """Let the system have the memory of models that nobody asks, until it is needed again."""
        if self._unwired is not None:
            mx.synchronize()
            mx.set_wired_limit(self._unwired)
            self._unwired = None

    def beat(self) -> None:
        """Tell everyone that they are still being served; from another thread while one loads."""
        for rows in list(self._models.values()):
            rows.beat()

    def close(self) -> None:
        """Unload everything."""
        self.rest()
        self._decoders.shutdown(cancel_futures=True)
        for key in list(self._models):
            self.unload(key)


def _try(model: LoadedModel, progress: LoadProgress) -> str:
    progress(LoadPhase.SELF_TEST, 0)
    return try_batching(
        model.open_batch, model.samples(), lambda done: progress(LoadPhase.SELF_TEST, done)
    ).why


def _machine_mb() -> float:
    """How much memory MLX should take here at most: what Metal recommends, else all there is."""
    info = mx.device_info()
    known = (info.get("max_recommended_working_set_size"), info.get("memory_size"))
    size = next((each for each in known if each), None) or _physical_bytes()
    return float(size) / _MIB


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
