"""The map and its one writer: assign, reset, model_arrived → store, new Catalog, reconcile.

Everyone else reads `catalog`, an immutable snapshot. A change is stored first, so that what was
acknowledged survives a crash, and then takes effect as a whole.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

from backends.process_manager import BackendUnavailable, ProcessManager
from backends.process_spec import Want
from backends.wire import ProcessState
from router.assignable import check_assignable, check_listed
from router.capabilities import Capability
from router.catalog import Catalog, Kind, Model
from router.errors import Refused, SignalboxError
from router.learned import NOTHING, Learned, Listing, Verdict
from router.overrides import Override, StoreError
from router.settings.providers import BuiltinProvider
from router.snapshot import Ground, build_catalog

log = logging.getLogger(__name__)
Written = TypeVar("Written")

# What stopping takes beyond its own deadlines: a reaped child, a closed pipe.
_GRACE_S = 5.0


class AssignmentStore(Protocol):
    """Where assignments are kept; its calls block and run in a thread."""

    def save_assignment(self, capability: Capability, models: tuple[str, ...]) -> Override:
        """Store an assignment; StoreError when that is not possible."""
        ...

    def delete_assignment(self, capability: Capability) -> None:
        """Forget an assignment; StoreError when that is not possible."""
        ...


class VerdictStore(Protocol):
    """Where the verdicts of probes are kept; its calls block and run in a thread."""

    def save_verdicts(self, model: str, verdicts: Mapping[str, Verdict]) -> None:
        """Store verdicts, in place of older ones; StoreError when that is not possible."""
        ...

    def delete_verdicts(self, model: str) -> None:
        """Forget a model's verdicts; StoreError when that is not possible."""
        ...


@dataclass(frozen=True, slots=True)
class MapRow:
    """One capability as a person sees it: who serves it, on whose word, and how that stands."""

    capability: str
    models: tuple[str, ...]
    source: str
    since: str | None
    file_says: tuple[str, ...]
    state: str
    message: str | None = None


