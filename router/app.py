"""The composition root: settings in, one running router out."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import uvloop

from backends.downloads import Downloads
from backends.process_manager import ProcessManager
from backends.wire import BackendEvent
from router import collector
from router.admission import Admission
from router.body import BodyLimits, Buffered
from router.capability_map import CapabilityMap
from router.catalog import Catalog, Kind, Provider
from router.data_folder import DataFolder, DataFolderError
from router.deadline import Deadlines, Sweeper
from router.descriptors import places_for_clients, raise_limit
from router.discovery import Discovery
from router.events import InFlight
from router.guard import App, Guard, Policy
from router.http1 import Rules
from router.launch import builtin_python, has_mlx, model_folders, process_specs
from router.learned import Learned
from router.overrides import StoreError, read_overrides
from router.plan import Plans
from router.planes import ControlPlane, Planes
from router.proxy import Proxy, ProxyLimits
from router.reach import Reach
from router.server import BindError, Server, bind, stopped_by_signals
from router.settings import (
    AccessKeys,
    Settings,
    SettingsError,
    access_keys,
    environment,
    refuse_unbuilt,
)
from router.settings.values import own_names
from router.snapshot import survey
from router.stored_verdicts import read_verdicts
from router.upstream import Upstream
from router.upstream.plain import PlainUpstream
from router.upstream.trust import CaFileError

log = logging.getLogger(__name__)
_KB = 1_000
_MB = 1_000_000
Announce = Callable[[CapabilityMap, int], None]


def serve(settings: Settings, announce: Announce) -> int:
    """Run the router until it is told to stop; return the exit code.

    It is 2 where the configuration has to change, 1 where something else is in the way. `announce`
    is called once, when requests find us, with the map and the port. Nothing is started, no process
    least of all, before the data folder is ours and the address is bound.
    """
    logging.basicConfig(
        level=settings.log.level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # uvicorn's own words at start and stop say nothing that ours do not.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    for notice in settings.notices:
        log.warning("%s", notice)
    places = places_for_clients(raise_limit())
    try:
        exit_code: int = uvloop.run(_serve(settings, announce, places))
    except SettingsError as error:
        sys.stderr.write(f"signalbox: {error}\n")
        return 2
    except (DataFolderError, BindError, StoreError) as error:
        sys.stderr.write(f"signalbox: {error}\n")
        return 1
    finally:
        _let_go_of_terminal()
    return exit_code


async def _serve(settings: Settings, announce: Announce, places: int) -> int:
    refusals = refuse_unbuilt(settings)
    if refusals:
        raise SettingsError(refusals)
    environ = environment()
    keys = access_keys(settings, environ)
    with DataFolder(settings.data_folder) as folder:
        listener = bind(settings.server.host, settings.server.port)
        with listener:
            async with Router(settings, environ, folder, keys) as router:
                server = router.server(places)
                with stopped_by_signals(server):
                    announce(router.capability_map, listener.getsockname()[1])
                    collector.spare()
                    await server.serve(sockets=[listener])
                    ended = await server.unless_hurried(router.aclose())
                    log.info("stopped" if ended else "stopped; children end by their guardians")
    return 0


class Router:
    """Everything of one running router; an async context manager.

    Entering starts what the map wants; leaving stops it again, the processes last.
    """

    app: Guard
    capability_map: CapabilityMap

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], folder: DataFolder, keys: AccessKeys
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._folder = folder
        self._keys = keys
        self._resources = AsyncExitStack()
        self.in_flight = InFlight()

    async def __aenter__(self) -> Self:
        """Build the graph and start what the map wants; a failure leaves nothing behind."""
        try:
            await self._build()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    def server(self, places: int) -> Server:
        """Return the HTTP server for this router, for so many clients; it is not running yet."""
        timeouts = self._settings.timeouts
        rules = Rules(
            header_s=timeouts.header_s,
            body_s=timeouts.body_s,
            send_stall_s=timeouts.send_stall_s,
            header_bytes=self._settings.limits.header_kb * _KB,
        )
        return Server(self.app, timeouts.drain_s, places, rules, self.sweeper)

    async def _build(self) -> None:
        self.sweeper = Sweeper()
        settings, environ, enter = self._settings, self._environ, self._resources
        token = secrets.token_urlsafe(32)
        ground = survey(
            settings,
            environ,
            model_folders(settings, environ, self._folder),
            builtin_token=token,
            has_mlx=has_mlx(settings),
        )
        overrides = read_overrides(self._folder.database)
        learned = Learned(verdicts=read_verdicts(self._folder.database))
        processes = ProcessManager(
            process_specs(ground, environ, self._folder, token),
            run_dir=self._folder.run,
            emit=_tell,
        )
        await enter.enter_async_context(processes)
        self.capability_map = CapabilityMap(ground, overrides, processes, learned)
        self.downloads = Downloads(
            self._folder.models,
            emit=lambda event: log.info("%s: %s", event.model, event.message),
            environment=environ,
            python=builtin_python(settings),
            folders=ground.folders,
        )
        enter.push_async_callback(self.downloads.aclose)
        self.reaches: dict[str, Reach] = {}
        for name, provider in ground.providers.items():
            self.reaches[name] = reach = _reach(provider, settings)
            enter.push_async_callback(reach.upstream.aclose)
        self.processes = processes
        self.discovery = Discovery(self.capability_map, self.reaches)
        enter.push_async_callback(self.discovery.aclose)
        self.app = self._application()
        self.capability_map.reconcile()
        self.discovery.begin()

    def _application(self) -> Guard:
        settings = self._settings
        self.buffered = buffered = Buffered(settings.limits.buffered_mb * _MB)
        proxy = self._proxy(lambda: self.capability_map.catalog)
        hosts = own_names(settings.server.host).union(settings.server.allowed_hosts)
        policy = Policy(
            allowed_hosts=hosts,
            allowed_origins=frozenset(settings.server.allowed_origins),
            api_keys=self._keys.api_keys,
            admin_key=self._keys.admin_key,
            body_bytes=settings.limits.body_mb * _MB,
        )
        self.control = control = ControlPlane(self._load_control, policy.body_bytes, buffered)
        self.planes = planes = Planes(proxy, self.capability_map, control)
        return Guard(planes, policy, planes.methods)

    def _proxy(self, catalog: Callable[[], Catalog]) -> Proxy:
        """Return the request path by this catalog; all else is shared with every other one."""
        settings = self._settings
        return Proxy(
            plans=Plans(catalog, self.reaches, self.discovery.settle),
            processes=self.processes,
            in_flight=self.in_flight,
            buffered=self.buffered,
            limits=ProxyLimits(
                body=BodyLimits(
                    settings.limits.body_mb * _MB, settings.limits.depth, settings.limits.values
                ),
                response_bytes=settings.limits.response_mb * _MB,
                further_attempts=settings.retry.attempts,
                default_priority=settings.default_priority,
            ),
            sweeper=self.sweeper,
        )

    def _load_control(self) -> App:
        """Import the control plane, which takes longer than all else together, and build it."""
        from router.admin.api import Owners, control_plane  # noqa: PLC0415 on first use only
        from router.admin.pulls import Pulls  # noqa: PLC0415 likewise
        from router.probes import Probes  # noqa: PLC0415 likewise
        from router.store import Store  # noqa: PLC0415 likewise

        # A hundred thousand objects came with these, and they stay.
        collector.spare()
        self.discovery.attend()
        store = Store(self._folder.database)
        self._resources.callback(store.close)
        pulls = Pulls(self.downloads, self.capability_map)
        self._resources.push_async_callback(pulls.aclose)
        return control_plane(
            Owners(
                self.capability_map,
                store,
                self.processes,
                self.downloads,
                pulls,
                self.in_flight,
                self.discovery,
                Probes(
                    self.capability_map,
                    lambda catalog: self._proxy(catalog).chat_completions,
                    self.discovery.settle,
                ),
            )
        )

    async def aclose(self) -> None:
        """Stop everything, the processes last; harmless when it was done before."""
        await self._resources.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything."""
        await self.aclose()


