"""Which plane serves which path: the data plane at /v1, the control plane once it is asked for."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from router.capability_map import CapabilityMap
from router.errors import Refused, Reply
from router.guard import App
from router.listing import list_models, one_model
from router.proxy import Proxy
from router.request import Message, Receive, Scope, Send, read_body, send_reply

_MODELS = "/v1/models"
_JSON_HEADERS = ((b"content-type", b"application/json"),)


class ControlPlane:
    """The control plane, loaded in a thread when it is first used.

    `load` imports FastAPI, SQLModel and all that stands on them, and returns the application, which
    gets a body whole: at most `size` bytes that arrived within `body_s`.
    """

    def __init__(self, load: Callable[[], App], size: int, body_s: float) -> None:
        self._load = load
        self._size = size
        self._body_s = body_s
        self._app: App | None = None
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, after loading where it is the first."""
        whole = _Received(await read_body(receive, self._size, self._body_s), receive)
        async with self._loading:
            if self._app is None:
                self._app = await asyncio.to_thread(self._load)
        await self._app(scope, whole, send)


class _Received:
    """The receiving end of a request whose body was read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class Planes:
    """The application behind the guard: one look at the path, then one plane."""

    def __init__(self, proxy: Proxy, capability_map: CapabilityMap, control: App) -> None:
        self._map = capability_map
        self._control = control
        self._posts: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            "/v1/chat/completions": proxy.chat_completions,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises Refused for a path or a method that is not there."""
        path: str = scope["path"]
        if path in self._posts:
            _allow(scope, "POST")
            await self._posts[path](scope, receive, send)
        elif path == "/admin" or path.startswith("/admin/"):
            await self._control(scope, receive, send)
        else:
            await send_reply(send, self._page(scope, path))

    def _page(self, scope: Scope, path: str) -> Reply:
        """Return the answer of a path that only reads."""
        if path == _MODELS:
            page = list_models(self._map.catalog)
        elif path.startswith(_MODELS + "/"):
            page = one_model(self._map.catalog, path.removeprefix(_MODELS + "/"))
        elif path in {"/health", "/ready"}:
            page = Reply(200, _JSON_HEADERS, json.dumps({"status": "ok"}).encode())
        else:
            raise _nothing_at(path, set(self._posts) | {_MODELS})
        _allow(scope, "GET")
        return page


def _allow(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise Refused(
            "method_not_allowed",
            f"{scope['method']} is not possible here; use {method}.",
            headers=((b"allow", method.encode()),),
        )


def _nothing_at(path: str, known: set[str]) -> Refused:
    if f"/v1{path}" in known:
        return Refused("not_found", f"There is nothing at {path}: base_url must end in /v1.")
    return Refused("not_found", f"There is nothing at {path[:200]}.")
