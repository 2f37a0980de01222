"""The path of one request: read, classify, resolve, and try its routes, in one straight line."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backends.process_manager import ProcessManager
from backends.wire import Priority
from router.answer import OpenBytes, OpenStream
from router.body import BodyLimits, Buffered, JsonBody, decode
from router.capabilities import Capability, Requirement
from router.catalog import Locality
from router.classification.pictures import references
from router.deadline import Sweeper
from router.dialects.translation import Translation
from router.egress import Egress
from router.endpoints import Endpoint
from router.errors import TOO_LONG, ProviderFailed, Reply, RouteFailed, StreamFailed
from router.events import Flight, InFlight
from router.form import FormBody, decode_form
from router.images.pictures import Pictures
from router.images.rules import Rules
from router.images.sources import Sources
from router.images.way import stays_here
from router.opening import Opening
from router.plan import Plan, Plans, as_chat
from router.pour import pour
from router.presence import ClientPresent
from router.pump import pump
from router.reach import Ready, place
from router.request import (
    Receive,
    Scope,
    Send,
    passed,
    priority,
    read_body,
    send_reply,
    wants_local_only,
)
from router.retry_budget import RetryBudget
from router.room import Prompt
from router.sse import ChatStream
from router.upstream import FixedHeaders, UpstreamRequest

log = logging.getLogger(__name__)
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """What one request may cost: bytes in and out, pictures, further providers to ask.

    `images` is how many pictures it may hold, `pictures` what may be done for them. `retry_share`
    is what each request adds to the further attempts that all of them may make.
    """

    body: BodyLimits
    response_bytes: int
    images: int
    pictures: Rules
    further_attempts: int
    retry_share: float
    default_priority: Priority


@dataclass(frozen=True, slots=True)
class Tallies:
    """What is counted over all requests: those in flight, the bytes they hold, what has left."""

    in_flight: InFlight
    buffered: Buffered
    egress: Egress


class Timing(msgspec.Struct):
    """Where one request's time went, in seconds: `waited_s` is for others, the rest is ours."""

    since: float
    queued_s: float = 0.0
    waited_s: float = 0.0


class Work(msgspec.Struct, frozen=True):
    """One request, understood: its body, what it needs, how urgent it is, and how far it is."""

    body: JsonBody | FormBody
    prompt: Prompt
    requirement: Requirement
    priority: Priority
    flight: Flight
    timing: Timing
    passed: FixedHeaders
    pictures: Pictures | None = None


