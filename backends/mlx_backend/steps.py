"""Which row or batch gets the next step of a model."""

from backends.mlx_backend.actions import Action, Decode, Prefill
from backends.mlx_backend.ageing import Ageing
from backends.mlx_backend.residents import Residents
from backends.mlx_backend.slots import Row, Slots, Stage
from backends.wire import Priority


class Steps:
    """Prefill and decode in turns, HIGH's prefill before LOW's, one row's prompt at a time."""

    def __init__(self, slots: Slots, models: Residents) -> None:
        self._slots = slots
        self._models = models
        self._ageing = Ageing()
        # Of whom the last step read the prompt; None where it decoded.
        self._last_read: Priority | None = None
        # The models whose last decode step was that of a row alone.
        self._alone_last: set[str] = set()

    def __repr__(self) -> str:
        return f"<Steps last_read={self._last_read!r}>"

    def next(self) -> Action | None:
        """Decide the next step, or what makes room for it; None where no row runs."""
        row = self._next_to_read()
        decoding = self._slots.decoding
        if decoding and (row is None or self._decode_is_owed(row)):
            return self._decode(decoding)
        if row is None:
            return None
        room = None if self._slots.may_read(row) else self._make_room_for(row)
        # Where nobody gives way, one that has begun goes on: others have outgrown what was theirs,
        # and everyone would wait for everyone.
        return room or self._prefill(row)

    def _next_to_read(self) -> Row | None:
        """Choose the row whose prompt goes on, or for whom room is made."""
        prefilling = self._slots.prefilling
        lows = [row for row in prefilling if row.is_low]
        due = self._ageing.low_is_due(low_waits=bool(lows))
        first = next(iter(lows if due else prefilling), None)
        if first is None or self._slots.may_read(first) or self._slots.in_the_way_of(first):
            return first
        # It waits for the caches of others to go. No other row begins meanwhile, since small ones
        # could keep a large one waiting for ever.
        return next((row for row in prefilling if row.has_cache), None)

    def _decode_is_owed(self, row: Row) -> bool:
        """Tell whether a decode step goes before this row's prefill.

        They take turns, except that a HIGH does not wait for what a LOW's prefill owes.
        """
        if self._last_read is None:
            return False
        return row.is_low or self._last_read is not Priority.LOW

    def _decode(self, decoding: list[Row]) -> Action:
        model = self._models.take_turn({row.model for row in decoding})
        rows = [row for row in decoding if row.model == model]
        company = [row for row in rows if not row.alone]
        alone = self._next_alone(model, rows, has_company=bool(company))
        for row in company if alone is None else [alone]:
            if row.protected_steps:
                row.protected_steps -= 1
        self._last_read = None
        return Decode(model, None if alone is None else alone.ticket)

    def _next_alone(self, model: str, rows: list[Row], *, has_company: bool) -> Row | None:
        """Choose who decodes alone, in turns with the others; None where it is their turn."""
        alone = next((row for row in rows if row.alone), None)
        if alone is None or (has_company and model in self._alone_last):
            self._alone_last.discard(model)
            return None
        self._alone_last.add(model)
        return alone

    def _prefill(self, row: Row) -> Action:
        if row.is_low:
            self._ageing.low_goes()
        else:
            self._ageing.high_goes()
        row.stage = Stage.READING
        self._last_read = row.priority
        return Prefill(row.ticket)

    def _make_room_for(self, row: Row) -> Action | None:
        other = self._slots.in_the_way_of(row)
        if other is None:
            return None
        return self._slots.drop(other) if other.paused else self._slots.pause(other)
