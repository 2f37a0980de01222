"""Explaining a decision: the same functions decide that decide for a request."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from router.attachments import check_attachments
from router.body import BodyLimits, Buffered, JsonBody, decode
from router.capability_map import CapabilityMap
from router.catalog import Catalog, Locality
from router.classification.pictures import check_count, references
from router.configuration import Configuration
from router.dialects import translator
from router.discovery import Discovery
from router.endpoints import CHAT, ENDPOINTS, Endpoint
from router.errors import TOO_LONG, LocalityUnknown, Refused, RouteFailed, SignalboxError
from router.images.pictures import Pictures
from router.images.rules import Rules
from router.images.sources import Unseen
from router.images.way import stays_here
from router.plan import shims_of
from router.reach import Reach
from router.rendition import rendition
from router.request import priority_of
from router.resolver import Decision, Route, decide, without
from router.room import Prompt
from router.settings.tree import LimitSettings

_MB = 1_000_000


class Question(BaseModel):
    """A request to be explained instead of served: a form's fields stand in `body` too."""

    model_config = ConfigDict(extra="forbid")
    path: str = CHAT.path
    body: dict[str, Any]
    local_only: bool = False
    priority: str | int | None = None


def explain_routes(
    the_map: CapabilityMap,
    configuration: Configuration,
    discovery: Discovery,
    reaches: Mapping[str, Reach],
) -> APIRouter:
    """Return the route; `reaches` holds every provider by its name."""
    routes, sources = APIRouter(tags=["explain"]), Unseen()

    @routes.post("/admin/explain")
    async def explain(question: Question, request: Request) -> dict[str, Any]:
        """Return how a request would be routed, and why, without calling a model."""
        endpoint = ENDPOINTS.get(question.path)
        if endpoint is None:
            raise Refused(
                "invalid_request", f"path must be one of {', '.join(ENDPOINTS)}.", param="path"
            )
        wish, settings = question.priority, configuration.settings
        limits = settings.limits
        try:
            body = await asyncio.to_thread(_body_of, question.body, endpoint, limits)
            requirement = endpoint.requirement(
                body.fields, max_images=limits.images, local_only=question.local_only
            )
            catalog = the_map.catalog
            decision = decide(requirement, catalog)
            if isinstance(decision.error, LocalityUnknown):
                # As a request does.
                await discovery.settle(decision.error.providers)
                catalog = the_map.catalog
                decision = decide(requirement, catalog)
            if decision.error is not None:
                return {**_told(decision), "priority": None}
            alias = catalog.alias(requirement.model)
            urgency = priority_of(
                None if wish is None else str(wish),
                body.fields,
                (alias and alias.priority) or settings.default_priority,
                request.state.caller,
            )
            shown = references(endpoint.dialect, body.fields)
            check_count(len(shown), limits.images)
            with Buffered(limits.buffered_mb * _MB).share() as share:
                pictures = Pictures(shown, body, share, sources)
                sending = _Sending(endpoint, body, pictures, Rules.of(settings), catalog)
                decision = await sending.over(decision, reaches)
        except Refused as refusal:
            return {**_UNDECIDED, "error": _refusal(refusal)}
        return {**_told(decision), "priority": urgency.name.lower()}

    return routes


class _Sending:
    """What would become of a request on each route before it is sent, without sending it."""

    def __init__(
        self, endpoint: Endpoint, body: JsonBody, pictures: Pictures, rules: Rules, catalog: Catalog
    ) -> None:
        self._endpoint = endpoint
        self._body = body
        self._pictures = pictures
        self._rules = rules
        self._catalog = catalog
        self._prompt = Prompt(endpoint, body.fields)

    async def over(self, decision: Decision, reaches: Mapping[str, Reach]) -> Decision:
        """Return a decision less the routes by which a request would not be sent."""
        failures: dict[str, SignalboxError] = {}
        routes: list[Route] = []
        for at, route in enumerate(decision.routes):
            try:
                routes.append(await self.as_sent(route, decision, reaches))
            except RouteFailed as failure:
                failures[route.model.name] = failure
            except Refused as refusal:
                # Nobody is tried after that, and it is what the client is told.
                after = {each.model.name: refusal for each in decision.routes[at:]}
                failures = {**after, **failures}
                break
        return replace(without(decision, failures), routes=tuple(routes))

    async def as_sent(
        self, route: Route, decision: Decision, reaches: Mapping[str, Reach]
    ) -> Route:
        """Return a route with all that would be changed on it.

        Raises Refused or RouteFailed where a request would not even be sent by it.
        """
        provider, reach = route.provider, reaches.get(route.provider.name)
        no_room = None if reach is None else await reach.why_no_room(route.model, self._prompt)
        if no_room is not None:
            raise RouteFailed(TOO_LONG, f"{route.model.name} {no_room}")
        check_attachments(decision.requirement, self._body.fields, route)
        stays = stays_here(decision.requirement, route, self._catalog)
        body = await self._pictures.shown_to(route, self._rules, stays=stays)
        names = ("images",) if self._pictures.replaces else ()
        translated = provider.needs_translation(self._endpoint.dialect)
        translate = translator(self._endpoint.path) if translated else None
        shims = shims_of(provider, CHAT if translated else self._endpoint)
        told = rendition(body, translate, shims, "", is_local=route.locality is Locality.LOCAL)
        return replace(route, shims=(*route.shims, *names, *told.shims))


def _body_of(fields: dict[str, Any], endpoint: Endpoint, limits: LimitSettings) -> JsonBody:
    """Return the body of a request with these fields; Refused where it would be refused."""
    if endpoint.form:
        return JsonBody(fields, fields)
    data = json.dumps(fields).encode()
    return decode(data, BodyLimits(len(data), limits.depth, limits.values))


def _told(decision: Decision) -> dict[str, Any]:
    error = decision.error
    return {
        "needs": list(decision.requirement.needs),
        "candidates": [
            {"model": each.model, "kept": each.kept, "why": each.why, "facts": dict(each.facts)}
            for each in decision.candidates
        ],
        "routes": [
            {
                "provider": route.provider.name,
                "model": route.model.id,
                "capability": route.capability,
                "locality": route.locality,
                "shims": list(route.shims),
                "enforce": route.enforce,
            }
            for route in decision.routes
        ],
        "error": None if error is None else _refusal(error),
    }


# What is told of a request that is refused before anything of it is decided.
_UNDECIDED: dict[str, Any] = {"needs": [], "candidates": [], "routes": [], "priority": None}


def _refusal(error: Refused) -> dict[str, str]:
    return {"code": error.code, "message": error.message}
