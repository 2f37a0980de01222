"""What stands behind every proxy: nginx for whole answers, our own server for paced streams."""

import sys
from dataclasses import dataclass
from typing import Final

from bench import exchange, nginx
from bench.certificate import Certificate, make_certificate
from bench.machine import MissingTool
from bench.stage import Stage

# The scenarios that need an upstream; to each of them belongs a port.
KINDS: Final = ("requests", "streams", "image")


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The ports of all upstreams by kind; those over TLS where a certificate could be made."""

    plain: dict[str, int]
    tls: dict[str, int]
    certificate: Certificate | None
    no_tls_because: str = ""

    def base_url(self, kind: str) -> str:
        """Return where a client over plain HTTP finds the API."""
        return f"http://127.0.0.1:{self.plain[kind]}/v1"


def start_upstreams(stage: Stage, seconds: float) -> Upstreams:
    """Start them on the load's core, streams of so many seconds; ServerFailed when one fails."""
    tls: dict[str, int] = {}
    certificate, because = None, ""
    plain = _ports(stage)
    try:
        certificate = make_certificate(stage.folder)
        tls = _ports(stage)
    except MissingTool as missing:
        because = str(missing)
    _start_nginx(stage, plain, tls, certificate)
    _start_streams(stage, seconds, plain["streams"], tls.get("streams"), certificate)
    return Upstreams(plain, tls, certificate, because)


def _ports(stage: Stage) -> dict[str, int]:
    return {kind: stage.ports.take() for kind in (*KINDS, "after_image")}


def _start_nginx(
    stage: Stage, plain: dict[str, int], tls: dict[str, int], certificate: Certificate | None
) -> None:
    servers = nginx.upstream(plain, exchange.answer(), None)
    if certificate is not None:
        servers += nginx.upstream(tls, exchange.answer(), certificate)
    argv = nginx.command(stage.tools.nginx, stage.folder / "upstream", servers)
    child = stage.start("upstream", argv, plain["requests"], stage.placement.load)
    child.first_answer("/")


def _start_streams(
    stage: Stage, seconds: float, port: int, tls_port: int | None, tls: Certificate | None
) -> None:
    argv = [sys.executable, "-m", "bench.paced_server", str(seconds), str(port)]
    if tls is not None and tls_port is not None:
        argv += [str(tls_port), str(tls.certificate), str(tls.key)]
    child = stage.start("paced_server", argv, port, stage.placement.load)
    child.first_answer("/")
