"""What can go wrong, as a tree by reaction.

    SignalboxError        something that a client is told, with a code of `backends.wire`
    ├── Refused           the request cannot be served as it stands: no other route is tried
    │   └── LocalityUnknown   … until `providers` say which of their models stay here
    ├── RouteFailed       this route failed before its first byte: the next one is tried
    │   ├── ProviderFailed    … by an error of the provider's own, which passes if none is left
    │   └── Unasked           … on this side: it says nothing of the provider, and nothing left
    └── StreamFailed      the answer had begun: an error frame ends it, nothing is retried
    ClientGone            nobody is there to be told

Mistakes of our own are ordinary Python exceptions and become `internal_error` in `guard`.
"""

import json
import math

import msgspec

from backends.wire import CODES, SHOULD_RETRY, envelope
from router.usage import Usage

# The code of a prompt that a model has no room for, whoever says so.
TOO_LONG = "context_length_exceeded"
# Statuses that the SDKs would retry by themselves: only these need the header that forbids it.
_RETRIED = frozenset({408, 409, 429})
_SERVER_ERROR = 500


class Reply(msgspec.Struct, frozen=True):
    """A whole answer, ready to be sent; `usage` holds the tokens that a provider told in it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    usage: Usage | None = None


class SignalboxError(Exception):
    """Something that a client is told: a code of `backends.wire.CODES` and what to do about it.

    `param` names the request field at fault, `retry_after_s` says when a retry may succeed. A
    message that `quotes` repeats the request or the provider: it is for who asked, and no log.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        quotes: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.quotes = quotes
        self.spec = CODES[code]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"

    @property
    def logged(self) -> str:
        """What others than who asked may read of it."""
        return "its words are for no log" if self.quotes else self.message

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return self.spec.status

    def body(self) -> bytes:
        """Return OpenAI's error body, encoded."""
        return json.dumps(envelope(self.code, self.message, self.param)).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that an answer of the router's own making carries."""
        headers = [(b"content-type", b"application/json"), (b"x-signalbox-error", b"1")]
        retried_by_sdks = self.status in _RETRIED or self.status >= _SERVER_ERROR
        if retried_by_sdks and not self.spec.retry:
            headers.append((SHOULD_RETRY.encode(), b"false"))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))))
        return headers

    def reply(self) -> Reply:
        """Return the error as a whole answer."""
        return Reply(self.status, tuple(self.headers()), self.body())

    def frame(self) -> bytes:
        """Return the error as one whole SSE event."""
        return b"data: " + self.body() + b"\n\n"


class Refused(SignalboxError):
    """The request cannot be served as it stands, whichever route is taken."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(code, message, param=param)
        self._more_headers = headers

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers, those of this refusal with them."""
        return [*super().headers(), *self._more_headers]


class LocalityUnknown(Refused):
    """The request must not leave, and no provider has said of the models left that they stay.

    `providers` are those to ask.
    """

    def __init__(self, message: str, providers: tuple[str, ...]) -> None:
        super().__init__("remote_not_allowed", message, param="model")
        self.providers = providers


class RouteFailed(SignalboxError):
    """One route failed before the first byte of its answer; the next may serve the request.

    `may_have_run` says that the provider may be working on the request all the same: sending it
    elsewhere could do the work, and what its tools do, twice.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        quotes: bool = False,
        may_have_run: bool = False,
    ) -> None:
        super().__init__(code, message, param=param, retry_after_s=retry_after_s, quotes=quotes)
        self.may_have_run = may_have_run


class ProviderFailed(RouteFailed):
    """The provider itself said no, in OpenAI's shape, and another may not: `answer` holds it."""

    def __init__(self, code: str, message: str, *, reply: "Reply") -> None:
        super().__init__(code, message)
        self.answer = reply


class Unasked(RouteFailed):
    """The request could not be put for a provider, which was asked nothing and is not to blame."""


class StreamFailed(SignalboxError):
    """The answer broke after its first byte had gone out."""


def shutting_down() -> SignalboxError:
    """Return what a client is told whose request a stop of the router comes before."""
    return SignalboxError("shutting_down", "Signalbox is stopping: ask again when it is back.")


class ClientGone(Exception):
    """The client left: there is nobody to answer and nothing to count against a provider."""