class Proxy:
    """Serves what models answer by the catalog of the moment, of which `plans` are made."""

    def __init__(
        self,
        *,
        plans: Plans,
        processes: ProcessManager,
        tallies: Tallies,
        limits: ProxyLimits,
        sweeper: Sweeper,
        sources: Sources,
    ) -> None:
        self._plans = plans
        self._sources = sources
        self._processes = processes
        self._in_flight = tallies.in_flight
        self._egress = tallies.egress
        self._buffered = tallies.buffered
        # Replaced when the configuration changes.
        self.limits = limits
        self._retries = RetryBudget()
        self._sweeper = sweeper

    async def serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises SignalboxError for what the caller is to be told."""
        since = time.perf_counter()
        limits = self.limits
        with (
            self._in_flight.track(scope["state"]["request_id"]) as flight,
            self._buffered.share() as share,
        ):
            data = await read_body(receive, limits.body.size, share)
            own = passed(scope, endpoint.passed)
            body: JsonBody | FormBody = (
                decode_form(data, dict(own)[b"content-type"])
                if endpoint.form
                else decode(data, limits.body)
            )
            requirement = endpoint.requirement(
                body.fields, max_images=limits.images, local_only=wants_local_only(scope)
            )
            flight.needs = requirement.needs
            with ClientPresent(scope["state"]["turn"]) as present:
                flight.stop = present.stop
                plans = await self._plans.settle(requirement)
                wanted = priority(scope, body.fields, plans[0].priority or limits.default_priority)
                flight.priority = int(wanted)
                prompt = Prompt(endpoint, body.fields, len(data))
                timing = Timing(since)
                pictures = None
                if requirement.levers[0] is Capability.VISION and isinstance(body, JsonBody):
                    shown = references(endpoint.dialect, body.fields)
                    pictures = Pictures(shown, body, share, self._sources)
                work = Work(body, prompt, requirement, wanted, flight, timing, own, pictures)
                await self._try_plans(plans, work, send)

    async def _try_plans(self, plans: tuple[Plan, ...], work: Work, send: Send) -> None:
        """Try the routes in order until one answers; the first one's error is the answer else.

        What counts is who was asked: a provider that is left alone, a full queue, a model that is
        not on disk cost nothing, and lead on to the next route. The budget is for when providers
        fail; one that has no room for a prompt is in good health.
        """
        errors: list[RouteFailed] = []
        flight, has_failed = work.flight, False
        self._retries.earn(self.limits.retry_share)
        if plans[0].yields:
            plans = self._awake_first(plans)
        for plan in plans:
            asked = flight.asked
            if asked > self.limits.further_attempts or (has_failed and not self._retries.spend()):
                break
            began = time.perf_counter()
            try:
                # A later attempt goes by the map of its own moment.
                current = self._plans.of_now(plan, work.requirement)
                with current.reach.use:
                    return await self._try_plan(current, work, send)
            except RouteFailed as error:
                log.info("%s failed: %s (%s)", plan.route.model.name, error.logged, error.code)
                # Its frames, this one among them, would be held by the list that they hold.
                errors.append(error.with_traceback(None))
                work.timing.waited_s += time.perf_counter() - began
                if error.may_have_run:
                    break
                has_failed = has_failed or (flight.asked > asked and error.code != TOO_LONG)
            finally:
                if has_failed and flight.asked == asked:
                    # It did not come to it.
                    self._retries.give_back()
        first = errors[0]
        if not isinstance(first, ProviderFailed):
            raise first
        flight.failure = first.code
        return await send_reply(send, first.answer, _told(plans[0], work))

    async def _pass_on(
        self,
        opened: OpenStream | OpenBytes,
        send: Send,
        headers: FixedHeaders,
        plan: Plan,
        work: Work,
    ) -> StreamFailed | None:
        """Let what has begun flow to the client; return what broke it, or None."""
        deadlines = plan.reach.deadlines
        if isinstance(opened, OpenBytes):
            return await pour(opened, send, headers, deadlines, self._sweeper)
        opened.state.withholds_usage = plan.translate is None and _adds_usage(plan, work)
        return await pump(opened, send, headers, deadlines, self._sweeper)

    def _awake_first(self, plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
        """Put those behind whose process is not ready, and have it started meanwhile."""
        processes = self._processes
        asleep = [
            plan
            for plan in plans
            if plan.yields and plan.reach.process and not processes.is_ready(plan.reach.process)
        ]
        for plan in asleep:
            if plan.route.model.present and plan.reach.process:
                processes.wake(plan.reach.process)
        return (*[plan for plan in plans if plan not in asleep], *asleep)

    async def _shown(self, plan: Plan, work: Work, pictures: Pictures) -> JsonBody:
        """Return the body as a route gets it: its pictures as whoever serves there may have them.

        Raises as `Pictures.shown_to`.
        """
        stays = stays_here(work.requirement, plan.route, plan.catalog)
        waited_s = pictures.waited_s
        body = await pictures.shown_to(plan.route, self.limits.pictures, stays=stays)
        work.timing.waited_s += pictures.waited_s - waited_s
        return body

    async def _request(self, plan: Plan, work: Work) -> tuple[UpstreamRequest, Translation | None]:
        """Return the request as a route gets it, and the way back where it is put as a chat.

        Raises as `Pictures.shown_to` and `as_chat`.
        """
        body = work.body
        if work.pictures is not None:
            body = await self._shown(plan, work, work.pictures)
        translation = None
        if plan.translate is not None:
            translation = as_chat(plan.translate, body.fields, work.flight.request_id)
        return _upstream_request(plan, work, body, translation), translation

    async def _try_plan(self, plan: Plan, work: Work, send: Send) -> None:
        """Serve the request by one route; everything it holds is held by this `async with`."""
        route, reach, flight, timing = plan.route, plan.reach, work.flight, work.timing
        flight.provider, flight.model, flight.state = route.provider.name, route.model.id, "queued"
        stream, size = work.requirement.stream, self.limits.response_bytes
        no_room = await reach.why_no_room(route.model, work.prompt)
        if no_room is not None:
            raise RouteFailed(TOO_LONG, f"{route.model.name} {no_room}")
        # Nobody waits for a place before a provider that is left alone, or has had its share.
        reach.breaker.check()
        self._egress.check(route.provider.name)
        request, translation = await self._request(plan, work)
        began = time.perf_counter()
        async with place(reach, work.priority) as queued:
            flight.state = "starting"
            async with Ready(reach, route.model, self._processes):
                now = self._plans.check_leaving(plan, work.requirement)
                # Who waited before this one may have had what was left.
                self._egress.check(route.provider.name)
                if work.pictures is not None:
                    work.pictures.check_leaving(now.route, self.limits.pictures)
                opening = Opening(
                    plan,
                    request,
                    work.prompt,
                    self._sweeper,
                    stream=stream,
                    size=size,
                    translation=translation,
                )
                account = self._egress.account(
                    route.provider.name,
                    now.locality or Locality.REMOTE,
                    route.model.name,
                    len(request.body),
                )
                with reach.breaker.passage() as passage, account:
                    flight.state, flight.asked = "upstream", flight.asked + 1
                    async with opening as opened:
                        passage.answered()
                        timing.queued_s += queued.waited_s
                        timing.waited_s += time.perf_counter() - began
                        headers = _told(plan, work, opening.window)
                        if isinstance(opened, Reply):
                            account.answer = opened
                            return await send_reply(send, opened, headers)
                        flight.state = "streaming"
                        account.answer = opened.state if isinstance(opened, OpenStream) else None
                        headers = (*opened.headers, *headers)
                        failure = await self._pass_on(opened, send, headers, plan, work)
                        if failure is not None:
                            flight.failure = failure.code
                            passage.broke_off(failure)
                            log.warning("%s: %s (%s)", flight.model, failure.logged, failure.code)
        return None


def _adds_usage(plan: Plan, work: Work) -> bool:
    """Tell whether the provider must be asked for the tokens of a stream."""
    if not plan.asks_usage or not work.requirement.stream or plan.asked.watch is not ChatStream:
        return False
    options = work.body.fields.get("stream_options")
    return not (isinstance(options, dict) and options.get("include_usage"))


def _upstream_request(
    plan: Plan, work: Work, body: JsonBody | FormBody, translation: Translation | None
) -> UpstreamRequest:
    """Return the request as the provider gets it: nothing of the client's but its body."""
    changes: dict[str, Any] = {"model": plan.route.model.id}
    if _adds_usage(plan, work):
        options = work.body.fields.get("stream_options")
        own = options if isinstance(options, dict) and translation is None else {}
        changes["stream_options"] = {**own, "include_usage": True}
    return UpstreamRequest(
        method="POST",
        url=plan.url,
        headers=plan.sent,
        body=_ENCODER.encode({**_chat(plan, translation), **changes})
        if translation
        else body.encode(changes),
        # Headers of one protocol mean nothing in another.
        own=(
            *plan.own(work.flight.request_id.encode(), work.priority),
            *(() if translation else work.passed),
        ),
    )


