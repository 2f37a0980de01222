"""Notices that the configuration file is another, and has it read again.

A look every second at what the file is called and at its time, size and number: editors write a new
file and rename it, so that the path counts and nothing that is held open. A file that is still
being written is left alone until two looks see the same.
"""

import asyncio
import logging
from pathlib import Path

from router.configuration import Configuration
from router.settings import Settings, SettingsError
from router.settings.sources import find_file

log = logging.getLogger(__name__)
# What tells one state of the file from another; None where it is not there.
_Signs = tuple[Path, int, int, int] | None


class FileWatch:
    """Looks every `every_s` seconds at the file of a configuration; `begin` starts that."""

    def __init__(self, configuration: Configuration, every_s: float) -> None:
        self._configuration = configuration
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FileWatch {self._configuration.settings.source} every {self._every_s:g} s>"

    def begin(self) -> None:
        """Look from now on."""
        signs = _signs(self._configuration.settings)
        # Owned here: cancelled and awaited in `aclose`.
        self._task = asyncio.create_task(self._watch(signs))  # noqa: TID251 see above

    def read_again(self) -> None:
        """Read the file at once, changed or not: the keys that it names may be others."""
        self._asked.set()

    async def _watch(self, told: _Signs) -> None:
        """Read the file when two looks see the same, and not what was `told` last."""
        seen = told
        while True:
            asked = await self._pause()
            before, seen = seen, _signs(self._configuration.settings)
            if asked or (seen != told and seen == before):
                told = seen
                await self._reload()

    async def _pause(self) -> bool:
        """Wait for the next look; return whether somebody asked."""
        try:
            async with asyncio.timeout(self._every_s):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _reload(self) -> None:
        try:
            await self._configuration.reload()
        except SettingsError:
            # Told by the configuration; the next change is the next chance.
            return

    async def aclose(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None


def _signs(settings: Settings) -> _Signs:
    origin = settings.origin
    try:
        path = find_file(origin.config, origin.environ)
        status = path.stat()
    except (OSError, SettingsError):
        return None
    return path, status.st_mtime_ns, status.st_size, status.st_ino
