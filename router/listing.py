"""`GET /v1/models`: every name that a request may put into `model`, and what is known of it.

OpenAI's own fields stay as they are; beside them stands what the router knows without asking:

    architecture     {"input_modalities": […], "output_modalities": […]} as llama.cpp spells it;
                     null where nobody has said whether the model sees
    capabilities     by lever: true, false, or null for unknown
    context_length   tokens, or null
    locality         local, remote, or null as long as the provider has not said
    status           of a model of our own process: absent, or where the process stands; else null
    model            what serves, where the name is another one's

A client of Anthropic's protocol is told the same names in the shape of its own.

Wakes no backend.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from router.capabilities import Capability, Input
from router.catalog import AUTO, Catalog, Model, locality_of
from router.errors import Refused, Reply
from router.resolver import known_fact

_JSON_HEADERS = ((b"content-type", b"application/json"),)
_JSON = msgspec.json.Encoder()
# The protocol wants a date of creation for each model; what we list has none.
_CREATED = 0
# The levers of a chat, of which it is told too that nothing is known.
_CHAT = (Capability.VISION, Capability.TOOL_USE, Capability.STRUCTURED_OUTPUT, Capability.TEXT)
_UNKNOWN: Mapping[str, bool | None] = dict.fromkeys(map(str, _CHAT))
_VISION = str(Capability.VISION)
_LEVERS = tuple(map(str, Capability))
_INPUTS = frozenset(map(str, Input))
_MODALITIES = (("vision", "image"), ("audio", "audio"), ("file", "file"), ("video", "video"))
# A longer list is rendered beside the requests and not between them.
_AT_ONCE = 500
# What Anthropic's protocol has where nobody knows when a model was made.
_CREATED_AT = "1970-01-01T00:00:00Z"
Status = Callable[[Model], str | None]
_Row = dict[str, Any]


class Shape(NamedTuple):
    """How a protocol has one model, and the list of all."""

    model: Callable[[_Row], _Row]
    page: Callable[[list[_Row]], _Row]


class ModelList:
    """The list, rendered anew when the catalog, or where a process of ours stands, is another.

    `catalog` returns the snapshot of the moment, `status` where a model's process stands in it.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], status: Status, shape: Shape | None = None
    ) -> None:
        self._catalog = catalog
        self._status = status
        self._shape = shape or OPENAI
        self._key: tuple[Catalog, Mapping[str, str | None]] | None = None
        self._reply = Reply(200, _JSON_HEADERS, b"")

    def __repr__(self) -> str:
        return f"<ModelList {len(self._reply.body)} bytes>"

    async def all(self) -> Reply:
        """Return the list."""
        catalog = self._catalog()
        # Asked for now: while a long list is rendered, another map may come into force.
        statuses = {
            model.name: self._status(model) for model in catalog.models.values() if not model.listed
        }
        if self._key is None or self._key[0] is not catalog or self._key[1] != statuses:
            if len(catalog.models) > _AT_ONCE:
                self._reply = await asyncio.to_thread(_list, catalog, statuses, self._shape)
            else:
                self._reply = _list(catalog, statuses, self._shape)
            self._key = catalog, statuses
        return self._reply

    def one(self, name: str) -> Reply:
        """Return one model; Refused `model_not_found` when nothing has that name.

        A bare id, and any other name that is known, leads to its model.
        """
        catalog = self._catalog()
        row = _row(name, catalog, self._status)
        if row is None:
            raise Refused(
                "model_not_found",
                f"There is no model {name[:200]!r}. GET /v1/models lists what there is.",
                param="model",
            )
        return _reply(self._shape.model(row))


def _list(catalog: Catalog, statuses: Mapping[str, str | None], shape: Shape) -> Reply:
    """Render the list; what is merely listed has no process of ours."""
    rows = (_row(name, catalog, lambda model: statuses.get(model.name)) for name in _names(catalog))
    return _reply(shape.page([shape.model(row) for row in rows if row is not None]))