def _chat(plan: Plan, translation: Translation) -> Mapping[str, Any]:
    """Return the chat for a provider: one of OpenAI's kind refuses what local servers know."""
    if plan.locality is Locality.LOCAL:
        return {**translation.hints, **translation.chat}
    return translation.chat


def _shims(plan: Plan, work: Work, window: int | None) -> FixedHeaders:
    """Return the header that names what was changed on the way; none where nothing was."""
    names = plan.route.shims
    if work.pictures is not None and work.pictures.replaces:
        names = (*names, "images")
    if _adds_usage(plan, work):
        names = (*names, "usage")
    if window is not None:
        names = (*names, "context")
    return ((b"x-signalbox-shims", ",".join(names).encode()),) if names else ()


def _told(plan: Plan, work: Work, window: int | None = None) -> FixedHeaders:
    """Return the headers that tell how the answer came about; it was checked by this window."""
    timing = work.timing
    overhead_s = time.perf_counter() - timing.since - timing.waited_s
    return (
        *plan.told,
        *_shims(plan, work, window),
        (b"x-signalbox-attempts", b"%d" % work.flight.asked),
        (b"x-signalbox-queue-ms", b"%.1f" % (timing.queued_s * 1000)),
        (b"x-signalbox-overhead-ms", b"%.2f" % (overhead_s * 1000)),
    )
