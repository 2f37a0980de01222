"""The routes under /admin. Each one calls the owner of what it shows or changes, and no more."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Literal, Protocol

import msgspec
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from backends.downloads import DownloadError, Downloads
from backends.process_manager import BackendUnavailable, ProcessManager
from router.admin.configuration import configuration_routes
from router.admin.event_stream import event_routes
from router.admin.explain import explain_routes
from router.admin.models import model_routes
from router.admin.providers import provider_routes
from router.admin.pulls import Pulls
from router.capabilities import Capability
from router.capability_map import AssignmentStore, CapabilityMap, VerdictStore
from router.configuration import Configuration
from router.discovery import Discovery
from router.egress import Egress
from router.errors import Refused, SignalboxError
from router.events import Bus, InFlight
from router.probes import Probes
from router.providers import Providers
from router.reach import Reach


class Stored(AssignmentStore, VerdictStore, Protocol):
    """All that the control plane stores."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Who owns what the control plane shows and changes."""

    capability_map: CapabilityMap
    store: Stored
    processes: ProcessManager
    downloads: Downloads
    pulls: Pulls
    in_flight: InFlight
    bus: Bus
    egress: Egress
    configuration: Configuration
    providers: Providers
    discovery: Discovery
    probes: Probes
    reaches: Mapping[str, Reach]


class Assignment(BaseModel):
    """The models of a capability, in order; an empty list means explicitly nobody."""

    model_config = ConfigDict(extra="forbid")
    models: list[str] = Field(max_length=64)


