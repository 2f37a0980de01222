import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.backends.mlx_backend.child import TOKEN, Child, backend
from tests.harness.authority import NO_AUTHORITIES
from tests.harness.loops import LoopFactory

# Read when MLX is imported: it would spend seconds on compiling kernels in C++.
os.environ["MLX_DISABLE_COMPILE"] = "1"


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Name the loop that the backend runs on: it is not the router's."""
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="package")
def folders(tiny_vision_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return models by name: one that works, its twin, and one broken in each known way."""
    root = tmp_path_factory.mktemp("folders")
    named = {"tiny": tiny_vision_model}

    def copy(name: str) -> Path:
        named[name] = root / name
        return shutil.copytree(tiny_vision_model, named[name])

    def edit(path: Path, **fields: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    copy("twin")
    weights = copy("cut-weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (copy("garbage-weights") / "model.safetensors").write_bytes(b"\xff" * 4000)
    (copy("empty-weights") / "model.safetensors").write_bytes(b"")
    (copy("bad-config") / "config.json").write_text("{not json")
    (copy("bad-tokenizer") / "tokenizer.json").write_bytes(b"\0\0")
    (copy("no-tokenizer") / "tokenizer.json").unlink()
    (copy("no-weights") / "model.safetensors").unlink()
    edit(copy("unknown-type") / "config.json", model_type="nonsense")
    edit(copy("own-code") / "config.json", model_file="evil.py")
    (named["own-code"] / "evil.py").write_text("raise SystemExit('the code ran')")
    text = json.loads((tiny_vision_model / "config.json").read_text())["text_config"]
    edit(copy("wrong-layers") / "config.json", text_config={**text, "num_hidden_layers": 3})
    (copy("bad-template") / "chat_template.jinja").write_text("{{ messages[0].content.x.y }}")
    (copy("refusing") / "chat_template.jinja").write_text("{{ raise_exception('not so') }}")
    template = copy("thinking") / "chat_template.jinja"
    begins = "{%- if enable_thinking -%}{{- '<think>\\n' ~ (mood or '') -}}{%- endif -%}"
    template.write_text(template.read_text() + begins)
    return named


def _arguments(folders: dict[str, Path], root: Path) -> list[str]:
    named = [f"--model-folder={name}={path}" for name, path in folders.items()]
    (root / "hub" / "models--evil--x" / "refs").mkdir(parents=True)
    arguments = ["--models-dir", str(root), "--hf-cache", str(root / "hub")]
    return [*arguments, "--queue", "60", "--prefill-chunk-ms", "5", *named]


@pytest.fixture(scope="package")
def child(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Run a backend with all of them, which tests share: importing MLX takes seconds.

    What is loaded when a test begins, and known of earlier prompts, is left open.
    """
    root = tmp_path_factory.mktemp("backend")
    with backend(*_arguments(folders, root), log=root / "log") as running:
        yield running


@pytest.fixture(scope="module")
def narrow_child(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Child]:
    """Run a backend that serves one row at a time."""
    root = tmp_path_factory.mktemp("narrow")
    with backend(*_arguments(folders, root), "--active", "1", log=root / "log") as running:
        yield running


@asynccontextmanager
async def _client(child: Child) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(
        base_url=child.url,
        headers=headers,
        trust_env=False,
        timeout=60,
        limits=limits,
        verify=NO_AUTHORITIES,
    ) as client:
        yield client
        health = (await client.get("/health")).json()
        assert (health["active"], health["queue"]) == (0, 0)


@pytest.fixture
async def http(child: Child) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client that has the token; afterwards nothing may be left running."""
    async with _client(child) as client:
        yield client


@pytest.fixture
async def narrow(narrow_child: Child) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of the backend that serves one row at a time."""
    async with _client(narrow_child) as client:
        yield client


@pytest.fixture
async def openai(child: Child) -> AsyncIterator[AsyncOpenAI]:
    """Return OpenAI's SDK, which retries nothing here."""
    async with AsyncOpenAI(base_url=f"{child.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client
