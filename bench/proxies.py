"""The servers of a benchmark: two upstreams, nginx before them, and the router before them."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import exchange
from bench.child import Child, FreePorts
from bench.machine import Placement, Tools

# One process, nothing written, and no connection closed for its age: nginx at its best.
_NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
{servers}}}
"""
_ANSWER = """\
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
"""
_PROXY = """\
  upstream to_{port} {{
    server 127.0.0.1:{upstream};
    keepalive 1024;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://to_{port};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering {buffering};
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One way to an upstream: the ports for requests and for streams, and the proxy between."""

    name: str
    requests_port: int
    streams_port: int
    proxy: Child | None


class Servers:
    """All servers of a run, in one folder; a context manager that ends every one of them."""

    targets: tuple[Target, ...]

    def __init__(self, tools: Tools, placement: Placement, folder: Path, seconds: int) -> None:
        self._tools = tools
        self._placement = placement
        self._folder = folder
        self._stream_s = seconds
        self._ports = FreePorts()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        """Start them all; ServerFailed when one does not answer."""
        with self._running:
            requests, streams = self._upstreams()
            self.targets = (
                Target("direct", requests, streams, None),
                self._nginx_proxy(requests, streams),
                self._router(requests, streams),
            )
            self._running = self._running.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    def _upstreams(self) -> tuple[int, int]:
        """Start what answers requests, and what answers with streams; return their ports."""
        port = self._ports.take()
        servers = _ANSWER.format(port=port, answer=exchange.answer().decode())
        upstream = self._start(
            "upstream", self._nginx("upstream", servers), port, self._placement.load
        )
        upstream.first_answer("/")
        port = self._ports.take()
        paced = [sys.executable, "-m", "bench.paced_server", str(port), str(self._stream_s)]
        streams = self._start("paced_server", paced, port, self._placement.load)
        streams.first_answer("/")
        return upstream.port, streams.port

    def _nginx_proxy(self, requests: int, streams: int) -> Target:
        first, second = self._ports.take(), self._ports.take()
        servers = _PROXY.format(port=first, upstream=requests, buffering="on")
        # Buffering would hold a stream's events back until they fill a page.
        servers += _PROXY.format(port=second, upstream=streams, buffering="off")
        argv = self._nginx("nginx", servers)
        proxy = self._start("nginx", argv, first, self._placement.proxy)
        proxy.first_answer("/")
        return Target("nginx", first, second, proxy)

    def _router(self, requests: int, streams: int) -> Target:
        port = self._ports.take()
        argv = router_command(self._folder, port, requests, streams)
        router = self._start("router", argv, port, self._placement.proxy)
        router.first_answer("/v1/models")
        return Target("router", port, port, router)

    def _nginx(self, name: str, servers: str) -> list[str]:
        prefix = self._folder / name
        prefix.mkdir()
        config = prefix / "nginx.conf"
        config.write_text(_NGINX.format(servers=servers), encoding="utf-8")
        return [self._tools.nginx, "-e", "stderr", "-p", f"{prefix}/", "-c", str(config)]

    def _start(self, name: str, argv: Sequence[str], port: int, core: int | None) -> Child:
        child = Child(name, argv, port=port, folder=self._folder, core=core)
        return self._running.enter_context(child)


def router_command(folder: Path, port: int, requests: int, streams: int) -> list[str]:
    """Return the command line of a router with the shipped defaults and our two upstreams."""
    config = folder / "router.yaml"
    providers = {
        name: {"kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1"}
        for name, upstream in (("requests", requests), ("streams", streams))
    }
    tree = {"providers": providers, "capabilities": {"text": ["requests/m"]}}
    # JSON is YAML. What the file does not name is as shipped.
    config.write_text(json.dumps(tree), encoding="utf-8")
    argv = [sys.executable, "-m", "router.cli.main", "serve", "--config", str(config)]
    return [*argv, "--data-dir", str(folder / "data"), "--port", str(port)]
