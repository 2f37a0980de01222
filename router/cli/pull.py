"""Builtin models fetched and deleted without a router: the data folder is ours meanwhile."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from backends.catalogue import BuiltinModel
from backends.downloads import DownloadError, Downloads
from backends.wire import DownloadEvent
from router.cli.call import Call
from router.cli.failure import CommandFailure
from router.data_folder import DataFolder, DataFolderError
from router.launch import model_folders
from router.settings import SettingsError, child_environment, refuse_unbuilt


def pull(call: Call, model: BuiltinModel, progress: Progress) -> dict[str, Any]:
    """Fetch a model where it is missing and return its row; CommandFailure if that fails."""
    bar = progress.add_task(model.alias, total=None)

    def show(event: DownloadEvent) -> None:
        progress.update(
            bar,
            description=f"{model.alias}: {event.stage}",
            completed=event.current,
            total=event.total or None,
        )

    async def fetch(folder: DataFolder) -> Path:
        downloads = _downloads(call, folder, show)
        try:
            return await downloads.pull(model.alias)
        finally:
            await downloads.aclose()

    try:
        with DataFolder(call.settings.data_folder) as folder:
            path = asyncio.run(fetch(folder))
    except DownloadError as error:
        raise CommandFailure(f"{error.message} ({error.code})") from error
    except DataFolderError as error:
        raise CommandFailure(str(error)) from error
    return {"id": model.alias, "repo": model.repo, "state": "ready", "path": str(path)}


def remove(call: Call, model: BuiltinModel) -> bool:
    """Delete a model from the data folder; tell whether it was there."""
    try:
        with DataFolder(call.settings.data_folder) as folder:
            return _downloads(call, folder, lambda _event: None).remove(model.alias)
    except DownloadError as error:
        raise CommandFailure(f"{error.message} ({error.code})") from error
    except DataFolderError as error:
        raise CommandFailure(str(error)) from error


def _downloads(call: Call, folder: DataFolder, emit: Callable[[DownloadEvent], None]) -> Downloads:
    # A restriction on downloads that cannot be kept stops them here as it stops `serve`.
    if refusals := refuse_unbuilt(call.settings):
        raise SettingsError(refusals)
    return Downloads(
        folder.models,
        emit=emit,
        environment=child_environment(call.settings, call.environ),
        folders=model_folders(call.settings, call.environ, folder),
    )
