"""A small real HTTP server that answers what a test scripts, and the command line called on it."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from router.cli.main import main


@dataclass
class Answer:
    """What the server answers to one method and path."""

    body: bytes
    status: int = 200
    kind: str = "application/json"


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeRouter:
    """Scripted answers, last one repeated; and the requests that came."""

    url: str
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def says(self, route: str, content: object, status: int = 200) -> None:
        """Answer a route such as `GET /health` with JSON, after what was said before."""
        self.says_raw(route, json.dumps(content).encode(), status)

    def says_raw(
        self, route: str, body: bytes, status: int = 200, kind: str = "application/json"
    ) -> None:
        """Answer a route with these bytes."""
        self.answers.setdefault(route, []).append(Answer(body, status, kind))

    def take(self, route: str) -> Answer:
        """Return the next answer of a route."""
        script = self.answers.get(route)
        if not script:
            return Answer(b'{"error": {"message": "nothing here", "code": "not_found"}}', 404)
        return script.pop(0) if len(script) > 1 else script[0]


@contextmanager
def fake_router() -> Iterator[FakeRouter]:
    """Serve scripted answers on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            fake.seen.append(
                Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            )
            answer = fake.take(f"{self.command} {self.path}")
            self.send_response(answer.status)
            self.send_header("content-type", answer.kind)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 http.server's names

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake = FakeRouter(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the settings of whoever runs the tests; the command line reads its environment."""
    for name in [name for name in os.environ if name.startswith("SIGNALBOX_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    """Serve as the router that a command talks to."""
    with fake_router() as fake:
        yield fake


@dataclass(frozen=True)
class Ran:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


Signalbox = Callable[..., Ran]


@pytest.fixture
def signalbox(
    router: FakeRouter,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> Signalbox:
    """Call the command line against the scripted router, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SIGNALBOX_CONFIG", "SIGNALBOX_API_KEY", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    # A proxy variable must not reach calls to this machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    def call(*arguments: object, url: str | None = None) -> Ran:
        code = main([*map(str, arguments), "--url", url or router.url])
        told = capsys.readouterr()
        return Ran(code, told.out, told.err)

    return call
