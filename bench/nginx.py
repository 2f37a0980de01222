"""nginx as the benchmark uses it: an upstream that answers at once, and the proxy to compare with.

One process, nothing written, and no connection closed for its age: nginx at its best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.certificate import Certificate

_MAIN = """\
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  # A large body stays in memory, as it does in the router.
  client_max_body_size 64m;
  client_body_buffer_size 64m;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
{servers}}}
"""
_SERVER = """\
  server {{
    listen 127.0.0.1:{port} {tls}backlog=2048;
{keys}    location / {{ {location} }}
  }}
"""
_KEYS = "    ssl_certificate {0};\n    ssl_certificate_key {1};\n"
# It verifies, for the router verifies too.
_VERIFY = (
    "proxy_ssl_verify on; proxy_ssl_trusted_certificate {0}; proxy_ssl_name {1}; "
    "proxy_ssl_server_name on; "
)
_UPSTREAM = """\
  upstream to_{port} {{
    server 127.0.0.1:{port};
    keepalive 1024;
    keepalive_requests 100000000;
  }}
"""
_KEEP_ALIVE = 'proxy_http_version 1.1; proxy_set_header Connection ""; '
# `return` answers before the body came; a proxy behind which the body is dropped reads it whole.
_READ_WHOLE = _KEEP_ALIVE + (
    'proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_method GET; '
)


@dataclass(frozen=True, slots=True)
class Passing:
    """One port of the proxy: where it listens, where it passes requests on to, and how."""

    port: int
    upstream: int
    is_buffered: bool
    tls: Certificate | None = None


def upstream(ports: Mapping[str, int], answer: bytes, tls: Certificate | None) -> str:
    """Return the servers that answer every request alike; over TLS where `tls` is given.

    Of `ports`, `requests` answers at once and `image` when the whole body has come.
    """
    return (
        _server(ports["requests"], _returning(answer), tls)
        + _UPSTREAM.format(port=ports["after_image"])
        + _server(ports["after_image"], _returning(answer), None)
        + _server(
            ports["image"],
            f"{_READ_WHOLE}proxy_pass http://to_{ports['after_image']};",
            tls,
        )
    )


def proxy(passings: Sequence[Passing]) -> str:
    """Return the servers that pass requests on."""
    return "".join(_passing(one) for one in passings)


def command(program: str, folder: Path, servers: str) -> list[str]:
    """Write a configuration into a new folder and return the command line that serves it."""
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(servers=servers), encoding="utf-8")
    return [program, "-e", "stderr", "-p", f"{folder}/", "-c", str(config)]


def _returning(answer: bytes) -> str:
    return f"default_type application/json; return 200 '{answer.decode()}';"


def _passing(one: Passing) -> str:
    scheme, verify = "http", ""
    if one.tls is not None:
        scheme, verify = "https", _VERIFY.format(one.tls.certificate, one.tls.host)
    location = (
        f"{_KEEP_ALIVE}{verify}proxy_buffering {'on' if one.is_buffered else 'off'}; "
        f"proxy_pass {scheme}://to_{one.upstream};"
    )
    return _UPSTREAM.format(port=one.upstream) + _server(one.port, location, None)


def _server(port: int, location: str, tls: Certificate | None) -> str:
    keys = "" if tls is None else _KEYS.format(tls.certificate, tls.key)
    return _SERVER.format(port=port, tls="ssl " if tls else "", keys=keys, location=location)
