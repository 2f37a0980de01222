"""The outermost layer: who may knock, at which door, and what they hear when something breaks.

Pure ASGI. It decides by Host, Origin, Sec-Fetch-Site, Content-Type and keys before anything else
looks at a request, gives every answer its id, and turns every error into OpenAI's envelope. What
is not known to be allowed is refused. Decisions see `scope["path"]`, the very text that the planes
look up, and no other spelling of it.
"""

import asyncio
import contextlib
import hmac
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.wire import LOCAL_ONLY, PRIORITY, REQUEST_ID, Priority
from router.endpoints import ANTHROPIC_VERSION, ENDPOINTS, dialect_of
from router.envelope import error_frame, error_reply
from router.errors import ClientGone, Refused, SignalboxError, shutting_down
from router.request import ADMIN, ANYBODY, Caller, Message, Receive, Scope, Send, send_reply

log = logging.getLogger(__name__)
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
# Anybody on this machine, or with the network's permission, may ask whether we are alive.
PUBLIC_PATHS = frozenset({"/health", "/ready"})
DATA_PREFIX = "/v1/"
ADMIN_PREFIXES = ("/admin", "/models", "/metrics")
# Where a link on another site may lead a person. No page is built yet: this one answers 404.
_PAGES = frozenset({"/"})
_JSON = b"application/json"
# Endpoints whose protocol has forms. A browser sends one without asking first, but never
# without its Origin.
_FORM_PATHS = frozenset(path for path, endpoint in ENDPOINTS.items() if endpoint.form)
_FORM = b"multipart/form-data"
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# No body has a length of more digits; and a number of thousands of them costs time to read.
_LENGTH_DIGITS = 15
# Clients name few hosts; who names many is checked each time.
_KNOWN_HOSTS = 64
_REQUEST_ID = REQUEST_ID.encode()
_REQUEST_ID_MAX = 128
_EVENT_STREAM = (b"content-type", b"text/event-stream")
# What a page may send: what we read, what endpoints pass on, and what SDKs insist on in a browser.
_PAGE_HEADERS = frozenset(
    {
        *(b"authorization", b"content-type", b"x-api-key", _REQUEST_ID),
        *(name.encode() for name in (PRIORITY, LOCAL_ONLY)),
        *(name for endpoint in ENDPOINTS.values() for name in endpoint.passed),
        *(b"openai-organization", b"openai-project"),
        b"anthropic-dangerous-direct-browser-access",
    }
)
# By these SDKs tell what they run on; each version has others.
_SDK_HEADER = re.compile(rb"x-stainless-[a-z-]+")
# Nothing more is wanted from who asks for somebody else, and a server that stops keeps nobody.
_CLOSE = (b"connection", b"close")
_FOREIGN_PAGE = (
    "Requests from this web page are not allowed. "
    "Its origin would have to be listed in server.allowed_origins."
)
# An id is to be unlike all others, not to be hard to guess; seeded by the system at import.
_random_bits = random.Random().getrandbits  # noqa: S311 see above


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may come in: further host names, foreign origins, and keys (never shown).

    `allowed_hosts` holds names as they stand in a Host header, in lower case and without a port.
    """

    allowed_hosts: frozenset[str]
    allowed_origins: frozenset[str]
    api_keys: Mapping[str, Priority | None]
    admin_key: str | None
    body_bytes: int

    def __repr__(self) -> str:
        return f"<Policy api_keys={len(self.api_keys)} admin_key={self.admin_key is not None}>"


class Guard:
    """Wraps the whole application; `methods` returns those of a path, or raises `not_found`.

    While `draining` is set nothing but GET /health is served any more.
    """

    def __init__(self, app: App, policy: Policy, methods: Callable[[str], tuple[str, ...]]) -> None:
        self.draining = False
        self._app = app
        self._methods = methods
        self._hosts = LOOPBACK_NAMES | {name.encode() for name in policy.allowed_hosts}
        self._origins = frozenset(origin.encode() for origin in policy.allowed_origins)
        self._api_keys = {key.encode(): told for key, told in policy.api_keys.items()}
        self._admin_key = policy.admin_key.encode() if policy.admin_key is not None else None
        self._known: set[bytes] = set()
        self._has_keys = bool(self._api_keys) or self._admin_key is not None
        # Replaced when the configuration changes.
        self.body_bytes = policy.body_bytes

    def __repr__(self) -> str:
        return f"<Guard {'draining' if self.draining else 'open'}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and answer whatever it raises."""
        if scope["type"] != "http":
            return None
        state: dict[str, Any] = scope["state"]
        headers: Mapping[bytes, bytes] = state["headers"]
        state["request_id"] = request_id = _request_id(headers)
        reply = _Outgoing(send, request_id.encode(), scope["path"])
        reply.is_anthropic = ANTHROPIC_VERSION in headers
        try:
            reply.origin = origin = self._check_source(scope, headers)
            if self.draining and (scope["path"] != "/health" or scope["method"] != "GET"):
                return await reply.error(shutting_down())
            if origin is not None and _is_preflight(scope, headers):
                return await reply.preflight(self._methods(scope["path"]), _may_send(headers))
            self._check_content(scope, headers)
            state["caller"] = (
                self._check_keys(scope["path"], headers) if self._has_keys else ANYBODY
            )
            await self._app(scope, receive, reply)
        except SignalboxError as error:
            # The frames that it went through hold the request's body, and some hold the error: left
            # together they would wait for the collector.
            await reply.error(error.with_traceback(None))
        except asyncio.CancelledError:
            # Nobody but the server cancels a request here, when its grace at the end is over.
            await reply.break_off(shutting_down())
            raise
        except ClientGone:
            log.info("%s %s: the client left", scope["method"], request_id)
        except Exception:
            # The outermost place: whatever was not foreseen is logged whole and told as an id.
            log.exception("%s %s failed", scope["method"], request_id)
            await reply.error(
                SignalboxError(
                    "internal_error",
                    f"The router failed on this request; its log tells why ({request_id}).",
                )
            )
        return None

    def _check_source(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Check Host, Origin and Sec-Fetch-Site; return a foreign origin that is allowed."""
        host = headers.get(b"host", b"")
        if host not in self._known:
            self._check_host(host)
        origin = headers.get(b"origin")
        if origin is None:
            site = headers.get(b"sec-fetch-site")
            if site is not None and site not in {b"same-origin", b"none"}:
                _check_navigation(scope, headers)
            return None
        if origin == b"http://" + host.lower():
            return None
        if origin not in self._origins:
            raise Refused("origin_not_allowed", _FOREIGN_PAGE)
        return origin

    def _check_host(self, host: bytes) -> None:
        """Check a Host header that has not been seen yet, and remember it where it is allowed."""
        # Two of them were joined by a comma, which no name has.
        if not host or b"," in host:
            # Whoever sends this may mean something else by its end than we do.
            raise Refused(
                "invalid_request", "A request needs exactly one Host header.", headers=(_CLOSE,)
            )
        # Any port will do: a forwarded connection comes with the one that it was made to.
        name, _, port = host.rpartition(b":")
        if not name or host.endswith(b"]"):
            name, port = host, b"0"
        if name.lower() not in self._hosts or not port.isdigit():
            raise Refused(
                "host_not_allowed",
                "This host name is not allowed. Use 127.0.0.1 or localhost, "
                "or list the name in server.allowed_hosts.",
                headers=(_CLOSE,),
            )
        if len(self._known) < _KNOWN_HOSTS:
            self._known.add(host)

    def _check_content(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """Check what the headers say of the body, before anything reads it."""
        length = headers.get(b"content-length")
        has_body = (length is not None and length != b"0") or b"transfer-encoding" in headers
        kind = headers.get(b"content-type", b"")
        # A web page may post other types without asking first, so they are refused even when the
        # body turns out to be JSON or empty; a bodiless POST to the control plane names no type.
        is_due = has_body or (
            scope["method"] in _WITH_BODY and (kind or scope["path"].startswith(DATA_PREFIX))
        )
        if not is_due:
            return
        if kind != _JSON or scope["path"] in _FORM_PATHS:
            _check_type(kind, scope["path"])
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused("unsupported_media_type", "Send the body without Content-Encoding.")
        if length is not None:
            self._check_length(length)

    def _check_length(self, length: bytes) -> None:
        if not length.isdigit():
            raise Refused("invalid_request", "Content-Length must be one decimal number.")
        if len(length) > _LENGTH_DIGITS or int(length) > self.body_bytes:
            raise Refused("body_too_large", f"The body is larger than {self.body_bytes} bytes.")

    def _check_keys(self, path: str, headers: Mapping[bytes, bytes]) -> Caller:
        """Check the key that this path needs; return who the caller is by it."""
        if path in PUBLIC_PATHS:
            return ANYBODY
        offered = _credential(headers)
        admin = self._admin_key
        if admin is not None and hmac.compare_digest(offered, admin):
            return ADMIN
        if path.startswith(DATA_PREFIX):
            return self._check_api_key(offered)
        self._check_elsewhere(path, offered)
        return ANYBODY

    def _check_api_key(self, offered: bytes) -> Caller:
        # All of them are compared, so that the time taken does not tell which one was near.
        caller = None if self._api_keys else ANYBODY
        for key, priority in self._api_keys.items():
            if hmac.compare_digest(offered, key):
                caller = Caller(priority=priority)
        if caller is None:
            raise Refused("invalid_api_key", "This needs one of the API keys as a bearer token.")
        return caller

    def _check_elsewhere(self, path: str, offered: bytes) -> None:
        """Check the key for the control plane, and for where nothing is meant to be."""
        is_admin_path = path.startswith(ADMIN_PREFIXES)
        if not is_admin_path and self._api_keys:
            self._check_api_key(offered)
            return
        if self._admin_key is None:
            return
        # So that a new route is never open by being forgotten here.
        hint = "" if path.startswith("/admin") else " If it was meant for /v1: base_url ends in it."
        raise Refused("invalid_api_key", f"This needs the admin key as a bearer token.{hint}")


class _Outgoing:
    """The way back to one client; knows whether the answer has begun."""

    __slots__ = ("_begun", "_id", "_is_stream", "_path", "_send", "is_anthropic", "origin")

    def __init__(self, send: Send, request_id: bytes, path: str) -> None:
        self._send = send
        self._path = path
        self._id = request_id
        self._begun = False
        self._is_stream = False
        self.origin: bytes | None = None
        self.is_anthropic = False

    def __call__(self, message: Message) -> Awaitable[None]:
        if not self._begun:
            self._begun = True
            headers = message["headers"] = [*message["headers"], (_REQUEST_ID, self._id)]
            if self.is_anthropic:
                headers.append((b"request-id", self._id))
            if self.origin is not None:
                headers.append((b"access-control-allow-origin", self.origin))
                headers.append((b"vary", b"Origin"))
            self._is_stream = _EVENT_STREAM in headers
        return self._send(message)

    async def error(self, error: SignalboxError) -> None:
        """Send an error; as the last event where a stream has begun, not at all in half an answer.

        What is half an answer then is broken off.
        """
        if self._begun:
            if self._is_stream:
                await self._send(
                    {
                        "type": "http.response.body",
                        "body": error_frame(error, dialect_of(self._path)),
                    }
                )
            return
        more = (_CLOSE,) if error.code == "shutting_down" else ()
        await send_reply(self, error_reply(error, dialect_of(self._path)), more)

    async def break_off(self, error: SignalboxError) -> None:
        """Tell a client that waits, or reads a stream, why it ends here; wait for nobody."""
        with contextlib.suppress(TimeoutError):
            # What is sent is on its way before the first wait, which is for a client to read.
            async with asyncio.timeout(0):
                await self.error(error)

    async def preflight(self, methods: tuple[str, ...], names: Iterable[bytes]) -> None:
        """Tell an allowed page what it may send."""
        headers = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", b", ".join(sorted(names))),
        ]
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b""})


def _request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the client's own id where headers and logs can hold it, else a new one."""
    told_id = headers.get(_REQUEST_ID, b"")
    if told_id and len(told_id) <= _REQUEST_ID_MAX and told_id.isascii():
        text = told_id.decode()
        if text.isprintable() and " " not in text:
            return text
    return "req-" + _random_bits(96).to_bytes(12, "big").hex()


def _is_preflight(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in headers


def _may_send(headers: Mapping[bytes, bytes]) -> frozenset[bytes]:
    """Return the headers that an allowed page may send, those of its SDK by the names it gives."""
    asked = headers.get(b"access-control-request-headers", b"").lower().split(b",")
    names = (name.strip() for name in asked)
    return _PAGE_HEADERS.union(name for name in names if _SDK_HEADER.fullmatch(name))


def _check_navigation(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Let a person follow a link to a page, in a window of its own; refuse all else."""
    is_navigation = (
        headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
    )
    if not (is_navigation and scope["method"] == "GET" and scope["path"] in _PAGES):
        raise Refused("origin_not_allowed", "Requests from other sites are not allowed.")


def _check_type(kind: bytes, path: str) -> None:
    due = _FORM if path in _FORM_PATHS else _JSON
    if kind.partition(b";")[0].strip().lower() != due:
        raise Refused("unsupported_media_type", f"Content-Type must be {due.decode()}.")


def _credential(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key that the caller offers, as a bearer token or as `x-api-key`; b"" for none.

    The one place that looks for it: not in the query, where logs and histories would keep it.
    Raises Refused for another scheme, and for two keys that differ: which one counts is not ours
    to guess.
    """
    authorization = headers.get(b"authorization")
    key = headers.get(b"x-api-key")
    if authorization is None:
        return key or b""
    if authorization[:7].lower() != b"bearer ":
        raise Refused("invalid_api_key", "Send the key as a bearer token: Authorization: Bearer …")
    token = authorization[7:].strip()
    if key is not None and not hmac.compare_digest(key, token):
        raise Refused("invalid_api_key", "Authorization and x-api-key hold two different keys.")
    return token
