"""Which plane serves which path: the data plane at /v1, the control plane once it is asked for."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from router.body import Buffered
from router.capability_map import CapabilityMap
from router.endpoints import ANTHROPIC_VERSION, ENDPOINTS
from router.errors import Refused, Reply
from router.guard import App
from router.listing import ANTHROPIC, OPENAI, ModelList
from router.proxy import Proxy
from router.request import Message, Receive, Scope, Send, read_body, send_reply

_MODELS = "/v1/models"
_MODEL = "/v1/models/{id}"
_ADMIN = "/admin"
_ADMIN_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_READ = ("GET", "HEAD")
_JSON_HEADERS = ((b"content-type", b"application/json"),)
# What the protocols have and this version does not: it is told apart from a mistyped path.
UNBUILT = frozenset(
    {
        "/metrics",
    }
)


class ControlPlane:
    """The control plane, loaded in a thread when it is first used.

    `load` imports FastAPI, SQLModel and all that stands on them, and returns the application, which
    gets a body whole: at most `size` bytes, held in `buffered`.
    """

    def __init__(self, load: Callable[[], App], size: int, buffered: Buffered) -> None:
        self._load = load
        # Replaced when the configuration changes.
        self.size = size
        self._buffered = buffered
        # None until it is first used.
        self.app: App | None = None
        self._loading = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, after loading where it is the first."""
        with self._buffered.share() as share:
            body = await read_body(receive, self.size, share)
            async with self._loading:
                if self.app is None:
                    self.app = await asyncio.to_thread(self._load)
            await self.app(scope, _Received(body, receive), send)


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


@dataclass(frozen=True, slots=True)
class Door:
    """What answers at one path, and by which methods."""

    methods: tuple[str, ...]
    serve: Callable[[Scope, Receive, Send], Awaitable[None]]


class Planes:
    """The application behind the guard: one look at the path, then one plane.

    `doors` holds the data plane whole, by path; `{id}` stands for the rest of one.
    """

    def __init__(self, proxy: Proxy, capability_map: CapabilityMap, control: App) -> None:
        self._openai, self._anthropic = (
            ModelList(lambda: capability_map.catalog, capability_map.status, shape)
            for shape in (OPENAI, ANTHROPIC)
        )
        self.doors = {
            **{
                path: Door(("POST",), partial(proxy.serve, endpoint))
                for path, endpoint in ENDPOINTS.items()
            },
            _MODELS: Door(_READ, self._models),
            _MODEL: Door(_READ, _page(self._model)),
            "/health": Door(_READ, _page(_ok)),
            "/ready": Door(_READ, _page(_ok)),
        }
        self._control = Door(_ADMIN_METHODS, control)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; raises Refused for a path or a method that is not there."""
        door = self._at(scope["path"])
        # The control plane answers for itself: its own table knows its methods.
        if scope["method"] not in door.methods and door is not self._control:
            raise Refused(
                "method_not_allowed",
                f"{scope['method']} is not possible here; use {' or '.join(door.methods)}.",
                headers=((b"allow", ", ".join(door.methods).encode()),),
            )
        return door.serve(scope, receive, send)

    def methods(self, path: str) -> tuple[str, ...]:
        """Return the methods of a path; Refused `not_found` where nothing is."""
        return self._at(path).methods

    def _at(self, path: str) -> Door:
        door = self.doors.get(path)
        if door is not None:
            return door
        if path == _ADMIN or path.startswith(_ADMIN + "/"):
            return self._control
        if path.startswith(_MODELS + "/"):
            return self.doors[_MODEL]
        raise _nothing_at(path, UNBUILT.union(self.doors))

    def _model(self, scope: Scope) -> Reply:
        return self._list(scope).one(scope["path"].removeprefix(_MODELS + "/"))

    async def _models(self, scope: Scope, _receive: Receive, send: Send) -> None:
        await send_reply(send, await self._list(scope).all())

    def _list(self, scope: Scope) -> ModelList:
        """Return the list in the shape of the protocol that the client speaks."""
        return self._anthropic if ANTHROPIC_VERSION in scope["state"]["headers"] else self._openai


def _page(render: Callable[[Scope], Reply]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return what serves a path that only reads."""

    async def serve(scope: Scope, _receive: Receive, send: Send) -> None:
        await send_reply(send, render(scope))

    return serve


def _ok(_scope: Scope) -> Reply:
    return Reply(200, _JSON_HEADERS, json.dumps({"status": "ok"}).encode())


def _nothing_at(path: str, known: frozenset[str]) -> Refused:
    """Return the refusal of a path, which tells a near miss apart from nonsense."""
    if path in UNBUILT:
        return Refused("not_found", f"{path} is not built yet.")
    nothing = f"There is nothing at {path[:200]}"
    if f"/v1{path}" in known or path.startswith("/models/"):
        return Refused("not_found", f"{nothing}: base_url must end in /v1.")
    if path.removeprefix("/v1") in known:
        return Refused("not_found", f"{nothing}: base_url must end in one /v1.")
    if path.rstrip("/") in known:
        return Refused("not_found", f"{nothing}: take the / off its end.")
    return Refused("not_found", f"{nothing}.")
