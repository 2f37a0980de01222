"""The rows: which hold a slot, which are paused, whose turn it is, and what caches may hold."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from backends.mlx_backend.actions import Drop, Pause, Resume
from backends.mlx_backend.ageing import Ageing
from backends.wire import Priority

# A LOW that was let in before its time, or back in, is not paused before it has got so many
# tokens: else every HIGH would cost it a pause and bring it nothing.
PROTECTED_STEPS: Final = 16


class Stage(Enum):
    """How far a row is, in this order; one whose cache is dropped begins again."""

    UNREAD = auto()
    """Holds no cache yet."""
    READING = auto()
    """Its prompt is being prefilled."""
    DECODING = auto()
    """Gets one token a step."""


@dataclass(slots=True, eq=False)
class Row:
    """An admitted request; `cache_mb` is what its cache may grow to, `used_mb` what it has come to.

    `protected_steps`: so many decode steps it is due before it may be paused. `alone`: it has
    been in steps that failed, and decodes by itself until it is known whether that was its doing.
    """

    ticket: int
    model: str
    priority: Priority
    admitted_at: float
    protected_steps: int = 0
    cache_mb: float = 0.0
    used_mb: float = 0.0
    stage: Stage = Stage.UNREAD
    paused: bool = False
    alone: bool = False

    @property
    def is_low(self) -> bool:
        """Whether it gives way to others."""
        return self.priority is Priority.LOW

    @property
    def order(self) -> tuple[Priority, int]:
        """Where it stands in the order of service."""
        return self.priority, self.ticket

    @property
    def has_cache(self) -> bool:
        """Whether it holds memory that grows with its tokens."""
        return self.stage is not Stage.UNREAD

    @property
    def may_be_paused(self) -> bool:
        """Whether its slot may be given to a HIGH."""
        return self.is_low and not self.paused and not self.protected_steps


class Slots:
    """Rows by ticket. Those that are not paused hold one of `active` slots each.

    At most `max_low` of the slots are LOW's, and LOW leaves the last `reserve_high` of them free.
    The caches of all rows together may grow to `caches_mb`; None: nothing bounds them.
    """

    def __init__(
        self, *, active: int, reserve_high: int, max_low: int, caches_mb: float | None
    ) -> None:
        self._active = active
        self._reserve_high = reserve_high
        self._max_low = max_low
        self._caches_mb = caches_mb
        self._rows: dict[int, Row] = {}
        self._ageing = Ageing()
        self.pauses = 0
        self.resumes = 0
        self.drops = 0

    def __repr__(self) -> str:
        return f"<Slots {len(self.running)}/{self._active} paused={len(self.paused)}>"

    def share(self, *, active: int, reserve_high: int, max_low: int) -> None:
        """Set how many slots there are, and for whom; rows that run beyond that go on."""
        self._active = active
        self._reserve_high = reserve_high
        self._max_low = max_low

    @property
    def running(self) -> list[Row]:
        """The rows that hold a slot, in order of service."""
        return self._sorted(row for row in self._rows.values() if not row.paused)

    @property
    def paused(self) -> list[Row]:
        """The rows that hold none, first the one that comes back first."""
        return self._sorted(row for row in self._rows.values() if row.paused)

    @property
    def prefilling(self) -> list[Row]:
        """The running rows whose prompt is not read yet, in order of service."""
        return [row for row in self.running if row.stage is not Stage.DECODING]

    @property
    def decoding(self) -> list[Row]:
        """The running rows that get tokens, in order of service."""
        return [row for row in self.running if row.stage is Stage.DECODING]

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return self._active - len(self.running)

    @property
    def open_to_low(self) -> bool:
        """Whether a LOW may take a slot that is not its due.

        None while a HIGH waits for memory: it may have had a LOW paused for the sake of its cache.
        """
        if any(not row.is_low and not self.may_read(row) for row in self.running):
            return False
        return self.free > self._reserve_high and not self._low_has_share

    @property
    def low_runs(self) -> bool:
        """Whether a LOW holds a slot."""
        return any(row.is_low for row in self.running)

    def low_is_due(self, *, low_queued: bool) -> bool:
        """Tell whether the next slot is for a LOW, whoever else waits."""
        low_waits = low_queued or bool(self.paused)
        return self._ageing.low_is_due(low_waits=low_waits) and not self._low_has_share

    def uses(self, model: str) -> bool:
        """Tell whether a model has rows, paused ones included."""
        return any(row.model == model for row in self._rows.values())

    def get(self, ticket: int) -> Row | None:
        """Return a row that has not ended."""
        return self._rows.get(ticket)

    def add(self, row: Row, *, low_queued: bool) -> None:
        """Let a row in, while a LOW is still queued or not."""
        if row.is_low:
            self._ageing.low_goes()
        elif low_queued or self.paused:
            self._ageing.high_goes()
        self._rows[row.ticket] = row

    def remove(self, ticket: int) -> Row | None:
        """Take a row out, wherever it is; None where it has ended before."""
        return self._rows.pop(ticket, None)

    def pause(self, row: Row) -> Pause:
        """Take a running LOW out of its slot, for a HIGH."""
        row.paused = True
        self.pauses += 1
        # The slot is not for the LOW whose turn it may be: that could be this very row.
        self._ageing.leave_one_to_high()
        return Pause(row.ticket)

    def resume(self, row: Row) -> Resume:
        """Give a paused row a slot again; it keeps it for a while."""
        row.paused = False
        row.protected_steps = PROTECTED_STEPS
        self.resumes += 1
        self._ageing.low_goes()
        return Resume(row.ticket)

    def drop(self, row: Row) -> Drop:
        """Give a paused row's cache back; its prompt will be read again."""
        row.stage = Stage.UNREAD
        self.drops += 1
        return Drop(row.ticket)

    def relieve(self) -> Pause | Drop | None:
        """Decide what gives memory back where rows outgrew what was reserved for them.

        The newest paused row's cache goes, else the newest LOW is paused, and its cache goes next.
        A HIGH keeps its cache, and so does a row that no other stands beside.
        """
        holding = [row for row in self._rows.values() if row.has_cache]
        if self._caches_mb is None or len(holding) == 1:
            return None
        if sum(row.used_mb for row in holding) <= self._caches_mb:
            return None
        yielding = [row for row in holding if row.paused or row.may_be_paused]
        newest = max(yielding, key=lambda row: (row.paused, row.ticket), default=None)
        if newest is None:
            return None
        if newest.paused:
            return self.drop(newest)
        newest.paused = True
        self.pauses += 1
        return Pause(newest.ticket)

    def newest_that_may_be_paused(self) -> Row | None:
        """Return the row whose slot a HIGH may have."""
        return max(
            (row for row in self._rows.values() if row.may_be_paused),
            key=lambda row: row.ticket,
            default=None,
        )

    def may_read(self, row: Row) -> bool:
        """Tell whether a row's cache has room beside the others; where there are none it has."""
        return self._fits(row, self._caches_beside(row))

    def in_the_way_of(self, row: Row) -> Row | None:
        """Return whose cache goes first so that this row may read; None where none helps.

        That is the newest paused row; for a HIGH, after them, the newest that may be paused.
        """
        caches = self._caches_beside(row)
        yielding = [
            other for other in caches if other.paused or (other.may_be_paused and not row.is_low)
        ]
        if not self._fits(row, [other for other in caches if other not in yielding]):
            return None
        return max(yielding, key=lambda other: (other.paused, other.ticket), default=None)

    @property
    def _low_has_share(self) -> bool:
        return sum(row.is_low for row in self.running) >= self._max_low

    def _caches_beside(self, row: Row) -> list[Row]:
        return [other for other in self._rows.values() if other.has_cache and other is not row]

    def _fits(self, row: Row, beside: list[Row]) -> bool:
        if self._caches_mb is None or not beside:
            return True
        return row.cache_mb + sum(other.cache_mb for other in beside) <= self._caches_mb

    @staticmethod
    def _sorted(rows: Iterable[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: row.order)
