"""Explaining a decision: the same functions decide that decide for a request."""

from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from router.capability_map import CapabilityMap
from router.catalog import Catalog
from router.classification.pictures import Reference, references
from router.configuration import Configuration
from router.discovery import Discovery
from router.endpoints import CHAT, ENDPOINTS
from router.errors import LocalityUnknown, Refused, RouteFailed, SignalboxError
from router.images.rules import Rules
from router.images.way import stays_here, ways
from router.reach import Reach
from router.request import priority_of
from router.resolver import Decision, Route, decide, without
from router.room import Prompt, without_room


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
    routes = APIRouter(tags=["explain"])

    @routes.post("/admin/explain")
    async def explain(question: Question, request: Request) -> dict[str, Any]:
        """Return how a request would be routed, and why, without calling a model."""
        endpoint = ENDPOINTS.get(question.path)
        if endpoint is None:
            raise Refused(
                "invalid_request", f"path must be one of {', '.join(ENDPOINTS)}.", param="path"
            )
        wish, fields = question.priority, question.body
        try:
            requirement = endpoint.requirement(
                fields,
                max_images=configuration.settings.limits.images,
                local_only=question.local_only,
            )
            catalog = the_map.catalog
            decision = decide(requirement, catalog)
            if isinstance(decision.error, LocalityUnknown):
                # As a request does.
                await discovery.settle(decision.error.providers)
                catalog = the_map.catalog
                decision = decide(requirement, catalog)
            prompt = Prompt(endpoint, fields)
            reasons = {
                route.model.name: why
                for route in decision.routes
                if (why := await _why_no_room(reaches, route, prompt)) is not None
            }
            decision = without_room(decision, reasons)
            rules = Rules.of(configuration.settings)
            shown = references(endpoint.dialect, fields)
            decision, shims = _as_shown(decision, shown, rules, catalog)
            if decision.error is not None:
                return {**_told(decision, shims), "priority": None}
            alias = catalog.alias(requirement.model)
            urgency = priority_of(
                None if wish is None else str(wish),
                fields,
                (alias and alias.priority) or configuration.settings.default_priority,
                request.state.caller,
            )
        except Refused as refusal:
            return {**_UNDECIDED, "error": _refusal(refusal)}
        return {**_told(decision, shims), "priority": urgency.name.lower()}

    return routes


async def _why_no_room(reaches: Mapping[str, Reach], route: Route, prompt: Prompt) -> str | None:
    reach = reaches.get(route.provider.name)
    return None if reach is None else await reach.why_no_room(route.model, prompt)


def _as_shown(
    decision: Decision, shown: Collection[Reference], rules: Rules, catalog: Catalog
) -> tuple[Decision, Collection[str]]:
    """Return a decision less the routes that may not show these pictures.

    And the models that get other ones than were sent. None is fetched or read for it.
    """
    errors: dict[str, SignalboxError] = {}
    shims = set()
    for route in decision.routes if shown else ():
        stays = stays_here(decision.requirement, route, catalog)
        try:
            if any(way.changes for _, way in ways(shown, route, rules, stays=stays)):
                shims.add(route.model.name)
        except (Refused, RouteFailed) as error:
            errors[route.model.name] = error
    if not errors:
        return decision, shims
    first = next(iter(errors.values()))
    reasons = {model: error.message for model, error in errors.items()}
    return without(decision, reasons, Refused(first.code, first.message)), shims


def _told(decision: Decision, shims: Collection[str]) -> dict[str, Any]:
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
                "shims": [*route.shims, *(["images"] if route.model.name in shims else ())],
            }
            for route in decision.routes
        ],
        "error": None if error is None else _refusal(error),
    }


# What is told of a request that is refused before anything of it is decided.
_UNDECIDED: dict[str, Any] = {"needs": [], "candidates": [], "routes": [], "priority": None}


def _refusal(error: Refused) -> dict[str, str]:
    return {"code": error.code, "message": error.message}