def control_plane(owners: Owners) -> FastAPI:
    """Return the control plane as an ASGI application."""
    app = FastAPI(
        title="Signalbox",
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # another spelling of a path is another path
        openapi_url="/admin/openapi.json",
    )
    app.include_router(_capabilities(owners))
    app.include_router(_backends(owners))
    app.include_router(_builtin_models(owners))
    app.include_router(model_routes(owners.capability_map, owners.probes, owners.store))
    app.include_router(
        explain_routes(
            owners.capability_map, owners.configuration, owners.discovery, owners.reaches
        )
    )
    app.include_router(_requests(owners.in_flight))
    app.include_router(event_routes(owners.bus))
    app.include_router(_egress(owners))
    app.include_router(provider_routes(owners.providers))
    app.include_router(configuration_routes(owners.configuration))
    app.add_exception_handler(SignalboxError, _signalbox_error)
    app.add_exception_handler(BackendUnavailable, _backend_error)
    app.add_exception_handler(DownloadError, _backend_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    return app


def _capabilities(owners: Owners) -> APIRouter:
    routes = APIRouter(prefix="/admin/capabilities", tags=["capabilities"])
    the_map = owners.capability_map
    goal = Query(default=None, description="answer once the process is so")

    @routes.get("")
    async def list_capabilities() -> dict[str, Any]:
        """Return the whole map."""
        return {"data": [asdict(row) for row in the_map.rows()]}

    @routes.get("/{capability}")
    async def show_capability(capability: str) -> dict[str, Any]:
        """Return one capability."""
        return asdict(the_map.row(_known(capability)))

    @routes.put("/{capability}")
    async def assign_capability(
        capability: str,
        assignment: Assignment,
        wait: Literal["ready", "gone"] | None = goal,
    ) -> dict[str, Any]:
        """Assign models to a capability in place of those it has."""
        known = _known(capability)
        await owners.discovery.confirm(assignment.models)
        await the_map.assign(known, tuple(assignment.models), owners.store)
        owners.discovery.look()
        if wait is not None:
            await the_map.settled(known, wait)
        return asdict(the_map.row(known))

    @routes.delete("/{capability}")
    async def reset_capability(
        capability: str, wait: Literal["ready", "gone"] | None = goal
    ) -> dict[str, Any]:
        """Forget the stored assignment: the configuration file counts again."""
        known = _known(capability)
        await the_map.reset(known, owners.store)
        if wait is not None:
            await the_map.settled(known, wait)
        return asdict(the_map.row(known))

    return routes


def _backends(owners: Owners) -> APIRouter:
    routes = APIRouter(prefix="/admin/backends", tags=["backends"])
    processes = owners.processes

    @routes.get("")
    async def list_backends() -> dict[str, Any]:
        """Return every local process and its state."""
        return {"data": [asdict(status) for status in processes.statuses()]}

    @routes.post("/{name}/restart")
    async def restart_backend(name: str) -> dict[str, Any]:
        """Stop a process and start it again, where the map lets it live."""
        _check_backend(processes, name)
        processes.restart(name)
        return asdict(processes.status(name))

    @routes.get("/{name}/logs")
    async def show_backend_log(name: str) -> dict[str, Any]:
        """Return the last lines that a process wrote."""
        _check_backend(processes, name)
        return {"data": processes.logs(name)}

    return routes


def _builtin_models(owners: Owners) -> APIRouter:
    routes = APIRouter(prefix="/admin/builtin/models", tags=["builtin models"])
    downloads, the_map = owners.downloads, owners.capability_map

    def _row(name: str) -> dict[str, Any]:
        rows = (asdict(status) for status in downloads.status())
        return next(row for row in rows if name in {row["id"], row["repo"]})

    @routes.get("")
    async def list_builtin_models() -> dict[str, Any]:
        """Return the builtin models and where each one stands."""
        return {"data": [asdict(status) for status in downloads.status()]}

    @routes.post("/{model}/download", status_code=202)
    async def download_model(model: str) -> dict[str, Any]:
        """Begin to fetch a model; its progress is told by the list."""
        downloads.check(model)
        row = _row(model)
        if row["state"] == "ready":
            # It may have come by another way, and the map has not looked.
            await the_map.models_changed()
            return row
        owners.pulls.begin(model)
        # It begins with the next turn of the loop.
        return {**row, "state": "downloading", "message": ""}

    @routes.delete("/{model}/download")
    async def cancel_download(model: str) -> dict[str, Any]:
        """Stop fetching a model."""
        await downloads.cancel(model)
        return _row(model)

    @routes.delete("/{model}")
    async def remove_model(model: str) -> dict[str, Any]:
        """Delete a model from the data folder; refused while a capability points at it."""
        bound = the_map.bound_to_builtin(model)
        if bound:
            raise Refused(
                "conflict",
                f"{model} is assigned to {', '.join(bound)}. "
                f"Take it from there first: signalbox capabilities unassign {bound[0]}",
            )
        removed = downloads.remove(model)
        await the_map.models_changed()
        return {"id": model, "removed": removed}

    return routes


def _requests(in_flight: InFlight) -> APIRouter:
    routes = APIRouter(tags=["requests"])

    @routes.get("/admin/requests")
    async def list_requests() -> dict[str, Any]:
        """Return the requests in flight: for whom each one waits, and for how long already."""
        now = time.monotonic()
        return {"data": [flight.row(now) for flight in in_flight]}

    @routes.delete("/admin/requests/{number}")
    async def cancel_request(number: int) -> dict[str, Any]:
        """End a request in flight: its client hears `request_cancelled`, its provider is left."""
        flight = in_flight.get(number)
        if flight is None or flight.stop is None:
            raise Refused("not_found", f"There is no request {number} in flight (any more).")
        row = flight.row(time.monotonic())
        flight.stop(
            Refused("request_cancelled", f"Request {number} was cancelled through /admin/requests.")
        )
        return row

    return routes


def _egress(owners: Owners) -> APIRouter:
    routes = APIRouter(tags=["egress"])

    @routes.get("/admin/egress")
    async def list_egress(since: date | None = None) -> dict[str, Any]:
        """Return what each provider got on each day (UTC): requests, bytes, tokens where told."""
        return {
            "data": [
                {
                    "day": day,
                    "provider": name,
                    "locality": locality,
                    **msgspec.structs.asdict(sent),
                }
                for day, name, locality, sent in owners.egress.rows(since)
            ]
        }

    return routes


def _known(capability: str) -> Capability:
    try:
        return Capability(capability)
    except ValueError:
        raise Refused(
            "not_found", f"There is no capability {capability!r}: {', '.join(Capability)}."
        ) from None


def _check_backend(processes: ProcessManager, name: str) -> None:
    names = [status.name for status in processes.statuses()]
    if name not in names:
        raise Refused("not_found", f"There is no backend {name!r}: {', '.join(names) or 'none'}.")


def _answer(error: SignalboxError) -> Response:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(error.body(), error.status, headers)


async def _signalbox_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, SignalboxError):
        raise error
    return _answer(error)


async def _backend_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, BackendUnavailable | DownloadError):
        raise error
    return _answer(SignalboxError(error.code, error.message))


# In the words that the configuration file's faults have.
_DUE = {"missing": "this key is missing", "extra_forbidden": "unknown key"}


async def _validation_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    due = _DUE.get(first["type"]) or first["msg"].removeprefix("Input ")
    return _answer(Refused("invalid_request", f"{place or 'body'}: {due}.", param=place))


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:  # noqa: PLR2004 HTTP
        answer = _answer(Refused("method_not_allowed", f"{request.method} is not possible here."))
        answer.headers.update(error.headers or {})
        return answer
    if error.status_code == 400:  # noqa: PLR2004 HTTP
        return _answer(Refused("invalid_json", "The body is not valid JSON."))
    return _answer(Refused("not_found", f"There is nothing at {request.scope['path'][:200]}."))


async def _defect(request: Request, _error: Exception) -> Response:
    """Answer for what was not foreseen; it is raised again behind this, and the guard logs it."""
    told = f"its log tells why ({request.state.request_id})"
    return _answer(SignalboxError("internal_error", f"The router failed on this request; {told}."))
