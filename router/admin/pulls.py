"""Downloads that go on by themselves after the request that began them was answered."""

import asyncio
import logging

from backends.downloads import DownloadError, Downloads
from router.capability_map import CapabilityMap

log = logging.getLogger(__name__)


class Pulls:
    """Owns one task for each download begun through the API; the map hears when a model arrives."""

    def __init__(self, downloads: Downloads, capability_map: CapabilityMap) -> None:
        self._downloads = downloads
        self._map = capability_map
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<Pulls {list(self._tasks)}>"

    def begin(self, model: str) -> None:
        """Begin to fetch a model, unless that goes on already.

        DownloadError for a model that nobody knows or that cannot be fetched.
        """
        self._downloads.check(model)
        if model not in self._tasks:
            # Owned here: taken out when it is done, ended and awaited in `aclose`.
            task = asyncio.create_task(self._pull(model))  # noqa: TID251 see above
            self._tasks[model] = task
            task.add_done_callback(lambda _: self._tasks.pop(model))

    async def _pull(self, model: str) -> None:
        try:
            await self._downloads.pull(model)
        except DownloadError as error:
            # `status` shows it to whoever asks.
            log.warning("%s: %s", model, error.message)
        else:
            await self._map.models_changed()

    async def aclose(self) -> None:
        """End all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
