"""The machine that is measured: its cores, its tools, and where each process runs."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

_UNKNOWN = "unknown version"
_INSTALL = {
    "Linux": "apt-get install nginx-light wrk (or your distribution's own)",
    "Darwin": "brew install nginx wrk",
}
# Debian keeps nginx where only root's PATH looks.
_SYSTEM_PROGRAMS = (os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")


class MissingTool(Exception):
    """A program that the benchmark needs is not installed; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs that we measure with, as paths."""

    nginx: str
    wrk: str


def find_tools() -> Tools:
    """Return where nginx and wrk are; MissingTool when one of them is not installed."""
    where = os.pathsep.join(_SYSTEM_PROGRAMS)
    found = {name: shutil.which(name, path=where) for name in ("nginx", "wrk")}
    nginx, wrk = found["nginx"], found["wrk"]
    if nginx is None or wrk is None:
        missing = " and ".join(name for name, path in found.items() if path is None)
        how = _INSTALL.get(platform.system(), "install nginx and wrk")
        raise MissingTool(f"{missing} not found; install with: {how}")
    return Tools(nginx, wrk)


@dataclass(frozen=True, slots=True)
class Placement:
    """The core of the proxy that is measured and the core of all else; None: wherever it likes."""

    proxy: int | None
    load: int | None

    @property
    def text(self) -> str:
        """What the report says of it."""
        if self.proxy is None:
            return "no affinity here: the system places the processes, so expect more noise"
        return f"proxy on core {self.proxy}; load and upstream on core {self.load}"


def choose_placement() -> Placement:
    """Return two cores that we may use, or no placement where that cannot be had."""
    if not hasattr(os, "sched_setaffinity"):
        return Placement(None, None)
    cores = sorted(os.sched_getaffinity(0))
    # The first core tends to serve the machine's interrupts: that is the load's side.
    return Placement(cores[-1], cores[0]) if len(cores) > 1 else Placement(None, None)


@contextmanager
def running_on(core: int | None) -> Iterator[None]:
    """Run on one core until this is left; a process started inside inherits the core for good."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine_facts(tools: Tools, placement: Placement) -> dict[str, str]:
    """Return what a reader must know to compare these figures with others."""
    return {
        **computer_facts(),
        "placement": placement.text,
        "packages": package_versions("uvicorn", "uvloop", "httptools", "aiohttp"),
        "nginx": _first_match(r"nginx/(\S+)", tools.nginx, "-v"),
        "wrk": _first_match(r"wrk (?:\S+/)?(\S+)", tools.wrk, "-v"),
        "load before": load_before(),
    }


def computer_facts() -> dict[str, str]:
    """Return which checkout ran on which computer."""
    memory_gib = psutil.virtual_memory().total / (1 << 30)
    return {
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores "
        f"({_processor()}), {memory_gib:.0f} GiB",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def package_versions(*names: str) -> str:
    """Return the versions of installed packages."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def load_before() -> str:
    """Return the load averages: whatever else runs here takes its share of the cores."""
    return ", ".join(f"{load:.2f}" for load in psutil.getloadavg())


def _commit() -> str:
    """Return the checkout's commit, and whether its files differ from it."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        commit = _first_match(r"(\w+)", *git, "rev-parse", "--short", "HEAD")
        changed = _first_match(r"(\S)", *git, "status", "--porcelain", "--", "..")
    except OSError:
        return "unknown: git is not installed"
    return commit if changed == _UNKNOWN else f"{commit} and changes"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 a device, not a path
            found = re.search(r"^model name\s*:\s*(.+)$", info.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or "unnamed processor"


def _first_match(pattern: str, *command: str) -> str:
    said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    found = re.search(pattern, said.stdout + said.stderr)
    return found[1] if found else _UNKNOWN
