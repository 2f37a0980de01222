"""All servers of a run: the upstreams, and every target that can be had on this machine."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.child import FreePorts, ServerFailed
from bench.machine import MissingTool, Placement, Tools
from bench.peers import PEERS
from bench.proxies import OWN
from bench.stage import Stage
from bench.target import Target
from bench.upstreams import Upstreams, start_upstreams

NAMES: Final = (*OWN, *PEERS)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a target could not do, and why; it is left out of that scenario from then on."""

    target: str
    scenario: str
    reason: str


class Servers:
    """All servers of a run, in one folder; a context manager that ends every one of them.

    A wanted target that cannot be had is no error here: `absent` says what is missing on this
    machine, `failures` what is there and did not start.
    """

    targets: list[Target]

    def __init__(
        self,
        tools: Tools,
        placement: Placement,
        folder: Path,
        *,
        stream_s: float,
        wanted: Sequence[str] = NAMES,
    ) -> None:
        self.targets = []
        self.absent: dict[str, str] = {}
        self.failures: list[Failure] = []
        self._stream_s = stream_s
        self._wanted = wanted
        self._running = ExitStack()
        self._stage = Stage(tools, placement, folder, FreePorts(), self._running)

    def __enter__(self) -> Self:
        """Start them; ServerFailed when an upstream does not answer."""
        with self._running:
            upstreams = start_upstreams(self._stage, self._stream_s)
            for name in NAMES:
                if name in self._wanted:
                    self._add(name, upstreams)
            self._kept = self._running.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kept.close()

    def _add(self, name: str, upstreams: Upstreams) -> None:
        start = OWN.get(name) or PEERS[name]
        # A target that does not come up is ended at once: it would only disturb the others.
        with ExitStack() as running:
            try:
                target = start(replace(self._stage, running=running), upstreams)
            except MissingTool as missing:
                self.absent[name] = str(missing)
            except ServerFailed as failed:
                self.failures.append(Failure(name, "start", str(failed)))
            else:
                self.targets.append(target)
                self._running.push(running.pop_all())
