"""Other gateways that carry the OpenAI dialect, measured where `scripts/bench-peers` put them.

Each of them runs on the router's core, with one worker, without a log of requests or a database.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.machine import MissingTool
from bench.stage import Stage
from bench.target import Start, Target, Way, started
from bench.upstreams import KINDS, Upstreams
from router.litellm_package import STOLE_KEYS

_GET: Final = "not installed; get it with: make bench-peers"
# llama-swap's own default, ten requests at once a model, would refuse most of what is sent.
_CONCURRENCY: Final = 4096
_LITELLM_START_S: Final = 120.0


def tools_folder() -> Path:
    """Return where `scripts/bench-peers` keeps what it installs, outside of the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "signalbox-bench"


def peer_versions() -> dict[str, str]:
    """Return the version of each peer that is installed."""
    found = {name: _package_version(name) for name in ("tensorzero", "litellm")}
    if _llama_swap().exists():
        # Built from a module it does not know its version; who built it wrote it down.
        told = _llama_swap().with_name("version")
        found["llama-swap"] = told.read_text("utf-8").strip() if told.exists() else "of unknown age"
    return {name: version for name, version in found.items() if version}


def _package_version(name: str) -> str | None:
    """Return a package's version in its own environment, without running any of its code."""
    folders = tools_folder() / name / "lib"
    for info in folders.glob(f"python*/site-packages/{name}-*.dist-info"):
        return info.name.removeprefix(f"{name}-").removesuffix(".dist-info")
    return None


def _start_tensorzero(stage: Stage, upstreams: Upstreams) -> Target:
    if _package_version("tensorzero") is None:
        raise MissingTool(_GET)
    lines = ["[gateway]", "disable_pseudonymous_usage_analytics = true"]
    lines += ["observability.enabled = false", "[object_storage]", 'type = "disabled"']
    for kind in KINDS:
        lines += [f"[models.{kind}]", 'routing = ["upstream"]']
        lines += [f"[models.{kind}.providers.upstream]", 'type = "openai"', 'model_name = "m"']
        lines += [f'api_base = "{upstreams.base_url(kind)}/"', 'api_key_location = "none"']
    config, told = stage.folder / "tensorzero.toml", stage.folder / "tensorzero.port"
    config.write_text("\n".join(lines), encoding="utf-8")
    python = tools_folder() / "tensorzero" / "bin" / "python"
    argv = [str(python), "-m", "bench.tensorzero_gateway", str(config), str(told)]
    one_thread = {"TOKIO_WORKER_THREADS": "1"}
    child = stage.start("tensorzero", argv, 0, stage.placement.proxy, one_thread)
    # It answers no GET at all; it listens when it tells its port.
    ready_s = child.port_told_in(told)
    path = "/openai/v1/chat/completions"
    ways = {kind: Way(child.port, f"tensorzero::model_name::{kind}", path) for kind in KINDS}
    return Target("tensorzero", ways, child, ready_s, child.resident_mb())


def _start_litellm(stage: Stage, upstreams: Upstreams) -> Target:
    version = _package_version("litellm")
    if version is None:
        raise MissingTool(_GET)
    if version in STOLE_KEYS:
        raise MissingTool(f"{version} is a version that stole credentials: remove it")
    models = [
        {"model_name": kind, "litellm_params": _litellm_model(upstreams.base_url(kind))}
        for kind in KINDS
    ]
    tree = {
        "model_list": models,
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        # It would authenticate every request otherwise, which the router here does not either.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    program = tools_folder() / "litellm" / "bin" / "litellm"
    argv = [str(program), "--config", str(_written(stage, "litellm", tree)), "--telemetry", "False"]
    argv += ["--host", "127.0.0.1", "--port", str(port := stage.ports.take()), "--num_workers", "1"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    child = stage.start("litellm", argv, port, stage.placement.proxy, quiet)
    return started("litellm", child, _ways(port), "/health/liveliness", _LITELLM_START_S)


def _litellm_model(base_url: str) -> dict[str, str]:
    return {"model": "openai/m", "api_base": base_url, "api_key": "none"}


def _start_llama_swap(stage: Stage, upstreams: Upstreams) -> Target:
    program = _llama_swap()
    if not program.exists():
        raise MissingTool(_GET)
    # It starts the servers of its models itself; ours are there, so what it starts does nothing.
    nothing = f"{sys.executable} -c 'import signal; signal.pause()'"
    models = {
        kind: {
            "cmd": nothing,
            "proxy": upstreams.base_url(kind).removesuffix("/v1"),
            "checkEndpoint": "none",
            "useModelName": "m",
            "concurrencyLimit": _CONCURRENCY,
        }
        for kind in KINDS
    }
    group = {"swap": False, "exclusive": False, "members": list(KINDS)}
    tree = {"logLevel": "error", "models": models, "groups": {"all": group}}
    port = stage.ports.take()
    argv = [str(program), "-config", str(_written(stage, "llama-swap", tree))]
    argv += ["-listen", f"127.0.0.1:{port}"]
    child = stage.start("llama-swap", argv, port, stage.placement.proxy, {"GOMAXPROCS": "1"})
    return started("llama-swap", child, _ways(port), "/v1/models")


def _llama_swap() -> Path:
    return tools_folder() / "llama-swap" / "llama-swap"


def _ways(port: int) -> Mapping[str, Way]:
    return {kind: Way(port, kind) for kind in KINDS}


def _written(stage: Stage, name: str, tree: Mapping[str, object]) -> Path:
    config = stage.folder / f"{name}.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(tree), encoding="utf-8")
    return config


PEERS: Final[Mapping[str, Start]] = {
    "llama-swap": _start_llama_swap,
    "tensorzero": _start_tensorzero,
    "litellm": _start_litellm,
}
