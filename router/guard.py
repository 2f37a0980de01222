"""The outermost layer: who may knock, at which door, and what they hear when something breaks.

Pure ASGI. It decides by Host, Origin, Sec-Fetch-Site, Content-Type and keys before anything else
looks at a request, gives every answer its id, and turns every error into OpenAI's envelope.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.wire import REQUEST_ID
from router.errors import ClientGone, Refused, SignalboxError, shutting_down
from router.request import Message, Receive, Scope, Send, send_reply

log = logging.getLogger(__name__)
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\\]+)(?::\d{1,5})?")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# Anybody on this machine, or with the network's permission, may ask whether we are alive.
PUBLIC_PATHS = frozenset({"/health", "/ready"})
ADMIN_PREFIXES = ("/admin", "/models", "/metrics")
# Refusals of a body that is still on its way.
_UNREAD = frozenset({"body_too_large", "request_timeout"})
_EVENT_STREAM = (b"content-type", b"text/event-stream")
_PREFLIGHT_HEADERS = "authorization, content-type, x-api-key, x-priority, x-request-id"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may come in: further host names, foreign origins, and keys (never shown)."""

    allowed_hosts: frozenset[str]
    allowed_origins: frozenset[str]
    api_keys: tuple[str, ...]
    admin_key: str | None
    body_bytes: int

    def __repr__(self) -> str:
        return f"<Policy api_keys={len(self.api_keys)} admin_key={self.admin_key is not None}>"


