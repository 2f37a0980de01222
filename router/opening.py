"""An exchange with a provider, entered so far that its answer is known to be one."""

import time
from types import TracebackType

from router.answer import OpenBytes, OpenStream, open_answer
from router.catalog import Locality
from router.deadline import Deadline, Sweeper
from router.endpoints import Answers
from router.errors import Reply, RouteFailed
from router.plan import Plan
from router.upstream import UpstreamRequest


class Opening:
    """Holds the exchange of one request while entered; `size` bounds a whole answer, in bytes."""

    __slots__ = ("_exchange", "_plan", "_size", "_stream", "_sweeper")

    def __init__(
        self, plan: Plan, request: UpstreamRequest, sweeper: Sweeper, *, stream: bool, size: int
    ) -> None:
        self._plan = plan
        self._exchange = plan.reach.upstream.exchange(request)
        self._sweeper = sweeper
        self._stream = stream
        self._size = size

    async def __aenter__(self) -> Reply | OpenStream | OpenBytes:
        """Return the whole answer, or what flows, at its beginning.

        Raises RouteFailed, `upstream_timeout` when the head and the beginning of what flows take
        longer than `first_byte_s`, or a whole answer longer than `total_s`.
        """
        endpoint = self._plan.endpoint
        provider, deadlines = self._plan.route.provider, self._plan.reach.deadlines
        since = time.monotonic()
        with Deadline(self._sweeper) as deadline:
            first_byte_s, total_s = deadlines.first_byte_s, deadlines.total_s
            deadline.expect(first_byte_s, lambda: self._too_slow(first_byte_s))
            answer = await self._exchange.__aenter__()
            try:
                if not self._stream and endpoint.answers is not Answers.BYTES:
                    left_s = total_s - (time.monotonic() - since)
                    deadline.expect(left_s, lambda: self._too_slow(total_s))
                return await open_answer(
                    answer,
                    provider.name,
                    stream=self._stream,
                    size=self._size,
                    is_local=provider.locality is Locality.LOCAL,
                    endpoint=endpoint,
                )
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

    def _too_slow(self, seconds: float) -> RouteFailed:
        """Return the failure of a provider that does not answer in time."""
        return RouteFailed(
            "upstream_timeout",
            f"{self._plan.route.provider.name} did not answer within {seconds:g} s.",
            may_have_run=self._exchange.asked,
        )
