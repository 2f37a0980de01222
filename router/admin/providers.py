"""The routes of providers: what there is, and changing what was added at run time."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from router.errors import Refused
from router.providers import Providers


def provider_routes(providers: Providers) -> APIRouter:
    """Return the routes under /admin/providers."""
    routes = APIRouter(prefix="/admin/providers", tags=["providers"])

    @routes.get("")
    async def list_providers() -> dict[str, Any]:
        """Return every provider, the file's and the stored ones."""
        return {"data": [asdict(row) for row in providers.rows()]}

    @routes.post("", status_code=201)
    async def add_provider(told: dict[str, Any]) -> dict[str, Any]:
        """Add a provider: `name`, and the keys that router.yaml has for one."""
        name = told.pop("name", None)
        if not isinstance(name, str):
            raise Refused("invalid_request", "name: a name is due here.", param="name")
        return asdict(await providers.add(name, told))

    @routes.get("/{name}")
    async def show_provider(name: str) -> dict[str, Any]:
        """Return one provider."""
        return asdict(providers.row(name))

    @routes.patch("/{name}")
    async def edit_provider(name: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Change the keys that are given; null stands for the default."""
        return asdict(await providers.edit(name, changes))

    @routes.delete("/{name}")
    async def remove_provider(name: str) -> dict[str, Any]:
        """Remove a stored provider and its key."""
        dangling = await providers.remove(name)
        return {"name": name, "removed": True, "still_named_by": dangling}

    @routes.post("/{name}/test")
    async def test_provider(name: str) -> dict[str, Any]:
        """Ask a provider for its models, and say what came of it."""
        return asdict(await providers.test(name))

    return routes
