"""What stays the same for all requests that need the same: worked out once, not for each."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec

from backends.wire import PRIORITY, REQUEST_ID, Priority
from router.capabilities import Requirement
from router.catalog import Catalog, Kind, Locality, locality_of
from router.dialects import translator
from router.dialects.translation import Translate, Translation
from router.endpoints import CHAT, ENDPOINTS, Answers, Endpoint
from router.errors import LocalityUnknown, Refused, RouteFailed
from router.reach import Reach
from router.resolver import Route, resolve
from router.upstream import FixedHeaders

# Clients name few models in few ways; who names a new one each time makes us forget and begin anew.
_MAX_KNOWN = 512
Ask = Callable[[Collection[str]], Awaitable[None]]
_REQUEST_ID = REQUEST_ID.encode()
_PRIORITY = PRIORITY.encode()


async def _nobody(_providers: Collection[str]) -> None:
    """Ask nobody."""


class Plan(msgspec.Struct, frozen=True):
    """A route, how its provider is reached, and the headers that are known before the request is.

    `told` goes to the client, `sent` to the provider, who is asked at `url` by its endpoint
    `asked`: where that is not the client's own `endpoint`, `translate` puts one as the other.
    `locality` is where the prompt ends up; None where the provider has not said. `priority` is
    that of the alias by which the client named the model. One that `yields` goes behind the others
    while its process starts; one that `asks_usage` has its provider tell the tokens of a stream.
    `catalog` is what it was made by.
    """

    catalog: Catalog
    route: Route
    reach: Reach
    told: FixedHeaders
    sent: FixedHeaders
    url: str
    locality: Locality | None
    endpoint: Endpoint = CHAT
    asked: Endpoint = CHAT
    translate: Translate | None = None
    priority: Priority | None = None
    yields: bool = False
    asks_usage: bool = False

    def own(self, request_id: bytes, priority: Priority) -> FixedHeaders:
        """Return the headers of one request to the provider: nothing of the client's but its id."""
        provider = self.route.provider
        if provider.kind is Kind.BUILTIN:
            return ((_REQUEST_ID, request_id), (_PRIORITY, b"%d" % priority))
        # Nothing by which requests could be linked goes to anybody else.
        return ((_REQUEST_ID, request_id),) if self.locality is Locality.LOCAL else ()