class Guard:
    """Wraps the whole application. While `draining`, it serves nothing but GET /health."""

    def __init__(self, app: App, policy: Policy) -> None:
        self.draining = False
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and answer whatever it raises."""
        if scope["type"] != "http":
            return None
        reply = _Outgoing(send, _request_id(scope))
        scope["state"] = {**scope.get("state", {}), "request_id": reply.request_id}
        try:
            reply.may_read = scope["method"] not in _WITH_BODY
            origin = self._check_source(scope)
            reply.origin = origin
            self._check_draining(scope, reply)
            if origin is not None and scope["method"] == "OPTIONS":
                return await reply.preflight()
            self._check_content(scope)
            scope["state"]["is_admin"] = self._check_keys(scope)
            reply.may_read = True
            await self._app(scope, receive, reply)
        except SignalboxError as error:
            await reply.error(error)
        except asyncio.CancelledError:
            # Nobody but the server cancels a request here, when its grace at the end is over.
            await reply.break_off(shutting_down())
            raise
        except ClientGone:
            log.info("%s %s: the client left", scope["method"], reply.request_id)
        except Exception:
            # The outermost place: whatever was not foreseen is logged whole and told as an id.
            log.exception("%s %s failed", scope["method"], reply.request_id)
            await reply.error(
                SignalboxError(
                    "internal_error",
                    f"The router failed on this request; its log tells why ({reply.request_id}).",
                )
            )

    def _check_draining(self, scope: Scope, reply: "_Outgoing") -> None:
        if self.draining and (scope["path"] != "/health" or scope["method"] != "GET"):
            reply.may_read = False
            raise shutting_down()

    def _check_source(self, scope: Scope) -> str | None:
        """Check Host, Origin and Sec-Fetch-Site; return a foreign origin that is allowed."""
        host = self._checked_host(_all(scope, b"host"))
        origins = _all(scope, b"origin")
        origin = origins[0] if origins else None
        if len(origins) > 1 or (
            origin is not None
            and origin != f"http://{host}"
            and origin not in self._policy.allowed_origins
        ):
            raise Refused(
                "origin_not_allowed",
                "Requests from this web page are not allowed. "
                "Its origin would have to be listed in server.allowed_origins.",
            )
        if origin is None and "cross-site" in _all(scope, b"sec-fetch-site"):
            navigation = scope["method"] == "GET" and "navigate" in _all(scope, b"sec-fetch-mode")
            if not navigation:
                raise Refused("origin_not_allowed", "Requests from other sites are not allowed.")
        return origin if origin != f"http://{host}" else None

    def _checked_host(self, hosts: list[str]) -> str:
        match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if len(hosts) != 1 or not hosts[0]:
            raise Refused("invalid_request", "A request needs exactly one Host header.")
        name = match.group(1) if match else None
        if name not in _LOOPBACK_NAMES and name not in self._policy.allowed_hosts:
            raise Refused(
                "host_not_allowed",
                "This host name is not allowed. Use 127.0.0.1 or localhost, "
                "or list the name in server.allowed_hosts.",
            )
        return hosts[0].lower()

    def _check_content(self, scope: Scope) -> None:
        if scope["method"] not in _WITH_BODY:
            return
        kind = ",".join(_all(scope, b"content-type")).partition(";")[0].strip().lower()
        has_body = _all(scope, b"content-length") not in ([], ["0"]) or _all(
            scope, b"transfer-encoding"
        )
        # A web page may post other types without asking first, so they are refused even when the
        # body turns out to be JSON or empty; a bodiless POST to the control plane names no type.
        if kind != "application/json" and (kind or has_body or scope["path"].startswith("/v1")):
            raise Refused("unsupported_media_type", "Content-Type must be application/json.")
        if "".join(_all(scope, b"content-encoding")) not in {"", "identity"}:
            raise Refused("unsupported_media_type", "Send the body without Content-Encoding.")
        declared = "".join(_all(scope, b"content-length"))
        if declared.isdigit() and int(declared[:20]) > self._policy.body_bytes:
            raise Refused(
                "body_too_large", f"The body is larger than {self._policy.body_bytes} bytes."
            )

    def _check_keys(self, scope: Scope) -> bool:
        """Check the key that this path needs; return whether the caller is an administrator."""
        policy = self._policy
        offered = _credential(scope)
        is_admin = policy.admin_key is not None and _same(offered, policy.admin_key)
        path = scope["path"]
        if is_admin or path in PUBLIC_PATHS:
            return is_admin
        if path.startswith(ADMIN_PREFIXES):
            if policy.admin_key is not None:
                raise Refused("invalid_api_key", "This needs the admin key as a bearer token.")
        elif policy.api_keys and not any(_same(offered, key) for key in policy.api_keys):
            raise Refused("invalid_api_key", "This needs one of the API keys as a bearer token.")
        return False


class _Outgoing:
    """The way back to one client; knows whether the answer has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.origin: str | None = None
        self.may_read = False
        self._headers: list[tuple[bytes, bytes]] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(REQUEST_ID.encode(), self.request_id.encode())]
            if self.origin is not None:
                extra += [
                    (b"access-control-allow-origin", self.origin.encode()),
                    (b"vary", b"Origin"),
                ]
            self._headers = [*message["headers"], *extra]
            message = {**message, "headers": self._headers}
        await self._send(message)

    async def error(self, error: SignalboxError) -> None:
        """Send an error, unless the answer has begun: then all that is left is to break it off."""
        if self._headers is not None:
            return
        # What was not read of the request would be taken for the next one, or come in for ever.
        unread = not self.may_read or error.code in _UNREAD
        await send_reply(self, error.reply(), ((b"connection", b"close"),) if unread else ())

    async def break_off(self, error: SignalboxError) -> None:
        """Tell a client that waits, or reads a stream, why it ends here; wait for nobody."""
        with contextlib.suppress(TimeoutError):
            # What is sent is on its way before the first wait, which is for a client to read.
            async with asyncio.timeout(0):
                if self._headers is None:
                    await self.error(error)
                elif _EVENT_STREAM in self._headers:
                    await self._send({"type": "http.response.body", "body": error.frame()})

    async def preflight(self) -> None:
        """Tell an allowed page what it may send."""
        headers = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", _PREFLIGHT_HEADERS.encode()),
        ]
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})


def _all(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _request_id(scope: Scope) -> str:
    """Return the client's request id where headers and logs can hold it, else a new one."""
    told = _all(scope, REQUEST_ID.encode())
    if len(told) == 1 and _REQUEST_ID.fullmatch(told[0]):
        return told[0]
    return f"req-{secrets.token_hex(12)}"


def _credential(scope: Scope) -> str:
    """Return the key that the caller offers, as a bearer token or as `x-api-key`; "" for none."""
    for value in _all(scope, b"authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    return "".join(_all(scope, b"x-api-key"))


def _same(offered: str, key: str) -> bool:
    return hmac.compare_digest(offered.encode(), key.encode())
