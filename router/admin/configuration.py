"""The routes of the configuration: reading it again, and how it stands."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from router.configuration import Configuration
from router.errors import Refused
from router.settings import SettingsError


def configuration_routes(configuration: Configuration) -> APIRouter:
    """Return the routes of the configuration."""
    routes = APIRouter(tags=["configuration"])

    @routes.post("/admin/reload")
    async def reload() -> dict[str, Any]:
        """Read the configuration file and the keys that it names again, and tell what changed."""
        try:
            return asdict(await configuration.reload())
        except SettingsError as error:
            told = f"Nothing was changed. {error}"
            raise Refused("invalid_configuration", told) from error

    @routes.get("/admin/status")
    async def status() -> dict[str, Any]:
        """Return which file is in force, and where the file of today differs from it and why."""
        return {
            "source": str(configuration.settings.source),
            "faults": list(configuration.faults),
            "needs_restart": list(configuration.needs_restart),
            "notices": list(configuration.settings.notices),
        }

    return routes
