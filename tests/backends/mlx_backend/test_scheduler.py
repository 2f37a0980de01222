import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from backends.mlx_backend.scheduler import (
    Admit,
    Advance,
    BusyError,
    Load,
    QueueFullError,
    Scheduler,
    Unload,
    Wait,
)
from backends.wire import Priority

A, B = "model-a", "model-b"


def make(*, active: int = 1, queue: int = 8, idle_unload_s: float = 900.0) -> Scheduler:
    """Return a scheduler with nothing loaded."""
    return Scheduler(active=active, queue=queue, idle_unload_s=idle_unload_s)


def loaded(model: str = A, **settings: int) -> Scheduler:
    """Return a scheduler with a loaded model."""
    scheduler = make(**settings)
    scheduler.on_loaded(model, 0.0)
    return scheduler


def test_nothing_to_do_waits_for_a_submission() -> None:
    """With no model and no request there is nothing to wait for but a submission."""
    assert make().next(0.0) == Wait(None)


def test_first_request_loads_its_model_once() -> None:
    """Any number of requests for an absent model ask for one load, then are admitted in turn."""
    scheduler = make(active=2)
    tickets = [scheduler.submit(A, Priority.LOW) for _ in range(3)]
    assert scheduler.next(0.0) == Load(A)
    scheduler.on_loaded(A, 0.0)
    assert scheduler.next(0.0) == Admit(tickets[0])
    assert scheduler.next(0.0) == Admit(tickets[1])
    assert scheduler.next(0.0) == Advance()


def test_order_is_priority_then_arrival() -> None:
    """A smaller priority number goes first; equals go in order of arrival."""
    scheduler = loaded(active=8)
    wanted = [Priority.LOW, Priority.HIGH, Priority.LOW, Priority.SYSTEM, Priority.HIGH]
    tickets = [scheduler.submit(A, priority) for priority in wanted]
    served = [scheduler.next(0.0) for _ in tickets]
    assert served == [Admit(tickets[index]) for index in (3, 1, 4, 0, 2)]


def test_full_queue_refuses() -> None:
    """The queue is bounded; running rows do not count."""
    scheduler = loaded(queue=2)
    first = scheduler.submit(A, Priority.LOW)
    assert scheduler.next(0.0) == Admit(first)
    scheduler.submit(A, Priority.LOW)
    scheduler.submit(A, Priority.LOW)
    with pytest.raises(QueueFullError):
        scheduler.submit(A, Priority.HIGH)


def test_withdrawn_request_is_never_admitted() -> None:
    """Withdrawing takes a waiting request out, and says so."""
    scheduler = loaded()
    gone, stays = scheduler.submit(A, Priority.LOW), scheduler.submit(A, Priority.LOW)
    assert scheduler.withdraw(gone)
    assert not scheduler.withdraw(gone)
    assert scheduler.next(0.0) == Admit(stays)
    assert not scheduler.withdraw(stays)


def test_another_model_waits_for_the_rows_to_end() -> None:
    """A model is exchanged when no row runs, and nobody passes the request that waits for it."""
    scheduler = loaded(active=2)
    first = scheduler.submit(A, Priority.LOW)
    other = scheduler.submit(B, Priority.LOW)
    scheduler.submit(A, Priority.LOW)
    assert scheduler.next(0.0) == Admit(first)
    assert scheduler.next(0.0) == Advance()
    scheduler.on_ended(first, 1.0)
    assert scheduler.next(1.0) == Unload()
    scheduler.on_unloaded()
    assert scheduler.next(1.0) == Load(B)
    scheduler.on_loaded(B, 2.0)
    assert scheduler.next(2.0) == Admit(other)


def test_failed_load_drops_everyone_who_waits_for_that_model() -> None:
    """A model that cannot be loaded fails its requests at once and no others."""
    scheduler = make()
    first = scheduler.submit(A, Priority.HIGH)
    other = scheduler.submit(B, Priority.LOW)
    second = scheduler.submit(A, Priority.LOW)
    assert scheduler.next(0.0) == Load(A)
    assert scheduler.on_load_failed(A) == [first, second]
    assert scheduler.next(0.0) == Load(B)
    scheduler.on_loaded(B, 0.0)
    assert scheduler.next(0.0) == Admit(other)


