"""`GET /v1/models`: every name that a request may put into `model`. Wakes no backend."""

import json
from collections.abc import Iterator
from typing import Any

from router.catalog import AUTO, Catalog
from router.errors import Refused, Reply

_JSON_HEADERS = ((b"content-type", b"application/json"),)
# The protocol wants a date of creation for each model; what we list has none.
_CREATED = 0


def list_models(catalog: Catalog) -> Reply:
    """Return the list in OpenAI's shape."""
    return _reply({"object": "list", "data": list(_rows(catalog))})


def one_model(catalog: Catalog, name: str) -> Reply:
    """Return one model in OpenAI's shape; Refused `model_not_found` when nothing has that name."""
    for row in _rows(catalog):
        if row["id"] == name:
            return _reply(row)
    raise Refused(
        "model_not_found",
        f"There is no model {name[:200]!r}. GET /v1/models lists what there is.",
        param="model",
    )


def _rows(catalog: Catalog) -> Iterator[dict[str, Any]]:
    bound = [capability for capability in catalog.bindings if catalog.bound(capability)]
    if bound:
        yield _row(AUTO, "signalbox")
    for capability in bound:
        yield _row(str(capability), "signalbox")
    for alias in catalog.aliases:
        # A glob stands for many names and is none itself.
        if not any(mark in alias for mark in "*?["):
            yield _row(alias, "signalbox")
    for model in catalog.models.values():
        yield _row(model.name, model.provider)


def _row(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}


def _reply(content: dict[str, Any]) -> Reply:
    return Reply(200, _JSON_HEADERS, json.dumps(content).encode())
