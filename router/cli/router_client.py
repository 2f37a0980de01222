"""The running router, seen from the command line."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx2

from router.cli.failure import CommandFailure, NotRunning, UsageFailure
from router.errors import StreamFailed
from router.sse import DONE, EventSplitter, payload_of

_CONNECT_S = 3
# The router keeps its own deadlines; this one is for something that only looks like a router.
_ANSWER_S = 60


class RouterClient:
    """Calls the router's API; a context manager. Every failure is a CommandFailure."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url = url
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise UsageFailure("the API key has characters in it that no key can have")
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        # A proxy variable must not catch calls to this machine.
        with self._named_faults():
            self._http = httpx2.Client(
                base_url=url,
                headers=headers,
                timeout=httpx2.Timeout(_ANSWER_S, connect=_CONNECT_S),
                trust_env=False,
            )

    def __repr__(self) -> str:
        return f"<RouterClient {self._url}>"

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close its connections."""
        self._http.close()

    def is_running(self) -> bool:
        """Tell whether a router answers."""
        try:
            self.get("/health")
        except NotRunning:
            return False
        return True

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON of a page."""
        return self.call("GET", path)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        patient: bool = False,
    ) -> dict[str, Any]:
        """Call the router and return its JSON; `patient` waits for as long as the router does."""
        wait_s = None if patient else _ANSWER_S
        with self._named_faults():
            answer = self._http.request(
                method,
                path,
                json=body,
                headers=headers,
                timeout=httpx2.Timeout(wait_s, connect=_CONNECT_S),
            )
        return self._checked(answer)

    @contextmanager
    def stream(self, path: str, body: object, headers: dict[str, str]) -> Iterator[Iterator[Any]]:
        """Post a request and yield the data of its answer's events, decoded, up to `[DONE]`.

        Raises CommandFailure when the request is refused, and later when the stream fails.
        """
        timeout = httpx2.Timeout(None, connect=_CONNECT_S)
        with (
            self._named_faults(),
            self._http.stream("POST", path, json=body, headers=headers, timeout=timeout) as answer,
        ):
            if answer.is_error:
                answer.read()
                self._checked(answer)
            yield self._events(answer)

    def _events(self, answer: httpx2.Response) -> Iterator[Any]:
        splitter = EventSplitter()
        for piece in answer.iter_raw():
            for event in self._whole_events(splitter, piece):
                if event == DONE:
                    return
                content = _decoded(event)
                if isinstance(content, dict) and content.get("error"):
                    raise CommandFailure(_text_of(content, "the answer failed"))
                yield content
        raise CommandFailure("The answer ended early: the connection was closed.")

    @staticmethod
    def _whole_events(splitter: EventSplitter, piece: bytes) -> Iterator[bytes]:
        try:
            events = splitter.feed(piece)
        except StreamFailed as error:
            raise CommandFailure(str(error)) from error
        payloads = map(payload_of, events)
        return (payload for payload in payloads if payload is not None)

    @contextmanager
    def _named_faults(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NotRunning(self._url) from error
        except httpx2.TimeoutException as error:
            raise CommandFailure(f"{self._url} did not answer in time.") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise CommandFailure(f"{self._url} is not an address: {error}") from error
        except httpx2.TransportError as error:
            raise CommandFailure(f"{self._url} closed the connection: {error}") from error

    def _checked(self, answer: httpx2.Response) -> dict[str, Any]:
        content = _decoded(answer.content)
        if answer.is_error and isinstance(content, dict) and "error" in content:
            raise CommandFailure(_text_of(content, f"{self._url} answered {answer.status_code}"))
        if answer.is_error or not isinstance(content, dict):
            raise CommandFailure(f"What answers at {self._url} is not Signalbox.")
        return content


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _text_of(content: Any, fallback: str) -> str:
    """Return an error's message with its code, by which scripts and guides know it."""
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict) or "message" not in error:
        return fallback
    code = error.get("code")
    return f"{error['message']} ({code})" if code else str(error["message"])