def test_idle_model_is_unloaded_when_its_time_has_come() -> None:
    """The idle time runs from the end of the last row."""
    scheduler = make(idle_unload_s=10)
    scheduler.on_loaded(A, 0.0)
    ticket = scheduler.submit(A, Priority.LOW)
    assert scheduler.next(0.0) == Admit(ticket)
    assert scheduler.next(50.0) == Advance()
    scheduler.on_ended(ticket, 60.0)
    assert scheduler.next(60.0) == Wait(70.0)
    assert scheduler.next(69.9) == Wait(70.0)
    assert scheduler.next(70.0) == Unload()


def test_unload_on_demand() -> None:
    """An idle model is unloaded on demand, a model in use is not, an absent one need not be."""
    scheduler = make()
    assert not scheduler.want_unload()
    scheduler.on_loaded(A, 0.0)
    ticket = scheduler.submit(A, Priority.LOW)
    with pytest.raises(BusyError):
        scheduler.want_unload()
    assert scheduler.next(0.0) == Admit(ticket)
    with pytest.raises(BusyError):
        scheduler.want_unload()
    scheduler.on_ended(ticket, 0.0)
    assert scheduler.want_unload()
    assert scheduler.next(0.0) == Unload()
    scheduler.on_unloaded()
    assert scheduler.next(0.0) == Wait(None)


def test_preload_comes_after_those_who_wait() -> None:
    """A model to be loaded at the start is loaded when nobody waits for another one."""
    scheduler = make()
    scheduler.preload(A)
    assert scheduler.next(0.0) == Load(A)
    scheduler.submit(B, Priority.LOW)
    assert scheduler.next(0.0) == Load(B)


def test_preload_that_fails_is_not_tried_again() -> None:
    """A broken model is not loaded over and over."""
    scheduler = make()
    scheduler.preload(A)
    assert scheduler.on_load_failed(A) == []
    assert scheduler.next(0.0) == Wait(None)


class Promises(RuleBasedStateMachine):
    """Any order of events: rows stay bounded and of the loaded model, and all are served."""

    @initialize(active=st.integers(1, 3))
    def begin(self, active: int) -> None:
        self.active = active
        self.scheduler = make(active=active, queue=100)
        self.waiting: dict[int, tuple[Priority, str]] = {}
        self.running: list[int] = []
        self.model: str | None = None

    @rule(model=st.sampled_from([A, B]), priority=st.sampled_from(sorted(Priority)))
    def submit(self, model: str, priority: Priority) -> None:
        self.waiting[self.scheduler.submit(model, priority)] = (priority, model)

    @rule(ticket=st.integers(0, 30))
    def withdraw(self, ticket: int) -> None:
        known = self.waiting.pop(ticket, None) is not None
        assert self.scheduler.withdraw(ticket) == known

    @rule(ends=st.integers(0, 2))
    def step(self, ends: int) -> None:
        self.take_step(ends)

    def take_step(self, ends: int) -> bool:
        match self.scheduler.next(0.0):
            case Load(model=wanted):
                assert self.model is None
                self.model = wanted
                self.scheduler.on_loaded(wanted, 0.0)
            case Unload():
                assert self.model is not None
                assert not self.running
                self.model = None
                self.scheduler.on_unloaded()
            case Admit(ticket=ticket):
                assert ticket == min(self.waiting, key=lambda one: (self.waiting[one][0], one))
                assert self.waiting.pop(ticket)[1] == self.model
                self.running.append(ticket)
            case Advance():
                assert self.running
                for ticket in self.running[:ends]:
                    self.scheduler.on_ended(ticket, 0.0)
                del self.running[:ends]
            case Wait():
                assert not self.waiting
                assert not self.running
                return False
        return True

    @invariant()
    def rows_are_bounded(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.running) == self.scheduler.running <= self.active
            assert len(self.waiting) == self.scheduler.queued

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            # Four steps are enough for each: unload, load, admit, advance.
            steps = 4 * (len(self.waiting) + len(self.running)) + 1
            assert not all(self.take_step(1) for _ in range(steps))


TestPromises = Promises.TestCase
