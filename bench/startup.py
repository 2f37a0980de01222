"""How soon a fresh router answers, and how much memory it takes before and after its admin API."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.child import Child, FreePorts
from bench.proxies import router_command, router_tree
from bench.upstreams import KINDS


@dataclass(frozen=True, slots=True)
class Startup:
    """One start: seconds from exec to an answer, and resident megabytes (of 1,000,000 bytes).

    The control plane is loaded by the first request to it: `admin_s` is what that one waits.
    """

    first_answer_s: float
    idle_mb: float
    admin_s: float
    with_admin_mb: float


def start_once() -> Startup:
    """Start a router in a folder of its own, unpinned as people start it, ask it, and end it."""
    with tempfile.TemporaryDirectory(prefix="signalbox-bench-") as name:
        folder, ports = Path(name), FreePorts()
        # Nobody is asked for models: the providers need not be there.
        tree = router_tree({kind: ports.take() for kind in KINDS})
        argv = router_command(folder, port := ports.take(), tree)
        with Child("router", argv, port=port, folder=folder, core=None) as router:
            first_answer_s = router.first_answer("/v1/models")
            idle_mb = router.resident_mb()
            ready_s = router.first_answer("/admin/capabilities")
            return Startup(first_answer_s, idle_mb, ready_s - first_answer_s, router.resident_mb())