def _let_go_of_terminal() -> None:
    """Drop what a closed terminal was not told: flushing it at exit would spoil the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _tell(event: BackendEvent) -> None:
    # "ready after 1.8 s" says its state by itself, "wanted by the map" does not.
    told = event.message.startswith(event.state)
    log.info("%s: %s", event.name, event.message if told else f"{event.state}, {event.message}")


def _reach(provider: Provider, settings: Settings) -> Reach:
    """Return how a provider is reached, by its own deadlines where it has some."""
    own, common = settings.providers[provider.name].timeouts, settings.timeouts
    upstream = _upstream(provider, settings, own.connect_s or common.connect_s)
    deadlines = Deadlines(
        first_byte_s=own.first_byte_s or common.first_byte_s,
        idle_s=own.idle_s or common.idle_s,
        total_s=own.total_s or common.total_s,
    )
    if provider.kind is Kind.BUILTIN:
        return Reach(upstream, deadlines, process=provider.name)
    lane = settings.lane(provider.name)
    admission = Admission(provider.name, lane.concurrency, lane.queue, common.queue_s)
    return Reach(upstream, deadlines, admission)


def _upstream(provider: Provider, settings: Settings, connect_s: float) -> Upstream:
    """Return the client for a provider: our own for plain HTTP, aiohttp's for TLS and proxies.

    Raises SettingsError when the provider's certificate authority cannot be used.
    """
    told = settings.providers[provider.name]
    if provider.base_url.startswith("http://") and told.proxy is None:
        # A child may be killed at any moment: no connection to it outlives a request.
        ours = provider.kind is Kind.BUILTIN
        return PlainUpstream(provider.name, connect_s=connect_s, keep_alive=not ours)
    # aiohttp is a quarter of the start: only those who need it wait for it.
    from router.upstream.tls import AiohttpUpstream  # noqa: PLC0415 see above

    try:
        return AiohttpUpstream(provider.name, connect_s, proxy=told.proxy, ca_file=told.ca_file)
    except CaFileError as error:
        place = f"{settings.source}: providers.{provider.name}.ca_file"
        raise SettingsError([f"{place}: {error}"]) from error
