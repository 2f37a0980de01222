"""Every provider's Reach: made from settings, kept where nothing changed, closed when unused."""

import asyncio
import logging
import math
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from router.admission import Admission
from router.breaker import Breaker
from router.catalog import Kind, Provider
from router.deadline import Deadlines
from router.reach import Reach
from router.settings import Settings
from router.settings.providers import LiteLLMProvider
from router.settings.providers import Provider as ProviderSettings
from router.settings.tree import BreakerSettings, LaneSettings
from router.translate import TranslatedUpstream
from router.upstream import Upstream
from router.upstream.plain import PlainUpstream
from router.upstream.trust import CaFileError, context_for
from router.window import Windows

log = logging.getLogger(__name__)
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class _Sign:
    """All that a Reach is made from."""

    provider: Provider
    told: ProviderSettings
    timeouts: tuple[float, ...]
    breaker: BreakerSettings
    lane: tuple[LaneSettings, float]
    whole_mb: int | None
    authority: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """What `Reaches.adopt` is to make true; until then nothing of it is in use.

    `made` are the new ones; `faults` says of each provider what is wrong with its `ca_file`.
    """

    reaches: Mapping[str, Reach] = field(default_factory=dict)
    signs: Mapping[str, _Sign] = field(default_factory=dict)
    made: tuple[Reach, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)