class Plans:
    """The plans for every requirement, remembered as long as the catalog is the same.

    `catalog` returns the snapshot of the moment; `reaches` holds every provider by its name; `ask`
    asks providers where their models' prompts end up, and returns after a moment in any case.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], reaches: Mapping[str, Reach], ask: Ask = _nobody
    ) -> None:
        self._catalog_now = catalog
        self._reaches = reaches
        self._ask = ask
        self._catalog: Catalog | None = None
        self._known: dict[Requirement, tuple[Plan, ...]] = {}

    def __repr__(self) -> str:
        return f"<Plans known={len(self._known)}>"

    async def settle(self, requirement: Requirement) -> tuple[Plan, ...]:
        """Return the plans as `plan` does; whether a model is local is asked where that decides."""
        try:
            return self.plan(requirement)
        except LocalityUnknown as unknown:
            await self._ask(unknown.providers)
        return self.plan(requirement)

    def plan(self, requirement: Requirement) -> tuple[Plan, ...]:
        """Return the plans to try, in order; never an empty tuple.

        Raises Refused with the code that says why no route can serve the requirement.
        """
        catalog = self._catalog_now()
        if catalog is not self._catalog:
            self._catalog = catalog
            self._known = {}
        plans = self._known.get(requirement)
        if plans is None:
            routes = resolve(requirement, catalog)
            alias = catalog.alias(requirement.model)
            usual = None if alias is None else alias.priority
            plans = tuple([self._plan(route, requirement, catalog, usual) for route in routes])
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[requirement] = plans
        return plans

    def _plan(
        self, route: Route, requirement: Requirement, catalog: Catalog, priority: Priority | None
    ) -> Plan:
        endpoint = ENDPOINTS[requirement.path]
        translate = None
        if route.provider.needs_translation(requirement.dialect):
            translate = translator(requirement.path)
        asked = endpoint if translate is None else CHAT
        return Plan(
            catalog,
            route,
            self._reaches[route.provider.name],
            _told(route, requirement),
            _sent(route, requirement, asked),
            route.provider.base_url + asked.target,
            route.locality,
            endpoint,
            asked,
            translate,
            priority,
            yields=_yields(route, catalog),
            asks_usage=route.provider.asks_usage or translate is not None,
        )

    def of_now(self, plan: Plan, requirement: Requirement) -> Plan:
        """Return the plan that leads to the same model by the catalog of the moment.

        Raises RouteFailed where it does not lead there any more.
        """
        if plan.catalog is self._catalog_now():
            return plan
        name = plan.route.model.name
        try:
            plans = self.plan(requirement)
        except Refused as error:
            raise RouteFailed(error.code, error.message) from error
        for each in plans:
            if each.route.model.name == name:
                return each
        raise _changed(name)

    def check_leaving(self, plan: Plan, requirement: Requirement) -> Plan:
        """Check once more, after a wait, that the request may go to where it leaves the machine.

        Return the plan by which it may. Raises RouteFailed where what was so when it came is not so
        any more.
        """
        now = self._catalog_now()
        if plan.catalog is now:
            return plan
        route, was = plan.route, plan.locality
        provider = now.providers.get(route.provider.name, route.provider)
        model = now.models.get(route.model.name, route.model)
        if {was, locality_of(provider, model)} == {Locality.LOCAL}:
            return plan
        current = self.of_now(plan, requirement)
        if was is Locality.REMOTE and current.locality is not Locality.REMOTE:
            # It is allowed to go to where that name leads now, and would go to where it led.
            raise _changed(route.model.name)
        return current


def _changed(name: str) -> RouteFailed:
    return RouteFailed(
        "provider_unavailable",
        f"{name} does not serve this any more: the configuration has changed. Ask again.",
    )


def as_chat(translate: Translate, fields: Mapping[str, Any], request_id: str) -> Translation:
    """Return a request as a chat completion, for a provider that has not the client's dialect.

    Raises RouteFailed for what none can say: the next provider may have the dialect itself.
    """
    try:
        return translate(fields, request_id=request_id, now=int(time.time()))
    except Refused as error:
        raise RouteFailed(error.code, error.message, param=error.param, quotes=True) from None


def _yields(route: Route, catalog: Catalog) -> bool:
    binding = catalog.bindings.get(route.capability)
    return route.provider.kind is Kind.BUILTIN and bool(binding and binding.next_while_starting)


def _told(route: Route, requirement: Requirement) -> FixedHeaders:
    """Return the headers that tell the client who answers, and on whose word."""
    served = route.capability
    needs = (need for need in requirement.needs if need != served)
    told = {
        "provider": route.provider.name,
        "model": route.model.id,
        "capability": ",".join((served, *needs)),
        "reason": route.reason,
    }
    return tuple(
        (b"x-signalbox-" + name.encode(), value.encode("ascii", "replace"))
        for name, value in told.items()
    )


def _sent(route: Route, requirement: Requirement, endpoint: Endpoint) -> FixedHeaders:
    """Return the headers that the provider gets with every such request."""
    provider = route.provider
    whole = b"application/json" if endpoint.answers is Answers.JSON else b"*/*"
    headers = [
        (b"accept", b"text/event-stream" if requirement.stream else whole),
        (b"accept-encoding", b"identity"),
        *provider.own_headers(),
    ]
    if not endpoint.form:
        # A form's has a boundary of its own.
        headers.append((b"content-type", b"application/json"))
    return tuple(headers)
