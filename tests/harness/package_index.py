"""A package index on a loopback port that can hold a file back half-way."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class PackageIndex:
    """Serves one wheel as pip expects it; `asked` counts how often it was fetched.

    While `gate` is not set, half of the wheel is sent and the other half waits for it.
    """

    def __init__(self, wheel: bytes, name: str = "tiny-llama", version: str = "1.0") -> None:
        self.wheel = wheel
        self._name = name
        self._file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()
        self.half_sent = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple/"

    @contextmanager
    def serving(self) -> Iterator["PackageIndex"]:
        """Serve inside the block; every connection and thread is gone after it."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == f"/simple/{index._name}/":
                    link = f'<a href="/{index._file}">{index._file}</a>'
                    self._send("text/html", link.encode())
                elif self.path == f"/{index._file}":
                    index.asked += 1
                    self._send("application/octet-stream", index.wheel)
                else:
                    self.send_error(404)

            def _send(self, kind: str, content: bytes) -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                half = len(content) // 2
                try:
                    self.wfile.write(content[:half])
                    if content is index.wheel and not index.gate.is_set():
                        index.half_sent.set()
                        index.gate.wait()
                    self.wfile.write(content[half:])
                except ConnectionError:
                    pass  # the client was ended, which is what a test wanted

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
