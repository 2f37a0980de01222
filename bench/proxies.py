"""The project's own targets: no proxy, nginx, an empty server, and the router over its clients."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench import nginx
from bench.machine import MissingTool
from bench.stage import Stage
from bench.target import Start, Target, Way, started
from bench.upstreams import KINDS, Upstreams


def router_command(folder: Path, port: int, tree: Mapping[str, object]) -> list[str]:
    """Return the command line of a router with the shipped defaults but for what `tree` says."""
    config = folder / f"router-{port}.yaml"
    # JSON is YAML. What the file does not name is as shipped.
    config.write_text(json.dumps(tree), encoding="utf-8")
    argv = [sys.executable, "-m", "router.cli.main", "serve", "--config", str(config)]
    return [*argv, "--data-dir", str(folder / f"data-{port}"), "--port", str(port)]


def router_tree(ports: Mapping[str, int], ca_file: Path | None = None) -> dict[str, object]:
    """Return a configuration with a provider for each kind of upstream, over TLS with `ca_file`."""
    trust = {} if ca_file is None else {"ca_file": str(ca_file)}
    scheme = "http" if ca_file is None else "https"
    providers = {
        kind: {"kind": "openai", "base_url": f"{scheme}://127.0.0.1:{ports[kind]}/v1", **trust}
        for kind in KINDS
    }
    capabilities = {"text": ["requests/m"], "vision": ["image/m"]}
    return {"providers": providers, "capabilities": capabilities}


def _direct(_stage: Stage, upstreams: Upstreams) -> Target:
    return Target("direct", {kind: Way(upstreams.plain[kind], "m") for kind in KINDS})


def _nginx(stage: Stage, upstreams: Upstreams) -> Target:
    return _nginx_proxy("nginx", stage, upstreams.plain, upstreams)


def _nginx_https(stage: Stage, upstreams: Upstreams) -> Target:
    return _nginx_proxy("nginx-https", stage, _tls_ports(upstreams), upstreams)


def _nginx_proxy(
    name: str, stage: Stage, behind: Mapping[str, int], upstreams: Upstreams
) -> Target:
    tls = upstreams.certificate if behind is upstreams.tls else None
    ports = {kind: stage.ports.take() for kind in KINDS}
    # Buffering would hold a stream's events back until they fill a page.
    servers = nginx.proxy(
        [nginx.Passing(ports[kind], behind[kind], kind != "streams", tls) for kind in KINDS]
    )
    argv = nginx.command(stage.tools.nginx, stage.folder / name, servers)
    child = stage.start(name, argv, ports["requests"], stage.placement.proxy)
    ways = {kind: Way(port, "m") for kind, port in ports.items()}
    return started(name, child, ways, "/")


def _router(stage: Stage, upstreams: Upstreams) -> Target:
    return _any_router("router", stage, router_tree(upstreams.plain))


def _router_https(stage: Stage, upstreams: Upstreams) -> Target:
    ports = _tls_ports(upstreams)
    trusted = None if upstreams.certificate is None else upstreams.certificate.certificate
    return _any_router("router-https", stage, router_tree(ports, trusted))


def _any_router(name: str, stage: Stage, tree: Mapping[str, object]) -> Target:
    port = stage.ports.take()
    argv = router_command(stage.folder, port, tree)
    child = stage.start(name, argv, port, stage.placement.proxy)
    # By their needs: such requests are classified and resolved in full.
    ways = {"requests": Way(port, "auto"), "image": Way(port, "auto")}
    # Straight to the provider that answers with streams.
    ways["streams"] = Way(port, "streams/m")
    return started(name, child, ways, "/v1/models")


def _tls_ports(upstreams: Upstreams) -> Mapping[str, int]:
    if upstreams.certificate is None:
        raise MissingTool(upstreams.no_tls_because)
    return upstreams.tls


def _uvicorn(stage: Stage, _upstreams: Upstreams) -> Target:
    port = stage.ports.take()
    argv = [sys.executable, "-m", "uvicorn", "bench.empty_app:app", "--port", str(port)]
    argv += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    argv += ["--no-access-log", "--log-level", "warning"]
    child = stage.start("uvicorn", argv, port, stage.placement.proxy)
    # It has no upstream: only what is asked and answered whole can be compared.
    return started("uvicorn", child, {"requests": Way(port, "m")}, "/")


# Without one of these a run has not measured what it is for.
OWN: Final[Mapping[str, Start]] = {
    "direct": _direct,
    "nginx": _nginx,
    "uvicorn": _uvicorn,
    "router": _router,
    "nginx-https": _nginx_https,
    "router-https": _router_https,
}
