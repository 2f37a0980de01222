"""The path of one request: read, classify, resolve, and try its routes, in one straight line."""

import logging
import time
from dataclasses import dataclass

import msgspec

from backends.process_manager import ProcessManager
from backends.wire import Priority
from router.body import BodyLimits, Buffered, JsonBody, decode
from router.capabilities import Requirement, classify_chat
from router.deadline import Sweeper
from router.errors import ProviderFailed, Refused, Reply, RouteFailed
from router.events import Flight, InFlight
from router.opening import Opening
from router.plan import Plan, Plans
from router.presence import ClientPresent
from router.pump import pump
from router.reach import Ready, place
from router.request import Receive, Scope, Send, priority, read_body, send_reply, wants_local_only
from router.upstream import FixedHeaders, UpstreamRequest

log = logging.getLogger(__name__)
# Longer than any identifier, and than most paths, by which servers name their models.
_MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What one request may cost: bytes in and out, further routes to try."""

    body: BodyLimits
    response_bytes: int
    further_attempts: int
    default_priority: Priority


class Timing(msgspec.Struct):
    """Where one request's time went, in seconds: `waited_s` is for others, the rest is ours."""

    since: float
    queued_s: float = 0.0
    waited_s: float = 0.0


class Work(msgspec.Struct, frozen=True):
    """One request, understood: its body, what it needs, how urgent it is, and how far it is."""

    path: str
    body: JsonBody
    requirement: Requirement
    priority: Priority
    flight: Flight
    timing: Timing


class Proxy:
    """Serves chat completions by the catalog of the moment, of which `plans` are made."""

    def __init__(
        self,
        *,
        plans: Plans,
        processes: ProcessManager,
        in_flight: InFlight,
        buffered: Buffered,
        limits: ProxyLimits,
        sweeper: Sweeper,
    ) -> None:
        self._plans = plans
        self._processes = processes
        self._in_flight = in_flight
        self._buffered = buffered
        self._limits = limits
        self._sweeper = sweeper

    async def chat_completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises SignalboxError for what the caller is to be told."""
        since = time.perf_counter()
        limits = self._limits
        with (
            self._in_flight.track(scope["state"]["request_id"]) as flight,
            self._buffered.share() as share,
        ):
            data = await read_body(receive, limits.body.size, share)
            body = decode(data, limits.body)
            _check_name(body.fields.get("model"))
            requirement = classify_chat(body.fields, local_only=wants_local_only(scope))
            state = scope["state"]
            wanted = priority(
                scope, body.fields, limits.default_priority, is_admin=state["is_admin"]
            )
            flight.needs = requirement.needs
            work = Work("/chat/completions", body, requirement, wanted, flight, Timing(since))
            with ClientPresent(state["turn"]):
                await self._try_plans(await self._plans.settle(requirement), work, send)

    async def _try_plans(self, plans: tuple[Plan, ...], work: Work, send: Send) -> None:
        """Try the routes in order until one answers; the first one's error is the answer else."""
        errors: list[RouteFailed] = []
        for plan in plans[: 1 + self._limits.further_attempts]:
            began = time.perf_counter()
            try:
                return await self._try_plan(plan, len(errors) + 1, work, send)
            except RouteFailed as error:
                log.info("%s failed: %s (%s)", plan.route.model.name, error.message, error.code)
                # Its frames, this one among them, would be held by the list that they hold.
                errors.append(error.with_traceback(None))
                work.timing.waited_s += time.perf_counter() - began
                if error.may_have_run:
                    break
        first = errors[0]
        if not isinstance(first, ProviderFailed):
            raise first
        return await send_reply(send, first.answer, _told(plans[0], len(errors), work.timing))

    async def _try_plan(self, plan: Plan, attempt: int, work: Work, send: Send) -> None:
        """Serve the request by one route; everything it holds is held by this `async with`."""
        route, reach, flight, timing = plan.route, plan.reach, work.flight, work.timing
        flight.provider, flight.model, flight.state = route.provider.name, route.model.id, "queued"
        stream, size = work.requirement.stream, self._limits.response_bytes
        request = _upstream_request(plan, work)
        began = time.perf_counter()
        async with place(reach) as queued:
            flight.state = "starting"
            async with Ready(reach, route.model, self._processes):
                flight.state = "upstream"
                opening = Opening(plan, request, self._sweeper, stream=stream, size=size)
                async with opening as opened:
                    timing.queued_s += queued.waited_s
                    timing.waited_s += time.perf_counter() - began
                    headers = _told(plan, attempt, timing)
                    if isinstance(opened, Reply):
                        return await send_reply(send, opened, headers)
                    flight.state = "streaming"
                    headers = (*opened.headers, *headers)
                    failure = await pump(opened, send, headers, reach.deadlines, self._sweeper)
                    if failure is not None:
                        log.warning("%s: %s (%s)", route.model.name, failure.message, failure.code)
        return None


def _check_name(model: object) -> None:
    """Refuse a `model` that is no name; none at all is as good as `auto`."""
    if model is None:
        return
    # The name goes into headers and logs, where a control character would end a line, and it is
    # remembered: a long one would be for long.
    if not isinstance(model, str) or len(model) > _MAX_NAME or not model.isprintable():
        raise Refused(
            "invalid_request",
            f"model must be a string of at most {_MAX_NAME} printable characters.",
            param="model",
        )


def _upstream_request(plan: Plan, work: Work) -> UpstreamRequest:
    """Return the request as the provider gets it: nothing of the client's but its body."""
    route = plan.route
    return UpstreamRequest(
        method="POST",
        url=route.provider.base_url + work.path,
        headers=plan.sent,
        body=work.body.encode({"model": route.model.id}),
        own=plan.own(work.flight.request_id.encode(), work.priority),
    )


def _told(plan: Plan, attempts: int, timing: Timing) -> FixedHeaders:
    """Return the headers that tell how the answer came about."""
    overhead_s = time.perf_counter() - timing.since - timing.waited_s
    return (
        *plan.told,
        (b"x-signalbox-attempts", b"%d" % attempts),
        (b"x-signalbox-queue-ms", b"%.1f" % (timing.queued_s * 1000)),
        (b"x-signalbox-overhead-ms", b"%.2f" % (overhead_s * 1000)),
    )