def _openai_list(rows: list[_Row]) -> _Row:
    return {"object": "list", "data": rows}


def _anthropic_model(row: _Row) -> _Row:
    """Return a row as Anthropic's API reference has a model; what is null is not known."""
    return {
        "type": "model",
        "id": row["id"],
        "display_name": row["id"],
        "created_at": _CREATED_AT,
        "lifecycle": "active",
        "max_input_tokens": row.get("context_length"),
        "max_tokens": None,
        "capabilities": None,
    }


def _anthropic_list(rows: list[_Row]) -> _Row:
    """Return all in one page: no client is made to ask twice, whatever its `limit`."""
    ends = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return {"data": rows, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


OPENAI: Final = Shape(dict, _openai_list)
ANTHROPIC: Final = Shape(_anthropic_model, _anthropic_list)


def _names(catalog: Catalog) -> Iterator[str]:
    bound = [str(capability) for capability in catalog.bindings if catalog.bound(capability)]
    if bound:
        yield AUTO
    yield from bound
    for alias in catalog.aliases:
        # A glob stands for many names and is none itself.
        if not any(mark in alias for mark in "*?["):
            yield alias
    yield from catalog.models


def _row(name: str, catalog: Catalog, status: Status) -> _Row | None:
    """Return what is known of one name; None where nothing has it."""
    model = catalog.models.get(name)
    if model is not None:
        return _of_model(name, model, catalog, status)
    alias = catalog.aliases.get(name)
    target = name if alias is None else alias.to
    if target == AUTO:
        bound = [capability for capability in catalog.bindings if catalog.bound(capability)]
        return _of_auto(name, bound) if bound else None
    if target in set(Capability):
        models = catalog.bound(Capability(target))
        model = models[0] if models else None
    else:
        model = catalog.models.get(target) or catalog.by_id(target)
    if model is not None:
        return _of_other(name, target, model, catalog, status)
    return _owned(name, "signalbox") if name in catalog.aliases else None


def _of_auto(name: str, bound: list[Capability]) -> _Row:
    """Return what can be done by need, whoever does it."""
    can = {**_UNKNOWN, **{str(capability): True for capability in bound}}
    return {
        **_owned(name, "signalbox"),
        "architecture": _architecture(can),
        "capabilities": can,
        "context_length": None,
        "locality": None,
        "status": None,
    }


def _of_other(name: str, target: str, model: Model, catalog: Catalog, status: Status) -> _Row:
    """Return the model that a capability, an alias or a bare id leads to, under that name."""
    is_ours = name in catalog.aliases or target in set(Capability)
    return {
        **_of_model(name, model, catalog, status),
        "owned_by": "signalbox" if is_ours else model.provider,
        "model": model.name,
    }


def _of_model(name: str, model: Model, catalog: Catalog, status: Status) -> _Row:
    can = {**_UNKNOWN, **{need: fact.value for need, fact in model.facts.items()}}
    # What is merely listed is assigned to nothing, and there may be tens of thousands of it.
    for need in () if model.listed else _LEVERS:
        fact = known_fact(model, need, catalog)
        if fact is not None:
            can[need] = fact.value
    return {
        **_owned(name, model.provider),
        "architecture": _architecture(can),
        "capabilities": {need: each for need, each in can.items() if need not in _INPUTS},
        "context_length": model.context_length,
        "locality": locality_of(catalog.providers[model.provider], model),
        "status": status(model),
    }


def _architecture(can: Mapping[str, bool | None]) -> dict[str, list[str]] | None:
    if can.get(_VISION) is None:
        return None
    takes = ["text", *(word for need, word in _MODALITIES if can.get(need))]
    return {"input_modalities": takes, "output_modalities": ["text"]}


def _owned(name: str, owner: str) -> _Row:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}


def _reply(content: _Row) -> Reply:
    return Reply(200, _JSON_HEADERS, _JSON.encode(content))
