"""The composition root: settings in, one running router out."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import Self

import uvloop

from backends.downloads import Downloads
from backends.process_manager import ProcessManager, ProcessSpec
from backends.wire import NEWS_NAMES, BackendEvent, DownloadEvent, ProcessEvent
from router import collector
from router.body import BodyLimits, Buffered
from router.capability_map import CapabilityMap, MapRow
from router.catalog import Catalog
from router.configuration import Configuration
from router.data_folder import DataFolder, DataFolderError
from router.deadline import Sweeper
from router.descriptors import places_for_clients, raise_limit
from router.discovery import Discovery
from router.egress import Egress
from router.egress_ledger import EgressLedger
from router.endpoints import CHAT
from router.events import Bus, InFlight
from router.guard import App, Guard, Policy
from router.hangup import reloaded_by_hangup
from router.http1 import Rules
from router.images.network import Network
from router.images.rules import Rules as PictureRules
from router.images.sources import SYSTEM, Sources
from router.launch import builtin_python, has_mlx, model_folders, process_specs
from router.learned import Learned
from router.litellm_package import Installed
from router.overrides import StoreError, read_overrides
from router.plan import Plans
from router.planes import ControlPlane, Planes
from router.proxy import Proxy, ProxyLimits, Tallies
from router.reaches import Reaches
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
from router.snapshot import Ground, survey, tariff_of
from router.stored_providers import read_stored_providers
from router.stored_verdicts import read_verdicts
from router.watch import FileWatch

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
                with stopped_by_signals(server), reloaded_by_hangup(router.watch, server.stop):
                    announce(router.capability_map, listener.getsockname()[1])
                    collector.spare()
                    await server.serve(sockets=[listener])
                    ended = await server.unless_hurried(router.aclose())
                    log.info("stopped" if ended else "stopped; children end by their guardians")
    return 0


class Router:
    """Everything of one running router; an async context manager.

    Entering starts what the map wants; leaving stops it again, the processes last. Every `watch_s`
    seconds it looks whether the configuration file is another. Pictures are fetched from `network`.
    """

    app: Guard
    capability_map: CapabilityMap

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        folder: DataFolder,
        keys: AccessKeys,
        *,
        watch_s: float = 1.0,
        network: Network = SYSTEM,
    ) -> None:
        self._settings = settings
        self._sources = Sources(network)
        self._environ = environ
        self._folder = folder
        self._keys = keys
        self._watch_s = watch_s
        self._server: Server | None = None
        self._resources = AsyncExitStack()
        self.bus = Bus()
        self.in_flight = InFlight(self.bus)
        self.egress = Egress(tariff_of(settings))
        self._litellm = Installed()

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
        rules = _rules(self._settings)
        # Readers of events would never be done by themselves.
        self._server = Server(
            self.app, timeouts.drain_s, places, rules, self.sweeper, self.bus.close
        )
        return self._server

    async def _build(self) -> None:
        self.sweeper = Sweeper()
        settings, environ, enter = self._settings, self._environ, self._resources
        token = secrets.token_urlsafe(32)
        overrides = read_overrides(self._folder.database)
        ledger = EgressLedger(self.egress, self._folder.egress)
        await enter.enter_async_context(ledger)
        stored = read_stored_providers(self._folder.database)
        reaches = Reaches()
        enter.push_async_callback(reaches.aclose)
        self.reaches = reaches.by_name
        self.configuration = Configuration(settings, stored, partial(self._survey, token), reaches)
        ground = await self.configuration.begin()
        learned = Learned(verdicts=read_verdicts(self._folder.database))
        processes = ProcessManager(
            self._specs(ground, token),
            run_dir=self._folder.run,
            emit=self._tell_process,
        )
        await enter.enter_async_context(processes)
        self.capability_map = CapabilityMap(
            ground, overrides, processes, learned, tell=self._tell_capability
        )
        self.downloads = Downloads(
            self._folder.models,
            emit=self._tell_download,
            environment=environ,
            python=builtin_python(settings),
            folders=ground.folders,
        )
        enter.push_async_callback(self.downloads.aclose)
        self.processes = processes
        self.discovery = Discovery(self.capability_map, self.reaches)
        enter.push_async_callback(self.discovery.aclose)
        self.app = self._application()
        self.configuration.follow(self.capability_map, partial(self._renew, token))
        self.capability_map.reconcile()
        self.discovery.begin()
        self.watch = FileWatch(self.configuration, self._watch_s)
        enter.push_async_callback(self.watch.aclose)
        self.watch.begin()

    def _survey(self, token: str, settings: Settings) -> Ground:
        folders = model_folders(settings, self._environ, self._folder)
        return survey(
            settings,
            self._environ,
            folders,
            builtin_token=token,
            has_mlx=has_mlx(settings),
            litellm=self._litellm,
        )

    def _specs(self, ground: Ground, token: str) -> list[ProcessSpec]:
        return process_specs(ground, self._environ, self._folder, token)

    def _renew(self, token: str, ground: Ground) -> None:
        """Give all that was made from settings the new ones; nothing waits here."""
        before, self._settings = self._settings, ground.settings
        settings = self._settings
        body_bytes = settings.limits.body_mb * _MB
        self._proxy.limits = _limits(settings)
        self.egress.tariff = tariff_of(settings)
        self.app.body_bytes = self.control.size = body_bytes
        self.buffered.limit = settings.limits.buffered_mb * _MB
        self.downloads.folders = ground.folders
        self.downloads.python = builtin_python(settings)
        self.processes.renew(self._specs(ground, token))
        if self._server is not None:
            self._server.renew(settings.timeouts.drain_s, _rules(settings))
        if settings.log.level != before.log.level:
            logging.getLogger().setLevel(settings.log.level.upper())
        # Who is new, or another, has not been asked.
        self.discovery.look()

    def _application(self) -> Guard:
        settings = self._settings
        self.buffered = buffered = Buffered(settings.limits.buffered_mb * _MB)
        self._proxy = proxy = self._request_path(lambda: self.capability_map.catalog)
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

    def _request_path(self, catalog: Callable[[], Catalog]) -> Proxy:
        """Return the request path by this catalog; all else is shared with every other one."""
        return Proxy(
            plans=Plans(catalog, self.reaches, self.discovery.settle),
            processes=self.processes,
            tallies=Tallies(self.in_flight, self.buffered, self.egress),
            limits=_limits(self._settings),
            sweeper=self.sweeper,
            sources=self._sources,
        )

    def _tell_process(self, event: ProcessEvent) -> None:
        if isinstance(event, BackendEvent):
            # "ready after 1.8 s" says its state by itself, "wanted by the map" does not.
            told = event.message.startswith(event.state)
            text = event.message if told else f"{event.state}, {event.message}"
            log.info("%s: %s", event.name, text)
            self.bus.publish("backend", asdict(event))
        else:
            # The backend's own log has these.
            news = event.news
            self.bus.publish(NEWS_NAMES[type(news)], {"name": event.name, **asdict(news)})

    def _tell_capability(self, row: MapRow) -> None:
        self.bus.publish("capability", asdict(row))

    def _tell_download(self, event: DownloadEvent) -> None:
        log.info("%s: %s", event.model, event.message)
        self.bus.publish("download", asdict(event))

    def _load_control(self) -> App:
        """Import the control plane, which takes longer than all else together, and build it."""
        from router.admin.api import Owners, control_plane  # noqa: PLC0415 on first use only
        from router.admin.pulls import Pulls  # noqa: PLC0415 likewise
        from router.probes import Probes  # noqa: PLC0415 likewise
        from router.providers import Providers  # noqa: PLC0415 likewise
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
                self.bus,
                self.egress,
                self.configuration,
                Providers(self.configuration, self.reaches, store, self._folder.keys),
                self.discovery,
                Probes(
                    self.capability_map,
                    lambda catalog: partial(self._request_path(catalog).serve, CHAT),
                    self.discovery.settle,
                ),
                self.reaches,
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


def _limits(settings: Settings) -> ProxyLimits:
    limits = settings.limits
    return ProxyLimits(
        body=BodyLimits(limits.body_mb * _MB, limits.depth, limits.values),
        response_bytes=limits.response_mb * _MB,
        images=limits.images,
        pictures=PictureRules.of(settings),
        further_attempts=settings.retry.attempts,
        retry_share=settings.retry.budget,
        default_priority=settings.default_priority,
    )


def _rules(settings: Settings) -> Rules:
    timeouts = settings.timeouts
    return Rules(
        header_s=timeouts.header_s,
        body_s=timeouts.body_s,
        send_stall_s=timeouts.send_stall_s,
        header_bytes=settings.limits.header_kb * _KB,
    )


def _let_go_of_terminal() -> None:
    """Drop what a closed terminal was not told: flushing it at exit would spoil the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
