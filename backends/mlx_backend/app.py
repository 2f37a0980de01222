"""The HTTP face of the builtin backend."""

import asyncio
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from backends.catalogue import BUILTIN_MODELS, ModelFolders, find_builtin
from backends.mlx_backend.answers import ChatAnswer
from backends.mlx_backend.conversation import MAX_IMAGE_MB
from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.desk import Desk
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import LoadStatus
from backends.mlx_backend.grammar import check
from backends.mlx_backend.inbox import Deadlines
from backends.mlx_backend.metrics import MEDIA_TYPE, exposition
from backends.mlx_backend.protocol import parse_chat
from backends.wire import PRIORITY, Priority

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send


MAX_BODY_BYTES = 64 * 1024 * 1024
# A body of this size is decoded in a few milliseconds; a larger one leaves the event loop.
_SMALL_BODY_BYTES = 256 * 1024
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_CODE_BY_STATUS = {404: "not_found", 405: "method_not_allowed"}


class Backend:
    """The routes; each looks things up, asks the engine, and answers."""

    def __init__(
        self,
        desk: Desk,
        folders: ModelFolders,
        deadlines: Deadlines,
        delivery: Delivery,
        max_image_mb: float,
    ) -> None:
        self._max_image_mb = max_image_mb
        self._desk = desk
        self._delivery = delivery
        self._folders = folders
        self._deadlines = deadlines

    async def health(self) -> Response:
        """Tell what the engine is doing."""
        now = self._desk.status()
        return JSONResponse(
            {
                "status": "ok",
                "state": now.state,
                "model": now.models[-1] if now.models else None,
                "models": list(now.models),
                "loading": _load_row(now.loading),
                "engine": "serial" if now.why else "batched",
                "why": now.why,
                "queue": sum(now.queued.values()),
                "queued": {each.name.lower(): count for each, count in now.queued.items()},
                "active": now.active,
                "rows": {
                    "prefilling": now.prefilling,
                    "decoding": now.decoding,
                    "paused": now.paused,
                },
                "memory_mb": round(now.memory_mb, 1),
                "loads": now.loads,
                "step_s": round(now.step_s, 3),
                "worst_image_encode_s": round(now.totals.worst_image_s, 3),
            }
        )

    async def metrics(self) -> Response:
        """Tell Prometheus what is counted."""
        return Response(exposition(self._desk.status()), media_type=MEDIA_TYPE)

    async def models(self) -> Response:
        """List the models that lie on this machine."""
        names = [*self._folders.named, *(model.alias for model in BUILTIN_MODELS)]
        found = [name for name in dict.fromkeys(names) if self._folders.find(name) is not None]
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "signalbox"} for name in found
        ]
        return JSONResponse({"object": "list", "data": rows})

    async def unload(self) -> Response:
        """Give the loaded models' memory back; answers when that is done."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        models = self._desk.status().models
        if self._desk.unload(lambda: loop.call_soon_threadsafe(gone.set)):
            await gone.wait()
        return JSONResponse({"unloaded": list(models)})

    async def chat(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        raw = await _read_body(request)
        if len(raw) > _SMALL_BODY_BYTES:
            chat = await asyncio.to_thread(parse_chat, raw, self._max_image_mb)
        else:
            chat = parse_chat(raw, self._max_image_mb)
        folder = self.folder(chat.model)
        if chat.constraint is not None:
            # A schema that a hostile client thought of takes a while.
            await asyncio.to_thread(check, chat.constraint)
        generations = chat.generations(folder, _priority(request), self._deadlines.queue_s)
        return ChatAnswer(self._desk, chat, generations, self._deadlines, self._delivery)

    def folder(self, name: str) -> "Path":
        """Return where a model lies; ChatError that says what to do where it does not."""
        try:
            folder = self._folders.find(name)
        except OSError:
            folder = None  # a name that no file system takes, too long for one
        if folder is not None:
            return folder
        if name in self._folders.named:
            text = f"{name} cannot be loaded: config.json or *.safetensors is missing in its folder"
            raise ChatError("model_load_failed", text, "model")
        known = find_builtin(name)
        if known is not None:
            raise ChatError(
                "model_not_downloaded",
                f"{known.alias} is not on this machine yet; run `signalbox models pull"
                f" {known.alias}` ({known.size_mb} MB)",
                "model",
            )
        text = f"the builtin backend knows no model {name!r}; GET /v1/models lists what it has"
        raise ChatError("model_not_found", text, "model")


def _load_row(load: LoadStatus | None) -> dict[str, Any] | None:
    if load is None:
        return None
    return {
        "model": load.model,
        "phase": load.phase,
        "percent": load.percent,
        "seconds": round(load.seconds, 3),
    }


def _priority(request: Request) -> Priority:
    text = request.query_params.get("priority") or request.headers.get(PRIORITY)
    if text is None:
        return Priority.LOW
    try:
        return Priority.parse(text)
    except ValueError:
        choices = ", ".join(f"{one.value} ({one.name.lower()})" for one in Priority)
        raise ChatError(
            "invalid_priority", f"priority must be one of {choices}", "priority"
        ) from None


async def _read_body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A web page can post anything else to this port without asking first.
        raise ChatError("unsupported_media_type", "send application/json")
    pieces = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise ChatError("body_too_large", f"at most {MAX_BODY_BYTES // 1024**2} MiB a request")
        pieces.append(piece)
    return b"".join(pieces)


class Guard:
    """Outermost layer: who may call at all.

    With a token, whoever has it. Without one this serves loopback only, and refuses what a web
    page could make a browser send there.
    """

    def __init__(self, app: "ASGIApp", token: str | None) -> None:
        self._app = app
        self._token = token.encode() if token else None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the call on, or refuse it."""
        refusal = self._refusal(scope["headers"]) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _error_response(refusal)(scope, receive, send)

    def _refusal(self, headers: Sequence[tuple[bytes, bytes]]) -> ChatError | None:
        if self._token is not None:
            given = [value for name, value in headers if name == b"authorization"]
            expected = b"Bearer " + self._token
            if len(given) == 1 and hmac.compare_digest(given[0], expected):
                return None
            return ChatError("invalid_api_key", "send the backend's token as a bearer token")
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if any(_without_port(host) not in _LOOPBACK_HOSTS for host in hosts):
            return ChatError("host_not_allowed", "this backend serves its own machine only")
        if any(name == b"origin" for name, _ in headers):
            return ChatError("origin_not_allowed", "web pages go through the router")
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _error_response(error: ChatError, extra: dict[str, str] | None = None) -> JSONResponse:
    headers = {**error.headers(), **(extra or {})}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _on_chat_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ChatError):
        raise TypeError from error
    return _error_response(error)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError from error
    code = _CODE_BY_STATUS.get(error.status_code, "invalid_request")
    return _error_response(ChatError(code, str(error.detail)), dict(error.headers or {}))


async def _on_defect(_request: Request, _error: Exception) -> Response:
    # Starlette logs the stack; the client learns none of it.
    return _error_response(ChatError("internal_error", "the backend failed; its log has more"))


def create_app(
    desk: Desk,
    folders: ModelFolders,
    *,
    token: str | None,
    deadlines: Deadlines,
    delivery: Delivery,
    max_image_mb: float = MAX_IMAGE_MB,
) -> "ASGIApp":
    """Build the application; `token` None leaves it open to this machine."""
    backend = Backend(desk, folders, deadlines, delivery, max_image_mb)
    handlers: dict[Any, Any] = {
        ChatError: _on_chat_error,
        HTTPException: _on_http_error,
        Exception: _on_defect,
    }
    app = FastAPI(openapi_url=None, redirect_slashes=False, exception_handlers=handlers)
    app.add_api_route("/health", backend.health, methods=["GET"])
    app.add_api_route("/metrics", backend.metrics, methods=["GET"])
    app.add_api_route("/v1/models", backend.models, methods=["GET"])
    app.add_api_route("/unload", backend.unload, methods=["POST"])
    app.add_api_route("/v1/chat/completions", backend.chat, methods=["POST"])
    return Guard(app, token)