class CapabilityMap:
    """The map of one running router.

    `tell` is told each row that a change of the map has changed.
    """

    def __init__(
        self,
        ground: Ground,
        overrides: Mapping[Capability, Override],
        processes: ProcessManager,
        learned: Learned = NOTHING,
        *,
        tell: Callable[[MapRow], None],
    ) -> None:
        self._ground = ground
        self._overrides = overrides
        self.learned = learned
        self._processes = processes
        # Held by whoever changes the map, or what it stands on.
        self.writing = asyncio.Lock()
        self.catalog = build_catalog(ground, overrides, learned)
        self._tell_shadowed(overrides)
        self._tell = tell
        self._told = self.rows()

    def _tell_shadowed(self, overrides: Mapping[Capability, Override]) -> None:
        for capability, override in overrides.items():
            in_file = self._ground.bindings.get(capability)
            if in_file is not None and in_file.models != override.models:
                log.info(
                    "%s: stored since %s (%s), the file says %s",
                    capability,
                    override.since,
                    ", ".join(override.models) or "nobody",
                    ", ".join(in_file.models) or "nobody",
                )

    def __repr__(self) -> str:
        return f"<CapabilityMap {[str(capability) for capability in self.catalog.bindings]}>"

    @property
    def ground(self) -> Ground:
        """What the catalog stands on now."""
        return self._ground

    async def drawn(
        self,
        *,
        ground: Ground | None = None,
        overrides: Mapping[Capability, Override] | None = None,
        learned: Learned | None = None,
    ) -> Catalog:
        """Return the catalog as it would be with this in place of what there is.

        It looks on disk, and among tens of thousands of models it takes longer than the requests
        beside it should wait: hence a thread. `writing` is held by the caller.
        """
        return await asyncio.to_thread(
            build_catalog,
            self._ground if ground is None else ground,
            self._overrides if overrides is None else overrides,
            self.learned if learned is None else learned,
        )

    def stand_on(self, ground: Ground, catalog: Catalog) -> None:
        """Replace what the map stands on by this, and what was `drawn` on it; nothing waits here.

        A stored assignment stays, whatever has become of its models. `writing` is held by the
        caller.
        """
        self._ground = ground
        self._take_effect(catalog)

    def reconcile(self) -> None:
        """Tell the processes what the map asks of them now."""
        name = self._ground.builtin
        if name is not None:
            self._processes.set_desired({name: self._wanted(name)})

    def _wanted(self, provider: str) -> Want:
        pointed_at = any(
            model.provider == provider and model.present
            for capability in self.catalog.bindings
            for model in self.catalog.bound(capability)
        )
        settings = self._ground.settings.providers[provider]
        if not pointed_at or not isinstance(settings, BuiltinProvider):
            return Want.NO
        return Want.EAGER if settings.start == "eager" else Want.ON_DEMAND

    async def assign(
        self, capability: Capability, models: tuple[str, ...], store: AssignmentStore
    ) -> None:
        """Bind a capability to models, in order; an empty tuple means explicitly nobody.

        Raises Refused `model_not_found`, or `capability_mismatch` when the user's own fact says
        that a model cannot do this; SignalboxError `store_unavailable`.
        """
        async with self.writing:
            if len(set(models)) != len(models):
                raise Refused("invalid_request", "A model stands here twice.", param="models")
            tried = {**self._overrides, capability: Override(models, since="")}
            catalog = await self.drawn(overrides=tried)
            ground = self._ground
            for name in models:
                check_assignable(capability, name, catalog)
                check_listed(name, ground.settings.models, self.learned, ground.providers)
            override = await _stored(partial(store.save_assignment, capability, models))
            self._overrides = {**self._overrides, capability: override}
            self._take_effect(catalog)
            self._forgive(models)
            log.info("%s is assigned to %s", capability, ", ".join(models) or "nobody")

    def _forgive(self, models: tuple[str, ...]) -> None:
        """Let a process that had failed for good try again: a new assignment is a new chance."""
        name = self._ground.builtin
        named = any(model.partition("/")[0] == name for model in models)
        if name is not None and named and self._processes.status(name).state is ProcessState.FATAL:
            self._processes.restart(name)

    async def reset(self, capability: Capability, store: AssignmentStore) -> None:
        """Forget the stored assignment, so that the file's counts again."""
        async with self.writing:
            rest = {key: value for key, value in self._overrides.items() if key != capability}
            catalog = await self.drawn(overrides=rest)
            await _stored(partial(store.delete_assignment, capability))
            self._overrides = rest
            self._take_effect(catalog)
            log.info("%s is as the file says", capability)

    async def learn(self, listing: Listing) -> None:
        """Take note of what a provider lists; the next request is resolved by it."""
        async with self.writing:
            before = self.learned.listings.get(listing.provider.name)
            learned = self.learned.with_listing(listing)
            # In a thread, since lists are long. Nothing new: whoever remembers plans may go on.
            if await asyncio.to_thread(_says_the_same, before, listing):
                self.learned = learned
                return
            catalog = await self.drawn(learned=learned)
            self.learned = learned
            self._take_effect(catalog)

    async def try_out(
        self, model: str, verdicts: Mapping[str, Verdict], store: VerdictStore
    ) -> None:
        """Take note of what probes have shown of a model; SignalboxError `store_unavailable`."""
        async with self.writing:
            await self._believe(
                self.learned.with_verdicts(model, verdicts),
                partial(store.save_verdicts, model, verdicts),
            )

    async def forget(self, model: str, store: VerdictStore) -> None:
        """Forget what probes have shown of a model; SignalboxError `store_unavailable`."""
        async with self.writing:
            await self._believe(
                self.learned.without_verdicts(model), partial(store.delete_verdicts, model)
            )

    async def _believe(self, learned: Learned, write: Callable[[], None]) -> None:
        catalog = await self.drawn(learned=learned)
        await _stored(write)
        self.learned = learned
        self._take_effect(catalog)

    async def models_changed(self) -> None:
        """Look on disk again: a builtin model has arrived or gone."""
        async with self.writing:
            self._take_effect(await self.drawn())

    def _take_effect(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.reconcile()
        before, self._told = self._told, self.rows()
        for was, row in zip(before, self._told, strict=True):
            if row != was:
                self._tell(row)

    def rows(self) -> list[MapRow]:
        """Return every capability that can be bound, in the order of `Capability`."""
        return [self.row(capability) for capability in Capability]

    def row(self, capability: Capability) -> MapRow:
        """Return one capability as it stands now."""
        in_file = self._ground.bindings.get(capability)
        override = self._overrides.get(capability)
        file_says = in_file.models if in_file is not None else ()
        state, message = self._state(capability)
        return MapRow(
            capability=str(capability),
            models=file_says if override is None else override.models,
            source="stored" if override is not None else "file" if in_file else "none",
            since=override.since if override is not None else None,
            file_says=file_says,
            state=state,
            message=message,
        )

    def status(self, model: Model) -> str | None:
        """Return where a model of our own process stands: absent, or as the process; None else.

        Of a model of an older catalog, too: a long list is rendered beside what changes the map.
        """
        provider = self.catalog.providers.get(model.provider)
        if provider is None or provider.kind is not Kind.BUILTIN:
            return None
        return str(self._processes.status(model.provider).state) if model.present else "absent"

    def bound_to_builtin(self, model_id: str) -> list[str]:
        """Return the capabilities that a model of the builtin provider is bound to."""
        name = f"{self._ground.builtin}/{model_id}"
        model = self.catalog.model(name)
        return [
            str(capability)
            for capability in self.catalog.bindings
            if model is not None and model in self.catalog.bound(capability)
        ]

    def _state(self, capability: Capability) -> tuple[str, str | None]:
        binding = self.catalog.bindings.get(capability)
        if binding is None or not binding.models:
            return "unassigned", None
        models = self.catalog.bound(capability)
        if not models:
            return "dangling", "no provider knows these models any more"
        return self._model_state(models[0])

    def _model_state(self, model: Model) -> tuple[str, str | None]:
        if self.catalog.providers[model.provider].kind is not Kind.BUILTIN:
            return "external", None
        if not model.present:
            return "needs_download", f"fetch it: signalbox models pull {model.id}"
        status = self._processes.status(model.provider)
        return str(status.state), status.message or None

    async def settled(self, capability: Capability, goal: Literal["ready", "gone"]) -> None:
        """Return once the process behind a capability is ready, or once the builtin one is gone.

        Raises SignalboxError with the failure's code when that does not happen in time, `conflict`
        when another capability keeps the process alive.
        """
        name = self._process_behind(capability) if goal == "ready" else self._ground.builtin
        if name is None:
            return
        timeouts = self._ground.settings.timeouts
        stop_s = timeouts.drain_s + self._ground.settings.processes.stop_s
        within_s = timeouts.start_s if goal == "ready" else stop_s
        if goal == "gone" and self._wanted(name) is not Want.NO:
            raise Refused("conflict", f"{name} goes on: another capability points at it.")
        try:
            async with asyncio.timeout(within_s + _GRACE_S):
                if goal == "ready":
                    # A lease, since an on-demand process starts for nothing less.
                    async with self._processes.lease(name):
                        return
                await self._processes.wait_for(name, goal)
        except BackendUnavailable as error:
            raise SignalboxError(
                error.code, error.message, retry_after_s=error.retry_after_s
            ) from error
        except TimeoutError:
            raise SignalboxError(
                "backend_start_timeout" if goal == "ready" else "backend_failed",
                f"{name} was not {goal} within {within_s:g} s.",
            ) from None

    def _process_behind(self, capability: Capability) -> str | None:
        models = self.catalog.bound(capability)
        if not models or self.catalog.providers[models[0].provider].kind is not Kind.BUILTIN:
            return None
        if not models[0].present:
            raise SignalboxError(
                "model_not_downloaded",
                f"{models[0].name} is not on this machine yet. "
                f"Fetch it: signalbox models pull {models[0].id}",
            )
        return models[0].provider


def _says_the_same(before: Listing | None, listing: Listing) -> bool:
    return (
        before is not None
        and before.provider == listing.provider
        and before.models == listing.models
    )


async def _stored(write: Callable[[], Written]) -> Written:
    """Write to the store in a thread; SignalboxError `store_unavailable` when that fails."""
    try:
        return await asyncio.to_thread(write)
    except StoreError as error:
        raise SignalboxError("store_unavailable", str(error)) from error
