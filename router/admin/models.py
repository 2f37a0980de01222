"""The routes of models: what is known of each one, on whose word, and since when."""

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from router.capabilities import Capability, Input
from router.capability_map import CapabilityMap, VerdictStore
from router.catalog import Catalog, Fact, Model, Source, locality_of
from router.learned import Learned
from router.probes import Probes
from router.resolver import known_fact
from router.snapshot import Ground
from router.trial import TRIABLE

_NEEDS = (*Capability, *Input)


class Probe(BaseModel):
    """A model to be tried out; `allow_remote` lets the trial leave this machine."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(max_length=1024)
    capabilities: list[Capability] = Field(default=list(TRIABLE), max_length=16)
    allow_remote: bool = False


def model_routes(the_map: CapabilityMap, probes: Probes, store: VerdictStore) -> APIRouter:
    """Return the routes under /admin/models."""
    routes = APIRouter(prefix="/admin/models", tags=["models"])

    @routes.get("")
    async def list_models() -> Response:
        """Return every model that is known: its facts, who says each one, and when."""
        # There may be tens of thousands, and requests beside them.
        body = await asyncio.to_thread(_encoded, the_map)
        return Response(body, media_type="application/json")

    @routes.post("/probe")
    async def probe_model(wanted: Probe) -> dict[str, Any]:
        """Try out what a model can do: true, false, or null for unknown, and why."""
        verdicts = await probes.probe(
            wanted.model, wanted.capabilities, store, allow_remote=wanted.allow_remote
        )
        told = {need: asdict(verdict) for need, verdict in verdicts.items()}
        return {"model": wanted.model, "verdicts": told}

    @routes.delete("/facts")
    async def forget_facts(model: str) -> dict[str, Any]:
        """Forget what probes have shown of a model, by any name that it was tried out under."""
        known = the_map.catalog.model(model) or the_map.catalog.by_id(model)
        verdicts = the_map.learned.verdicts
        # What is here no more has its whole name alone.
        name = model if model in verdicts or known is None else known.name
        forgotten = list(verdicts.get(name, ()))
        await the_map.forget(name, store)
        return {"model": name, "forgotten": forgotten}

    return routes


def _encoded(the_map: CapabilityMap) -> bytes:
    catalog, learned = the_map.catalog, the_map.learned
    rows = [model_row(model, catalog, learned, the_map) for model in catalog.models.values()]
    return msgspec.json.encode({"data": rows, "notices": _notices(the_map.ground)})


def _notices(ground: Ground) -> list[str]:
    """Return why less is known than could be."""
    if ground.no_table is None:
        return []
    clouds = [name for name, provider in ground.providers.items() if provider.cloud is not None]
    of = f"What LiteLLM's table says of the models of {', '.join(clouds)}"
    return [f"{of} is not known: {ground.no_table}."]


def model_row(
    model: Model, catalog: Catalog, learned: Learned, the_map: CapabilityMap
) -> dict[str, Any]:
    """Return one model as a person sees it."""
    listing = learned.listings.get(model.provider)
    listed_at = None if listing is None or model.name not in listing.models else listing.date
    facts = {str(need): known_fact(model, need, catalog) for need in _NEEDS}
    told = {need: _told(fact, listed_at) for need, fact in facts.items() if fact is not None}
    # What a probe did not settle is worth knowing too, where nobody else has said anything.
    for need, verdict in learned.verdicts.get(model.name, {}).items():
        told.setdefault(need, {**asdict(verdict), "source": str(Source.PROBE)})
    return {
        "model": model.name,
        "provider": model.provider,
        "id": model.id,
        "locality": locality_of(catalog.providers[model.provider], model),
        "status": the_map.status(model),
        "context_length": model.context_length,
        "assigned": [str(each) for each in catalog.bindings if catalog.is_assigned(model, each)],
        "listed_at": listed_at,
        "facts": told,
    }


def _told(fact: Fact, listed_at: str | None) -> dict[str, Any]:
    date = listed_at if fact.source is Source.PROVIDER else fact.date
    return {"value": fact.value, "source": str(fact.source), "date": date, "why": fact.why}
