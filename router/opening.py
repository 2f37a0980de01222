"""An exchange with a provider, entered so far that its answer is known to be one."""

import time
from types import TracebackType

import msgspec

from router.answer import OpenBytes, OpenStream, open_answer
from router.back_translation import put_back
from router.catalog import Locality
from router.deadline import Deadline, Sweeper
from router.dialects.translation import Translation
from router.endpoints import Answers
from router.errors import TOO_LONG, Reply, RouteFailed, StreamFailed
from router.plan import Plan
from router.room import Prompt, why_cut
from router.sse import JsonStream
from router.upstream import UpstreamRequest
from router.usage import Usage
from router.window import Windows


class Whole(msgspec.Struct, frozen=True):
    """A whole answer that has not gone out: also as the provider `said` it, and asked `since`."""

    reply: Reply
    said: bytes
    window: int | None
    since: float


class Opening:
    """Holds the exchange of one request while entered; `size` bounds a whole answer, in bytes.

    With a `translation` the request went out as what that makes of it.
    """

    __slots__ = (
        "_exchange",
        "_is_again",
        "_plan",
        "_prompt",
        "_size",
        "_stream",
        "_sweeper",
        "_translation",
        "said",
        "since",
        "window",
    )

    def __init__(
        self,
        plan: Plan,
        request: UpstreamRequest,
        prompt: Prompt,
        sweeper: Sweeper,
        *,
        stream: bool,
        size: int,
        translation: Translation | None = None,
    ) -> None:
        # The body of a whole answer in the provider's own words, and when it was first asked.
        self.said = b""
        self.since = time.monotonic()
        self._is_again = False
        # What the prompt may have been cut to, where that is checked: in tokens.
        self.window: int | None = None
        self._prompt = prompt
        self._plan = plan
        self._exchange = plan.reach.upstream.exchange(request)
        self._sweeper = sweeper
        self._stream = stream
        self._size = size
        self._translation = translation

    def go_on(self, since: float) -> None:
        """Take for the whole what is left of its time since then, by the monotonic clock."""
        self.since, self._is_again = since, True

    async def __aenter__(self) -> Reply | OpenStream | OpenBytes:
        """Return the whole answer, or what flows, at its beginning.

        Raises RouteFailed, `upstream_timeout` when the head and the beginning of what flows take
        longer than `first_byte_s`, or a whole answer longer than `total_s`;
        `context_length_exceeded` when only a part of the prompt was read.
        """
        endpoint, asked = self._plan.endpoint, self._plan.asked
        provider, deadlines = self._plan.route.provider, self._plan.reach.deadlines
        with Deadline(self._sweeper) as deadline:
            total_s = deadlines.total_s
            first_byte_s = deadlines.first_byte_s
            if self._is_again:
                first_byte_s = min(first_byte_s, self._left_s())
            deadline.expect(first_byte_s, lambda: self._too_slow(first_byte_s))
            answer = await self._exchange.__aenter__()
            try:
                if not self._stream and asked.answers is not Answers.BYTES:
                    deadline.expect(self._left_s(), lambda: self._too_slow(total_s))
                opened = await open_answer(
                    answer,
                    provider.name,
                    stream=self._stream,
                    size=self._size,
                    is_local=provider.locality is Locality.LOCAL,
                    endpoint=asked,
                    dialect=endpoint.dialect,
                )
                deadline.silence()
                if isinstance(opened, Reply):
                    self.said = opened.body
                if self._translation is not None:
                    opened = put_back(opened, self._translation, provider.name)
                if self._plan.reach.windows is not None and endpoint.characters is not None:
                    await self._check_whole(opened, self._plan.reach.windows)
                return opened  # noqa: TRY300 what is left by an error is left in one place
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the exchange, whose connection goes back or is closed."""
        await self._exchange.__aexit__(kind, error, traceback)

    def _left_s(self) -> float:
        """Return what is left of the time for a whole answer, however often it was asked for."""
        return self._plan.reach.deadlines.total_s - (time.monotonic() - self.since)

    async def _check_whole(self, opened: Reply | OpenStream | OpenBytes, windows: Windows) -> None:
        """Check that the prompt was read to its end, now or when a stream tells its tokens.

        Raises RouteFailed `context_length_exceeded` where it was not.
        """
        answer = opened.state if isinstance(opened, OpenStream) else opened
        if isinstance(answer, OpenBytes) or (isinstance(answer, Reply) and answer.usage is None):
            return
        self.window = await windows.of(self._plan.route.model.id, self._prompt.size)
        if answer.usage is not None and (why := self._why_cut(answer.usage)) is not None:
            raise RouteFailed(TOO_LONG, why)
        if isinstance(answer, JsonStream):
            answer.check_usage = self._check_usage

    def _check_usage(self, usage: Usage) -> None:
        if (why := self._why_cut(usage)) is not None:
            raise StreamFailed(TOO_LONG, why)

    def _why_cut(self, usage: Usage) -> str | None:
        if self.window is None:
            return None
        return why_cut(self._plan.route.model, self._prompt, usage, self.window)

    def _too_slow(self, seconds: float) -> RouteFailed:
        """Return the failure of a provider that does not answer in time."""
        return RouteFailed(
            "upstream_timeout",
            f"{self._plan.route.provider.name} did not answer within {seconds:g} s.",
            may_have_run=self._exchange.asked,
        )