class Reaches:
    """The one writer of `by_name`, which holds each provider's Reach at any moment.

    A change is made in two steps: `prepare` builds what is new, and may fail; `adopt` replaces all
    at once. What a request in flight uses is closed when the last such request has ended.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Reach] = {}
        # What each Reach was made from: the same signs, the same Reach.
        self._signs: Mapping[str, _Sign] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._retired: dict[int, Reach] = {}

    def __repr__(self) -> str:
        return f"<Reaches {list(self.by_name)} retired={len(self._retired)}>"

    @property
    def retired(self) -> int:
        """How many that were replaced or removed are still in use, or closing."""
        return len(self._retired)

    async def prepare(self, providers: Mapping[str, Provider], settings: Settings) -> Renewal:
        """Build what has changed; a provider's fault is told, and leaves the others alone."""
        signs = {name: _sign(provider, settings) for name, provider in providers.items()}
        changed = {name for name, sign in signs.items() if self._signs.get(name) != sign}
        over_tls = {name for name in changed if _needs_tls(providers[name], settings)}
        trusts: Mapping[str, ssl.SSLContext | CaFileError] = {}
        if over_tls:
            files = {name: settings.providers[name].ca_file for name in over_tls}
            # Longer than the requests beside it should wait.
            trusts = await asyncio.to_thread(_trusts, files)
        reaches: dict[str, Reach] = {}
        faults: dict[str, str] = {}
        for name, sign in signs.items():
            trust, before = trusts.get(name), self.by_name.get(name)
            if isinstance(trust, CaFileError):
                faults[name] = str(trust)
            elif before is not None and name not in changed:
                reaches[name] = before
            else:
                kept = self._lane_kept(before, sign)
                reaches[name] = make_reach(providers[name], settings, kept, trust)
        made = tuple(reaches[name] for name in reaches if name in changed)
        return Renewal(reaches, {name: signs[name] for name in reaches}, made, faults)

    def _lane_kept(self, before: Reach | None, sign: _Sign) -> Admission | None:
        """Return the lane of a changed provider, whose address takes no more than before."""
        if before is None:
            return None
        was = self._signs[sign.provider.name]
        same = (was.provider.base_url, was.lane) == (sign.provider.base_url, sign.lane)
        return before.admission if same else None

    def adopt(self, renewal: Renewal) -> None:
        """Replace all at once; whoever uses what was replaced goes on with it to the end."""
        gone = [
            reach for name, reach in self.by_name.items() if renewal.reaches.get(name) is not reach
        ]
        self.by_name.clear()
        self.by_name.update(renewal.reaches)
        self._signs = renewal.signs
        self._close(gone)

    def discard(self, renewal: Renewal) -> None:
        """Close what was prepared and is not to be used."""
        self._close(renewal.made)

    def _close(self, reaches: Iterable[Reach]) -> None:
        for reach in reaches:
            self._retired[id(reach)] = reach
            reach.use.end(partial(self._close_now, reach))

    def _close_now(self, reach: Reach) -> None:
        # Owned here: taken out when it is done, awaited in `aclose`.
        task = asyncio.create_task(reach.upstream.aclose())  # noqa: TID251 see above
        self._closing.add(task)
        task.add_done_callback(partial(self._closed, reach))

    def _closed(self, reach: Reach, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        self._retired.pop(id(reach), None)

    async def aclose(self) -> None:
        """Close all of them, used or not."""
        self.adopt(Renewal())
        for reach in self._retired.values():
            self._close_now(reach)
        if self._closing:
            await asyncio.wait(self._closing)


def _sign(provider: Provider, settings: Settings) -> _Sign:
    told, common = settings.providers[provider.name], settings.timeouts
    shared = (common.connect_s, common.first_byte_s, common.idle_s, common.total_s)
    lane = (settings.lane(provider.name), common.queue_s)
    whole_mb = settings.limits.response_mb if provider.kind is Kind.LITELLM else None
    return _Sign(provider, told, shared, settings.breaker, lane, whole_mb, _edition(told.ca_file))


def _edition(file: Path | None) -> tuple[int, int] | None:
    """Return what tells one edition of a file from the next."""
    with suppress(OSError):
        if file is not None:
            status = file.stat()
            return status.st_mtime_ns, status.st_size
    return None


def make_reach(
    provider: Provider,
    settings: Settings,
    kept: Admission | None,
    trust: ssl.SSLContext | None,
) -> Reach:
    """Return how a provider is reached, by its own deadlines where it has some.

    `kept` is a lane that goes on, `trust` what is believed on the way, where that needs TLS or a
    proxy.
    """
    own, common = settings.providers[provider.name].timeouts, settings.timeouts
    upstream = _upstream(provider, settings, own.connect_s or common.connect_s, trust)
    deadlines = Deadlines(
        first_byte_s=own.first_byte_s or common.first_byte_s,
        idle_s=own.idle_s or common.idle_s,
        total_s=own.total_s or common.total_s,
    )
    breaker = partial(Breaker, provider.name, open_s=settings.breaker.open_s, emit=log.warning)
    if provider.kind is Kind.BUILTIN:
        # Its process is ours: whoever starts and stops it knows better than its failures tell.
        return Reach(upstream, deadlines, breaker(failures=math.inf), process=provider.name)
    lane = settings.lane(provider.name)
    admission = kept or Admission(
        provider.name, lane.concurrency, lane.queue, lane.reserve_high, common.queue_s
    )
    windows = Windows(provider, upstream) if provider.kind is Kind.OLLAMA else None
    failures = settings.breaker.failures
    return Reach(upstream, deadlines, breaker(failures=failures), admission, windows=windows)


def _upstream(
    provider: Provider, settings: Settings, connect_s: float, trust: ssl.SSLContext | None
) -> Upstream:
    """Return the client for a provider; LiteLLM's words go over one of ours, too."""
    told = settings.providers[provider.name]
    carrier = _carrier(provider, settings, connect_s, trust)
    if isinstance(told, LiteLLMProvider):
        size = settings.limits.response_mb * _MB
        return TranslatedUpstream(provider, carrier, told.options, size)
    return carrier


def _carrier(
    provider: Provider, settings: Settings, connect_s: float, trust: ssl.SSLContext | None
) -> Upstream:
    """Return our own client for plain HTTP, aiohttp's for TLS and proxies."""
    if trust is None:
        # A child may be killed at any moment: no connection to it outlives a request.
        ours = provider.kind is Kind.BUILTIN
        return PlainUpstream(provider.name, connect_s=connect_s, keep_alive=not ours)
    # aiohttp is a quarter of the start: only those who need it wait for it.
    from router.upstream.tls import AiohttpUpstream  # noqa: PLC0415 see above

    proxy = settings.providers[provider.name].proxy
    return AiohttpUpstream(provider.name, connect_s, trust=trust, proxy=proxy)


def _needs_tls(provider: Provider, settings: Settings) -> bool:
    """Tell whether a provider is reached through TLS or a proxy."""
    told = settings.providers[provider.name]
    return not provider.base_url.startswith("http://") or told.proxy is not None


def _trusts(files: Mapping[str, Path | None]) -> dict[str, ssl.SSLContext | CaFileError]:
    """Return whose certificates are believed, by provider with its `ca_file`; blocks.

    Those with the same file believe the same. It also imports what TLS takes, a good part of a
    second the first time.
    """
    from router.upstream import tls  # noqa: F401, PLC0415 see `_upstream`

    believed: dict[Path | None, ssl.SSLContext | CaFileError] = {}
    for file in set(files.values()):
        try:
            believed[file] = context_for(file)
        except CaFileError as error:
            believed[file] = error
    return {name: believed[file] for name, file in files.items()}
