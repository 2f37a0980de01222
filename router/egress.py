"""What went to whom: requests, bytes and tokens for each provider and day, and what may go there.

Counted when a provider is asked, whatever it answers then: the words have left by that time. What
turns out not to have been sent is taken back. Only figures are kept here, nothing of what was said;
`egress_ledger` keeps them over a restart.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

import msgspec

from router.errors import RouteFailed, Unasked
from router.usage import Usage

# Prices are those of a million tokens, as everybody quotes them.
_PER = 1_000_000


Key = tuple[str, str, str]
Row = tuple[str, str, str, "Sent"]


class Sent(msgspec.Struct):
    """What one provider got on one day. `untold` counts answers whose tokens nobody told."""

    requests: int = 0
    bytes_out: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    untold: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """What a provider may get in a day; None sets no limit. `cost` is in the unit of the prices."""

    requests: int | None = None
    tokens: int | None = None
    cost: float | None = None

    @property
    def counts_tokens(self) -> bool:
        """Whether it can only be kept where the provider tells its tokens."""
        return self.tokens is not None or self.cost is not None


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in any currency as long as it is one."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class Tariff:
    """The limits by provider, and the prices by `provider/model`."""

    limits: Mapping[str, SpendLimit] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)


class Egress:
    """The figures of each provider and day; days are UTC's. `now` tells seconds since 1970."""

    def __init__(self, tariff: Tariff, now: Callable[[], float] = time.time) -> None:
        self.tariff = tariff
        self._now = now
        # By day, then by provider and where the words ended up: one provider may pass some on.
        # Years may have been restored, and each request to a limited provider looks at today.
        self._days: dict[str, dict[tuple[str, str], Sent]] = {}
        self._changed: set[Key] = set()
        self._today = ""
        self._today_ends = 0.0

    def __repr__(self) -> str:
        return f"<Egress days={len(self._days)} unsaved={len(self._changed)}>"

    def account(self, provider: str, locality: str, model: str, size: int) -> "Account":
        """Return the account of one request of `size` bytes, to be entered when it is sent."""
        return Account(self, (provider, locality), model, size)

    def check(self, provider: str) -> None:
        """Raise RouteFailed `spend_limit_reached` where a provider has had its share for today."""
        limit = self.tariff.limits.get(provider)
        if limit is None:
            return
        of_today = self._days.get(self.today(), {})
        sent = [each for (name, _), each in of_today.items() if name == provider]
        tokens = sum(each.prompt_tokens + each.completion_tokens for each in sent)
        for had, most, what in (
            (sum(each.requests for each in sent), limit.requests, "requests"),
            (tokens, limit.tokens, "tokens"),
            (sum(each.cost for each in sent), limit.cost, "of cost"),
        ):
            if most is not None and had >= most:
                raise RouteFailed(
                    "spend_limit_reached",
                    f"{provider} has had its {most:g} {what} for today "
                    f"(providers.{provider}.spend_limit). It may be asked again tomorrow, UTC.",
                    retry_after_s=self._today_ends - self._now(),
                )

    def today(self) -> str:
        """Return the day as YYYY-MM-DD, UTC."""
        now = self._now()
        if now >= self._today_ends:
            day = datetime.fromtimestamp(now, UTC).date()
            midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
            self._today, self._today_ends = day.isoformat(), midnight.timestamp()
        return self._today

    def of_today(self, provider: str, locality: str) -> tuple[Key, Sent]:
        """Return today's figures of a provider, which will change, and what they are kept under."""
        today, whither = self.today(), (provider, locality)
        return (today, *whither), self._days.setdefault(today, {}).setdefault(whither, Sent())

    def has_changed(self, key: Key) -> None:
        """Take note that figures are to be saved."""
        self._changed.add(key)

    def cost_of(self, model: str, usage: Usage) -> float:
        """Return what an answer cost; 0 for a model without a price."""
        price = self.tariff.prices.get(model)
        if price is None:
            return 0.0
        return (usage.prompt * price.prompt + usage.completion * price.completion) / _PER

    def restore(self, rows: Iterable[Row]) -> None:
        """Take over the figures of an earlier run, as (day, provider, locality, figures)."""
        for day, provider, locality, sent in rows:
            self._days.setdefault(day, {})[provider, locality] = sent

    def take_changes(self) -> list[Row]:
        """Return what changed since this was asked last, to be saved."""
        changed, self._changed = self._changed, set()
        return [
            (
                day,
                provider,
                locality,
                msgspec.structs.replace(self._days[day][provider, locality]),
            )
            for day, provider, locality in sorted(changed)
        ]

    def keep_changes(self, rows: Iterable[Row]) -> None:
        """Take back what could not be saved."""
        self._changed.update((day, provider, locality) for day, provider, locality, _ in rows)

    def rows(self, since: date | None = None) -> list[Row]:
        """Return (day, provider, locality, figures), the newest day first."""
        least = "" if since is None else since.isoformat()
        return [
            (day, *whither, sent)
            for day in sorted(self._days, reverse=True)
            if day >= least
            for whither, sent in sorted(self._days[day].items(), reverse=True)
            if sent.requests
        ]


class TellsUsage(Protocol):
    """An answer that may tell its tokens."""

    @property
    def usage(self) -> Usage | None:
        """The tokens, once the provider has told them."""
        ...


class Account:
    """One request's part of it: counted as sent on entering, as answered on leaving.

    Both on the day on which it was sent.
    """

    __slots__ = ("_egress", "_key", "_model", "_sent", "_size", "answer")

    def __init__(self, egress: Egress, whither: tuple[str, str], model: str, size: int) -> None:
        self._egress = egress
        self._key, self._sent = egress.of_today(*whither)
        self._model = model
        self._size = size
        # Asked for its tokens when it is over.
        self.answer: TellsUsage | None = None

    def __enter__(self) -> Self:
        self._sent.requests += 1
        self._sent.bytes_out += self._size
        self._egress.has_changed(self._key)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sent = self._sent
        # What was changed before may have been saved meanwhile.
        self._egress.has_changed(self._key)
        if isinstance(error, Unasked):
            # Nothing has left.
            sent.requests -= 1
            sent.bytes_out -= self._size
            return
        usage = self.answer.usage if self.answer is not None else None
        if usage is None:
            sent.untold += 1
            return
        sent.prompt_tokens += usage.prompt
        sent.completion_tokens += usage.completion
        sent.cost += self._egress.cost_of(self._model, usage)
