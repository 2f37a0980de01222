"""One router process of the lock `cloud` for a session: the fixture `translating`.

LiteLLM takes seconds to import, and a hundred megabytes: all tests of it share one process. Each
plays the clouds by itself, on the ports that the router's configuration names.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.harness.authority import NO_AUTHORITIES
from tests.harness.real_providers import made
from tests.harness.scripted_upstream import Script, ScriptedUpstream
from tests.harness.served import ANSWERS_AT, ROOT, environment, free_port, program_of

KEY = "sk-CANARY-of-the-configuration"
# What must never be used: keys and addresses are told by the configuration.
STRAY = "sk-STRAY-of-the-environment"
_STOP_S = 30


@dataclass(frozen=True)
class Translating:
    """A router; `claude_port` and `google_port` are where its clouds are expected."""

    port: int
    claude_port: int
    google_port: int
    pid: int
    log_path: Path

    def log(self) -> str:
        """Return what it has written so far."""
        return self.log_path.read_text(encoding="utf-8")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Return a client of it."""
        url = f"http://127.0.0.1:{self.port}"
        async with httpx2.AsyncClient(
            base_url=url, trust_env=False, timeout=100, verify=NO_AUTHORITIES
        ) as client:
            yield client

    def claude(self, script: Script) -> ScriptedUpstream:
        """Return the cloud of Anthropic's dialect, which answers by this script."""
        return ScriptedUpstream(script, port=self.claude_port)

    def google(self, script: Script) -> ScriptedUpstream:
        """Return the cloud of Google's dialect."""
        return ScriptedUpstream(script, port=self.google_port)


async def ask(client: httpx2.AsyncClient, model: str, /, **more: Any) -> httpx2.Response:
    """Ask a model one short thing, unless other fields of the body say another."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
    return await client.post("/v1/chat/completions", json=body)


def _sections(claude_port: int, google_port: int) -> dict[str, Any]:
    claude = {
        "kind": "litellm",
        "litellm_provider": "anthropic",
        "base_url": f"http://127.0.0.1:{claude_port}",
        "locality": "remote",
        "api_key": {"env": "CLAUDE_KEY"},
        "headers": {"X-Team": "blue"},
    }
    google = {
        "kind": "litellm",
        "litellm_provider": "gemini",
        "base_url": f"http://127.0.0.1:{google_port}",
        "api_key": {"env": "CLAUDE_KEY"},
    }
    return {
        "server": {"port": 0},
        "providers": {
            "claude": claude,
            "google": google,
            "keyless": {key: value for key, value in claude.items() if key != "api_key"},
            "hasty": {**claude, "timeouts": {"first_byte_s": 0.3, "idle_s": 0.3}},
            "counted": {**claude, "spend_limit": {"tokens": 1_000_000}},
        },
        "capabilities": {"text": ["claude/claude-large", "google/flash"]},
        "models": {"claude/claude-sonnet-4-5": {}},
        "aliases": {},
        "breaker": {"failures": 10_000},
        "discovery": {"every_s": None},
    }


@pytest.fixture(scope="session")
def translating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Translating]:
    """Run a router by an interpreter that has LiteLLM, and have it imported."""
    interpreter = f"{made('litellm')}/bin/python"
    folder = tmp_path_factory.mktemp("translating")
    claude_port, google_port = free_port(), free_port()
    config = folder / "router.yaml"
    config.write_text(json.dumps(_sections(claude_port, google_port)), encoding="utf-8")
    variables = {
        "CLAUDE_KEY": KEY,
        "ANTHROPIC_API_KEY": STRAY,
        "GEMINI_API_KEY": STRAY,
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
        "GEMINI_API_BASE": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    arguments = ("serve", "--config", str(config), "--data-dir", str(folder / "data"))
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            (*program_of(interpreter), *arguments),
            cwd=ROOT,
            env=environment(folder) | variables | {"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    with process.stdout:
        said = ANSWERS_AT.search(process.stdout.readline().decode())
        assert said is not None, log_path.read_text(encoding="utf-8")
        router = Translating(int(said[1]), claude_port, google_port, process.pid, log_path)
        asyncio.run(_imported(router))
        yield router
        process.terminate()
        assert process.wait(_STOP_S) == 0


async def _imported(router: Translating) -> None:
    """Have LiteLLM imported by a request that it refuses: nobody is asked."""
    async with router.client() as client:
        refused = await ask(client, "claude/claude-large", logit_bias={"1": 1})
        assert refused.status_code == 400, refused.text
