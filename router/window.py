"""How much of a prompt an Ollama reads: the windows of the models that it has loaded.

It answers a longer prompt too, without its beginning, and does not say so. `/api/ps` tells the
window that a model really runs with, whatever it was made for and whatever a request asks for.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from router.catalog import Provider
from router.errors import RouteFailed
from router.metadata import ollama_running
from router.question import answered, question
from router.upstream import Upstream

log = logging.getLogger(__name__)
_REMEMBERED_S = 60.0
# Behind it an answer waits; who does not tell in time is left in peace for a while.
_WITHIN_S = 2.0
_SILENT_S = 10.0
_MAX_BYTES = 1_000_000
_OK = 200


class Windows:
    """The windows of one Ollama's models; one request at a time asks. `clock` tells seconds."""

    def __init__(
        self,
        provider: Provider,
        upstream: Upstream,
        *,
        clock: Callable[[], float] = time.monotonic,
        within_s: float = _WITHIN_S,
    ) -> None:
        self._question = question(provider, f"{provider.base_url.removesuffix('/v1')}/api/ps")
        self._name = provider.name
        self._upstream = upstream
        self._clock = clock
        self._within_s = within_s
        self._asking = asyncio.Lock()
        self._told: Mapping[str, int] = {}
        self._asked_at = float("-inf")
        self._is_silent = False

    def __repr__(self) -> str:
        return f"<Windows of {self._name} {dict(self._told)}>"

    def known(self, model: str) -> int | None:
        """Return the window of a model in tokens, as it was told in the last minute, or None."""
        is_fresh = self._clock() - self._asked_at < _REMEMBERED_S
        return self._told.get(model) if is_fresh else None

    async def of(self, model: str, size: float) -> int | None:
        """Return the window of a model for a prompt of `size` bytes; None where it is not told.

        A prompt that may be larger is not judged by what was remembered: whoever has just made the
        window larger would be told that it is small.
        """
        since = self._clock()
        if not self._is_settled(model, size, since):
            async with self._asking:
                # Who was asked meanwhile has answered this one too.
                if not self._is_settled(model, size, since):
                    await self._ask()
        return self.known(model)

    def _is_settled(self, model: str, size: float, since: float) -> bool:
        if self._asked_at >= since:
            return True
        if self._is_silent:
            return since - self._asked_at < _SILENT_S
        known = self.known(model)
        # A token has a byte at least.
        return known is not None and size <= known

    async def _ask(self) -> None:
        began = self._clock()
        told: Mapping[str, int] = {}
        is_silent = True
        try:
            told, is_silent = ollama_running(await self._fetched()), False
        except TimeoutError:
            log.info("%s did not tell its windows within %g s", self._name, self._within_s)
        except (RouteFailed, ValueError) as error:
            log.info("%s did not tell its windows: %s", self._name, error)
        self._asked_at, self._told, self._is_silent = began, told, is_silent

    async def _fetched(self) -> bytes:
        status, body = await answered(self._upstream, self._question, self._within_s, _MAX_BYTES)
        if status != _OK:
            raise ValueError(f"status {status}")
        return body
