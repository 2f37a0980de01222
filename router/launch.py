"""How local processes are launched: command lines, environments, and where they find models."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import backends
from backends.catalogue import ModelFolders
from backends.places import hub_caches
from backends.process_manager import ProcessSpec, ProcessTimeouts, RestartPolicy
from router.data_folder import DataFolder
from router.settings import Settings, child_environment
from router.settings.providers import BuiltinProvider
from router.snapshot import Ground


def has_mlx(settings: Settings) -> bool:
    """Tell whether the builtin backend can run: here, or in an interpreter named for it."""
    named = any(
        isinstance(provider, BuiltinProvider) and provider.python is not None
        for provider in settings.providers.values()
    )
    return named or all(importlib.util.find_spec(name) for name in ("mlx", "mlx_vlm"))


def model_folders(
    settings: Settings, environ: Mapping[str, str], folder: DataFolder
) -> ModelFolders:
    """Return where models may lie: the data folder, the configured folders, the hub's cache."""
    return ModelFolders(
        models_dir=folder.models,
        named={
            name.partition("/")[2]: model.path
            for name, model in settings.models.items()
            if model.path is not None
        },
        hf_caches=hub_caches(environ),
    )


def builtin_python(settings: Settings) -> str:
    """Return the interpreter that has MLX: the one named for the builtin backend, else ours."""
    for provider in settings.providers.values():
        if isinstance(provider, BuiltinProvider) and provider.python is not None:
            return str(provider.python)
    return sys.executable


def process_specs(
    ground: Ground, environ: Mapping[str, str], folder: DataFolder, token: str
) -> list[ProcessSpec]:
    """Return the processes that may live here: today the builtin backend."""
    settings, name = ground.settings, ground.builtin
    if name is None:
        return []
    provider = settings.providers[name]
    if not isinstance(provider, BuiltinProvider):
        raise TypeError(name)
    folders = ground.folders
    argv = [builtin_python(settings), "-m", "backends.mlx_backend"]
    argv += ["--port", str(provider.port), "--socket-fd", "{socket_fd}", "--ready-fd", "{ready_fd}"]
    argv += ["--models-dir", str(folders.models_dir)]
    argv += ["--cache-dir", str(folder.cache)]
    argv += [f"--model-folder={model}={path}" for model, path in folders.named.items()]
    argv += [f"--hf-cache={cache}" for cache in folders.hf_caches]
    for field, value in settings.builtin:
        if value is not None:
            argv += [f"--{field.replace('_', '-')}", str(value)]
    argv += ["--queue-s", str(settings.timeouts.queue_s)]
    argv += ["--max-image-mb", str(settings.images.max_mb)]
    argv += ["--max-side-px", str(settings.images.max_side_px)]
    argv += ["--max-megapixels", str(settings.images.max_megapixels)]
    env = child_environment(settings, environ)
    if provider.token == "auto":  # noqa: S105 a mode, not a secret
        env["SIGNALBOX_BACKEND_TOKEN"] = token
    return [
        ProcessSpec(
            name=name,
            argv=tuple(argv),
            env=env,
            # Where the package lies, so that another interpreter finds it too.
            cwd=Path(backends.__file__).parent.parent,
            host="127.0.0.1",
            port=provider.port,
            log_path=folder.logs / f"{name}.log",
            timeouts=ProcessTimeouts(
                start_s=settings.timeouts.start_s,
                drain_s=settings.timeouts.drain_s,
                stop_s=settings.processes.stop_s,
                idle_stop_s=settings.processes.idle_stop_s,
            ),
            restart=RestartPolicy(
                backoff_max_s=settings.processes.backoff_max_s,
                window_s=settings.processes.window_s,
                starts_per_window=settings.processes.starts_per_window,
            ),
        )
    ]
