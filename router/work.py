"""One request, understood: what its provider gets of it, and what its client is told."""

import time
from typing import Any

import msgspec

from backends.wire import Priority
from router.body import JsonBody
from router.capabilities import Requirement
from router.enforcement import Verdict
from router.events import Flight
from router.form import FormBody
from router.images.pictures import Pictures
from router.plan import Plan
from router.rendition import Rendition
from router.room import Prompt
from router.sse import ChatStream
from router.upstream import FixedHeaders, UpstreamRequest


class Timing(msgspec.Struct):
    """Where one request's time went, in seconds: `waited_s` is for others, the rest is ours.

    `began` is when the wait began that is not in it yet.
    """

    since: float
    began: float = 0.0
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


def adds_usage(plan: Plan, work: Work) -> bool:
    """Tell whether the provider must be asked for the tokens of a stream."""
    if not plan.asks_usage or not work.requirement.stream or plan.asked.watch is not ChatStream:
        return False
    options = work.body.fields.get("stream_options")
    return not (isinstance(options, dict) and options.get("include_usage"))


def upstream_request(plan: Plan, work: Work, told: Rendition) -> UpstreamRequest:
    """Return the request as the provider gets it: nothing of the client's but its body."""
    changes: dict[str, Any] = {"model": plan.route.model.id}
    if adds_usage(plan, work):
        options = told.body.fields.get("stream_options")
        own = options if isinstance(options, dict) else {}
        changes["stream_options"] = {**own, "include_usage": True}
    return UpstreamRequest(
        method="POST",
        url=plan.url,
        headers=plan.sent,
        body=told.body.encode(changes),
        # Headers of one protocol mean nothing in another.
        own=(
            *plan.own(work.flight.request_id.encode(), work.priority),
            *(() if told.translation else work.passed),
        ),
    )


def _shims(plan: Plan, work: Work, told: Rendition | None, window: int | None) -> FixedHeaders:
    """Return the header that names what was changed on the way; none where nothing was."""
    names = plan.route.shims
    if work.pictures is not None and work.pictures.replaces:
        names = (*names, "images")
    if told is not None and told.shims:
        names = (*names, *told.shims)
    if adds_usage(plan, work):
        names = (*names, "usage")
    if window is not None:
        names = (*names, "context")
    return ((b"x-signalbox-shims", ",".join(names).encode()),) if names else ()


def told_of(
    plan: Plan,
    work: Work,
    told: Rendition | None = None,
    window: int | None = None,
    verdict: Verdict | None = None,
) -> FixedHeaders:
    """Return the headers that tell how the answer came about; it was checked by this window."""
    timing = work.timing
    overhead_s = time.perf_counter() - timing.since - timing.waited_s
    return (
        *plan.told,
        *_shims(plan, work, told, window),
        *(((b"x-signalbox-enforcement", verdict.encode()),) if verdict is not None else ()),
        (b"x-signalbox-attempts", b"%d" % work.flight.asked),
        (b"x-signalbox-queue-ms", b"%.1f" % (timing.queued_s * 1000)),
        (b"x-signalbox-overhead-ms", b"%.2f" % (overhead_s * 1000)),
    )
