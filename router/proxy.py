"""The path of one request: read, classify, resolve, and try its routes, in one straight line."""

import asyncio
import logging
import time
from dataclasses import dataclass

from backends.process_manager import ProcessManager
from backends.wire import Priority
from router.answer import OpenBytes, OpenStream
from router.attachments import check_attachments
from router.body import AT_ONCE, BodyLimits, Buffered, JsonBody, decode
from router.capabilities import Capability, Enforce
from router.catalog import Locality
from router.classification.pictures import check_count, references
from router.deadline import Sweeper
from router.egress import Egress
from router.endpoints import CHAT, Endpoint
from router.enforcement import Verdict, examine, schema_of
from router.errors import TOO_LONG, ProviderFailed, Reply, RouteFailed, StreamFailed, Unasked
from router.events import InFlight
from router.form import FormBody, decode_form
from router.images.pictures import Pictures
from router.images.rules import Rules
from router.images.sources import Sources
from router.images.way import stays_here
from router.opening import Opening, Whole
from router.plan import Plan, Plans
from router.pour import pour
from router.presence import ClientPresent
from router.pump import pump
from router.reach import Ready, place
from router.rendition import Rendition, rendition
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
from router.upstream import FixedHeaders
from router.work import Timing, Work, adds_usage, told_of, upstream_request

log = logging.getLogger(__name__)
_OK = 200


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
            body: JsonBody | FormBody
            if endpoint.form:
                body = decode_form(data, dict(own)[b"content-type"])
            elif len(data) <= AT_ONCE:
                body = decode(data, limits.body)
            else:
                # Several steps over all of it, between which others have their turn.
                body = await asyncio.to_thread(decode, data, limits.body)
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
                    check_count(len(shown), limits.images)
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
                if isinstance(error, Unasked):
                    flight.asked = asked
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
        return await send_reply(send, first.answer, told_of(plans[0], work))

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
        opened.state.withholds_usage = plan.translate is None and adds_usage(plan, work)
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

    async def _rendition(self, plan: Plan, work: Work) -> Rendition:
        """Return the request as a route gets it; raises as what it is made by does."""
        body = work.body
        check_attachments(work.requirement, body.fields, plan.route)
        if work.pictures is not None:
            body = await self._shown(plan, work, work.pictures)
        is_local = plan.locality is Locality.LOCAL
        request_id = work.flight.request_id
        return rendition(body, plan.translate, plan.shims, request_id, is_local=is_local)

    async def _try_plan(self, plan: Plan, work: Work, send: Send) -> None:
        """Serve the request by one route; everything it holds is held by this `async with`."""
        route, reach, flight, timing = plan.route, plan.reach, work.flight, work.timing
        flight.provider, flight.model, flight.state = route.provider.name, route.model.id, "queued"
        no_room = await reach.why_no_room(route.model, work.prompt)
        if no_room is not None:
            raise RouteFailed(TOO_LONG, f"{route.model.name} {no_room}")
        # Nobody waits for a place before a provider that is left alone, or has had its share.
        reach.breaker.check()
        self._egress.check(route.provider.name)
        told = await self._rendition(plan, work)
        timing.began = time.perf_counter()
        async with place(reach, work.priority) as queued:
            flight.state = "starting"
            async with Ready(reach, route.model, self._processes):
                whole = await self._ask(plan, work, told, send, queued_s=queued.waited_s)
                if whole is None:
                    # It has flowed to the client.
                    return
                verdict = None
                if route.enforce is not Enforce.OFF and whole.reply.status == _OK:
                    whole, verdict = await self._enforced(plan, work, told, send, whole)
                headers = told_of(plan, work, told, whole.window, verdict)
                await send_reply(send, whole.reply, headers)

    async def _ask(
        self,
        plan: Plan,
        work: Work,
        told: Rendition,
        send: Send,
        *,
        queued_s: float = 0.0,
        since: float | None = None,
    ) -> Whole | None:
        """Ask the provider; return a whole answer, or None when what flows has gone out.

        `since` is when it was first asked, where this is not the first time.
        """
        route, reach, flight, timing = plan.route, plan.reach, work.flight, work.timing
        now = self._plans.check_leaving(plan, work.requirement)
        # Who waited before this one may have had what was left.
        self._egress.check(route.provider.name)
        if work.pictures is not None:
            work.pictures.check_leaving(now.route, self.limits.pictures)
        request = upstream_request(plan, work, told)
        opening = Opening(
            plan,
            request,
            work.prompt,
            self._sweeper,
            stream=work.requirement.stream,
            size=self.limits.response_bytes,
            translation=told.translation,
        )
        if since is not None:
            opening.go_on(since)
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
                timing.queued_s += queued_s
                timing.waited_s += time.perf_counter() - timing.began
                if isinstance(opened, Reply):
                    account.answer = opened
                    return Whole(opened, opening.said, opening.window, opening.since)
                flight.state = "streaming"
                account.answer = opened.state if isinstance(opened, OpenStream) else None
                verdict = Verdict.UNCHECKED if route.enforce is not Enforce.OFF else None
                headers = (*opened.headers, *told_of(plan, work, told, opening.window, verdict))
                failure = await self._pass_on(opened, send, headers, plan, work)
                if failure is not None:
                    flight.failure = failure.code
                    passage.broke_off(failure)
                    log.warning("%s: %s (%s)", flight.model, failure.logged, failure.code)
        return None

    async def _enforced(
        self, plan: Plan, work: Work, told: Rendition, send: Send, whole: Whole
    ) -> tuple[Whole, Verdict | None]:
        """Return the answer that passes where the binding enforces, and the verdict on it.

        One that cannot be repaired passes as it first came: what becomes of it the client decides.
        """
        if plan.asked is not CHAT:
            return whole, Verdict.UNCHECKED
        schema = schema_of(told.asked)
        if schema is None:
            return whole, None
        finding = await asyncio.to_thread(examine, schema, whole.said)
        if finding is None or finding.verdict is not Verdict.INVALID:
            return whole, None if finding is None else finding.verdict
        if plan.route.enforce is Enforce.REPAIR:
            work.timing.began = time.perf_counter()
            try:
                # Made anew: a translation is good for one answer.
                told = await self._rendition(plan, work)
                again = await self._ask(plan, work, told.again(finding), send, since=whole.since)
            except RouteFailed as error:
                log.info("%s: not repaired: %s", work.flight.model, error.logged)
                work.timing.waited_s += time.perf_counter() - work.timing.began
                return whole, Verdict.INVALID
            if again is not None:
                finding = await asyncio.to_thread(examine, schema, again.said)
                if finding is not None and finding.verdict is Verdict.VALID:
                    return again, Verdict.REPAIRED
        return whole, Verdict.INVALID
