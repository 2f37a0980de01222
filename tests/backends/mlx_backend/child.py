"""The builtin backend as its parent starts it: inherited socket, token, readiness pipe."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "a-token-of-this-launch"
COMMAND = ("-m", "backends.mlx_backend")
START_S = 60
STOP_S = 10


class Child:
    """A running backend; `lines` is what it told its parent until it was ready."""

    def __init__(
        self,
        *arguments: str,
        log: Path,
        token: str | None = TOKEN,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        reading, writing = os.pipe()
        self.port: int = listening.getsockname()[1]
        self.log = log
        variables = {**os.environ, "MLX_DISABLE_COMPILE": "1", **(environment or {})}
        variables.pop("SIGNALBOX_BACKEND_TOKEN", None)
        if token is not None:
            variables["SIGNALBOX_BACKEND_TOKEN"] = token
        descriptors = ["--socket-fd", str(listening.fileno()), "--ready-fd", str(writing)]
        with listening, log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command, *descriptors, *arguments],
                pass_fds=(listening.fileno(), writing),
                env=variables,
                stdout=out,
                stderr=out,
            )
        os.close(writing)
        self._pipe = os.fdopen(reading, encoding="utf-8")
        self.lines: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> dict[str, Any]:
        """Wait until it is ready or has failed; returns the line that says so."""
        for line in self._pipe:
            self.lines.append(json.loads(line))
            if self.lines[-1].keys() & {"ready", "failed"}:
                return self.lines[-1]
        raise AssertionError(f"it ended without a word: {self.log.read_text()[-2000:]}")

    def terminate(self) -> int:
        """Ask it to stop; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._pipe.close()


@contextmanager
def backend(
    *arguments: str,
    log: Path,
    token: str | None = TOKEN,
    environment: dict[str, str] | None = None,
    command: tuple[str, ...] = COMMAND,
) -> Iterator[Child]:
    """Run a backend until the block ends, which must end it cleanly."""
    child = Child(*arguments, log=log, token=token, environment=environment, command=command)
    try:
        assert child.wait_ready() == {"ready": True}, log.read_text()
        yield child
        assert child.terminate() == 0, log.read_text()
    finally:
        child.close()
