"""One of the things that are measured: where its requests go, and the proxy on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.child import Child
from bench.stage import Stage
from bench.upstreams import Upstreams


@dataclass(frozen=True, slots=True)
class Way:
    """A port of this machine, the path of its chat completions, and a model it knows."""

    port: int
    model: str
    path: str = "/v1/chat/completions"

    @property
    def url(self) -> str:
        """The address that requests are posted to."""
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Target:
    """One way to the upstreams, and the proxy on it with what it took to start.

    `ready_s` is the time from exec to its first answer on the proxy's one core, `idle_mb` what was
    resident then.
    """

    name: str
    ways: Mapping[str, Way]
    proxy: Child | None = None
    ready_s: float | None = None
    idle_mb: float | None = None


Start = Callable[[Stage, Upstreams], Target]


def reference_of(name: str) -> str:
    """Return the target that a target's figures are compared with: nginx over the same wire."""
    return "nginx-https" if name.endswith("-https") else "nginx"


def started(
    name: str, child: Child, ways: Mapping[str, Way], path: str, within_s: float = 20.0
) -> Target:
    """Wait until a proxy answers, and return it as a target."""
    ready_s = child.first_answer(path, within_s)
    return Target(name, ways, child, ready_s, child.resident_mb())
