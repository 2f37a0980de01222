"""Where all servers of a run stand: their folder, their ports, their cores, and their ending."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.child import Child, FreePorts
from bench.machine import Placement, Tools


@dataclass(frozen=True, slots=True)
class Stage:
    """What starting a server needs; it is ended when `running` is left."""

    tools: Tools
    placement: Placement
    folder: Path
    ports: FreePorts
    running: ExitStack

    def start(
        self,
        name: str,
        argv: Sequence[str],
        port: int,
        core: int | None,
        variables: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a server, which need not answer yet when this returns."""
        child = Child(name, argv, port=port, folder=self.folder, core=core, variables=variables)
        return self.running.enter_context(child)
