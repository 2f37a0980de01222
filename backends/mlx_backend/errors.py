"""What this backend refuses or fails at, in the words of `backends.wire`."""

from typing import Any

from backends.wire import CODES, SHOULD_RETRY, envelope

_SERVER_ERROR = 500
_CONFLICT = 409


class ChatError(Exception):
    """A request that cannot be answered: a code of `backends.wire.CODES` and a text to act on.

    The text reaches the client, so it never holds a path of this machine or a stack.
    """

    def __init__(
        self, code: str, message: str, param: str | None = None, *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return CODES[self.code].status

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error body."""
        return envelope(self.code, self.message, self.param)

    def headers(self) -> dict[str, str]:
        """Return what tells an SDK whether and when to try again.

        The SDKs retry 409, 429 and 5xx by themselves, so only those need to be held back.
        """
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        retried = self.status == _CONFLICT or self.status >= _SERVER_ERROR
        if retried and not CODES[self.code].retry:
            headers[SHOULD_RETRY] = "false"
        return headers
