"""Real providers for tests: the fixtures `llama_server`, `calling_llama_server` and `ollama`.

Each is one process per session (with several workers, of each) that serves SmolLM2 on loopback,
out of a folder of the session's own. What they need is made by `scripts/real-providers` and kept
outside of the checkout; the test run fails where it could be made and was not.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.harness import llama_server as llama_server_program
from tests.harness.served import free_port

_ROOT = Path(__file__).parents[2]
_MAKING_S = 600
_START_S = 120
_STOP_S = 20
MODEL = "smollm2"
# Small, because a prompt that is cut to it is still read.
OLLAMA_CONTEXT = 128
# ChatML in which calls are as Functionary writes them: SmolLM2's own template leaves tools out, and
# of many other ways to write a call llama.cpp's server lets a model talk on before a required one.
CALLING = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] -%}
<function={{ call.function.name }}>{{ call.function.arguments | tojson }}</function>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True)
class RealProvider:
    """A provider that serves `model`; `url` has no path, `log` is what it has written so far."""

    url: str
    model: str
    pid: int
    log_path: Path

    def log(self) -> str:
        """Return what it has written so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first of these tests the time to make what they need."""
    for item in items:
        if item.get_closest_marker("real_provider"):
            item.add_marker(pytest.mark.timeout(_MAKING_S))


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    """Serve SmolLM2 by llama.cpp's server."""
    with _llama_server(tmp_path_factory.mktemp("llama-server")) as provider:
        yield provider


@pytest.fixture(scope="session")
def calling_llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    """Serve SmolLM2 by llama.cpp's server, with a template by which it calls tools."""
    with _llama_server(tmp_path_factory.mktemp("calling-llama-server"), CALLING) as provider:
        yield provider


@contextmanager
def _llama_server(folder: Path, *template: str) -> Iterator[RealProvider]:
    program, model, port = made("llama-server"), made("smollm2"), free_port()
    python = (sys.executable, "-I", llama_server_program.__file__)
    command = [*python, program, model, str(port), *template]
    with _running(folder, command, port, "/health") as provider:
        yield provider


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProvider]:
    """Serve SmolLM2 by Ollama."""
    program, model = made("ollama"), made("smollm2")
    folder, port = tmp_path_factory.mktemp("ollama"), free_port()
    told = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_CONTEXT_LENGTH": str(OLLAMA_CONTEXT),
        "OLLAMA_NUM_PARALLEL": "1",
    }
    with _running(folder, [program, "serve"], port, "/api/version", **told) as provider:
        # One thread, for the same reason as llama.cpp's server.
        recipe = f"FROM {model}\nPARAMETER num_thread 1\n"
        (folder / "Modelfile").write_text(recipe, encoding="utf-8")
        subprocess.run(
            [program, "create", MODEL, "-f", str(folder / "Modelfile")],
            env=_environment(folder) | told,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_START_S,
        )
        yield provider
    shutil.rmtree(folder / "models")


def made(name: str) -> str:
    """Return where something lies that a provider needs, made now if it has to be.

    Skips the test where this machine cannot have it.
    """
    done = subprocess.run(
        [str(_ROOT / "scripts/real-providers"), name],
        env={**os.environ, "PYTHON": sys.executable},
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    said = done.stdout.strip()
    if done.returncode == 0 and said.startswith(f"{name}!"):
        pytest.skip(said.removeprefix(f"{name}!"))
    if done.returncode or not said.startswith(f"{name}="):
        raise RuntimeError(f"scripts/real-providers {name}: {done.stderr}")
    return said.removeprefix(f"{name}=")


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder)}


@contextmanager
def _running(
    folder: Path, command: list[str], port: int, ready: str, **told: str
) -> Iterator[RealProvider]:
    """Run a provider, from its first answer until it and all that it started are gone."""
    log_path, url = folder / "log", f"http://127.0.0.1:{port}"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder) | told,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    provider = RealProvider(url, MODEL, process.pid, log_path)
    try:
        _await_answer(process, url + ready, provider)
        yield provider
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        # The end of its stdin is what the one waits for, the signal what the other does.
        process.communicate(timeout=_STOP_S)
        left = psutil.wait_procs(family, timeout=_STOP_S)[1]
        assert not left, left


def _await_answer(process: subprocess.Popen[bytes], url: str, provider: RealProvider) -> None:
    """Return when the provider answers; RuntimeError with its log when it does not."""
    until = time.monotonic() + _START_S
    with httpx2.Client(trust_env=False, timeout=5) as client:
        while process.poll() is None and time.monotonic() < until:
            try:
                if client.get(url).status_code == httpx2.codes.OK:
                    return
            except httpx2.HTTPError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not answer: {provider.log()}")
