from collections import deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.mlx_backend.actions import (
    Action,
    Admit,
    Decode,
    Drop,
    Expire,
    Load,
    Pause,
    Prefill,
    Rest,
    Resume,
    Unload,
    Wait,
)
from backends.mlx_backend.scheduler import (
    BusyError,
    Counters,
    Limits,
    QueueFullError,
    RowCounts,
    Scheduler,
)
from backends.mlx_backend.slots import Row, Slots, Stage
from backends.wire import Priority, UnloadReason

SYSTEM, HIGH, LOW = Priority
A, B, C = "model-a", "model-b", "model-c"
SIZE_MB = 100.0
LONG = 1000
# What a row that was resumed or let in before its time is sure of.
PROTECTED = 16
OVERTAKEN = 7


@dataclass
class Job:
    """A request as the machine under the scheduler sees it: its work, and where it stands."""

    ticket: int
    model: str
    priority: Priority
    chunks: int
    answer: int
    tokens: int
    deadline: float | None = None
    chunks_left: int = 0
    answer_left: int = 0
    paused: bool = False
    cached: bool = False
    # How many steps it still has to decode alone; 0 where it decodes with the others.
    alone_left: int = 0
    protected: int = 0
    # What its cache has come to, and what a token of its answer adds.
    used: int = 0
    growth: int = 0
    # Steps taken between its submission and its first prefill.
    steps_waited: int = 0

    @property
    def low(self) -> bool:
        return self.priority is LOW

    @property
    def decoding(self) -> bool:
        return self.cached and not self.chunks_left


class Machine:
    """Does what a scheduler says, keeps its own books, and holds the scheduler to its promises.

    A step of a model and a load take a second each, everything else no time.
    """

    def __init__(self, limits: Limits | None = None, *, loaded: tuple[str, ...] = (A,)) -> None:
        self.limits = limits or Limits()
        self.scheduler = Scheduler(self.limits)
        self.now = 0.0
        self.sizes: dict[str, float] = {}
        self.loaded: list[str] = []
        self.waiting: dict[int, Job] = {}
        self.rows: dict[int, Job] = {}
        self.ended: list[int] = []
        self.begun: dict[int, int] = {}
        self.steps: deque[Action] = deque(maxlen=2)
        self.last_model_step: Action = Wait(None)
        self.read_lows: deque[bool] = deque(maxlen=OVERTAKEN)
        self.overtaken = 0
        # Of each model: whether its last decode step was one of rows together.
        self.company_last: dict[str, bool] = {}
        for model in loaded:
            self.preload(model)
            assert self.step() == Load(model)

    # What clients do.

    def preload(self, model: str, size_mb: float = SIZE_MB) -> None:
        self.sizes[model] = size_mb
        self.scheduler.preload(model, size_mb)

    def submit(
        self,
        priority: Priority = LOW,
        model: str = A,
        *,
        chunks: int = 1,
        answer: int = LONG,
        tokens: int = 1,
        growth: int = 0,
        queue_s: float | None = None,
    ) -> int:
        size_mb = self.sizes.setdefault(model, SIZE_MB)
        ticket = self.scheduler.submit(model, priority, self.now, size_mb=size_mb, queue_s=queue_s)
        deadline = None if queue_s is None else self.now + queue_s
        job = Job(ticket, model, priority, chunks, answer, tokens, deadline, growth=growth)
        self.waiting[ticket] = job
        return ticket

    def withdraw(self, ticket: int) -> None:
        assert self.scheduler.withdraw(ticket) == (ticket in self.waiting)
        if self.waiting.pop(ticket, None) is not None:
            self.ended.append(ticket)

    def end(self, ticket: int) -> None:
        self.scheduler.on_ended(ticket, self.now)
        if self.rows.pop(ticket, None) is not None:
            self.ended.append(ticket)

    # What the books say.

    @property
    def running(self) -> list[Job]:
        return [job for job in self.rows.values() if not job.paused]

    @property
    def paused(self) -> list[Job]:
        return [job for job in self.rows.values() if job.paused]

    @property
    def lows(self) -> int:
        return sum(job.low for job in self.running)

    @property
    def free(self) -> int:
        return self.limits.active - len(self.running)

    @property
    def low_waits(self) -> bool:
        return bool(self.paused) or any(job.low for job in self.waiting.values())

    @property
    def low_is_due(self) -> bool:
        return self.overtaken >= OVERTAKEN and self.low_waits and self.lows < self.limits.max_low

    @property
    def low_needs_memory(self) -> bool:
        lows = [job for job in self.waiting.values() if job.low]
        return bool(lows) and self.first(lows).model not in self.loaded

    @property
    def outgrown(self) -> bool:
        caches = [job.used for job in self.rows.values() if job.cached]
        budget = self.limits.caches_mb
        return budget is not None and len(caches) > 1 and sum(caches) > budget

    @property
    def must_yield(self) -> bool:
        return self.outgrown and any(
            job.cached and (job.paused or (job.low and not job.protected))
            for job in self.rows.values()
        )

    def first(self, jobs: list[Job]) -> Job:
        return min(jobs, key=lambda job: (job.priority, job.ticket))

    # What the engine does.

    def step(self) -> Action:  # noqa: C901  one case an action
        if not self.low_waits:
            self.overtaken = 0
        must_yield = self.must_yield
        action = self.scheduler.next(self.now)
        assert not must_yield or isinstance(action, Drop | Pause | Expire | Unload)
        self.steps.append(action)
        match action:
            case Load(model=model):
                self.load(model)
            case Unload(model=model):
                assert not any(job.model == model for job in self.rows.values())
                self.loaded.remove(model)
                self.scheduler.on_unloaded(model)
            case Admit(ticket=ticket):
                self.admit(self.waiting.pop(ticket))
            case Resume(ticket=ticket):
                self.resume(self.rows[ticket])
            case Pause(ticket=ticket):
                self.pause(self.rows[ticket])
            case Drop(ticket=ticket):
                self.drop(self.rows[ticket])
            case Prefill(ticket=ticket):
                self.prefill(self.rows[ticket])
            case Decode(model=model, alone=alone):
                self.decode(model, alone)
            case Expire(ticket=ticket):
                deadline = self.waiting.pop(ticket).deadline
                assert deadline is not None
                assert deadline <= self.now
                self.ended.append(ticket)
            case Rest() | Wait():
                assert not self.waiting, "someone waits and nothing is done"
                assert not self.rows
        if isinstance(action, Prefill | Decode):
            self.last_model_step = action
        self.check()
        return action

    def load(self, model: str) -> None:
        assert model not in self.loaded
        held = sum(self.sizes[name] for name in self.loaded)
        bound = self.limits.memory_mb
        assert bound is None or not self.loaded or held + self.sizes[model] <= bound
        self.loaded.append(model)
        self.now += 1
        self.scheduler.on_loaded(model, self.now)

    def admit(self, job: Job) -> None:
        equals = [other for other in self.waiting.values() if other.priority is job.priority]
        assert all(job.ticket < other.ticket for other in equals)
        assert job.model in self.loaded
        self.take_slot(job)
        if job.low:
            assert not self.paused, "paused rows come before queued ones"
        job.chunks_left, job.answer_left = job.chunks, job.answer
        self.rows[job.ticket] = job
        self.scheduler.on_cache_size(job.ticket, job.tokens, job.used)

    def resume(self, job: Job) -> None:
        assert job is self.first(self.paused)
        self.take_slot(job)
        job.paused = False
        job.protected = PROTECTED

    def take_slot(self, job: Job) -> None:
        assert self.free
        if not job.low:
            passes = self.low_needs_memory and self.lows
            assert passes or not self.low_is_due or not self.slot_was_free
            self.overtaken += self.low_waits
            return
        assert self.lows < self.limits.max_low
        if self.overtaken >= OVERTAKEN:
            job.protected = PROTECTED
        else:
            assert self.free > self.limits.reserve_high
        self.overtaken = 0

    @property
    def slot_was_free(self) -> bool:
        return len(self.steps) < 2 or not isinstance(self.steps[-2], Pause)

    def pause(self, job: Job) -> None:
        assert job.low
        assert not job.paused
        assert not job.protected
        unprotected = [other for other in self.running if other.low and not other.protected]
        newest = [max(other.ticket for other in unprotected)]
        if self.outgrown:
            assert not any(other.cached for other in self.paused)
            newest = []
        # For the sake of its memory, which one that has not begun does not have.
        newest += [max(other.ticket for other in unprotected if other.cached)] if job.cached else []
        assert job.ticket in newest
        job.paused = True

    def drop(self, job: Job) -> None:
        assert self.limits.caches_mb is not None
        assert job.paused
        assert job.cached
        job.cached = False
        job.chunks_left = job.chunks

    def prefill(self, job: Job) -> None:
        assert not job.paused
        assert job.chunks_left
        if isinstance(self.last_model_step, Prefill) and any(job.decoding for job in self.running):
            assert self.read_lows[-1] > job.low, "prefilled twice, a batch waits"
        assert not any(job.low > other.low and other.cached for other in self.reading) or (
            self.low_prefills_overtaken
        )
        began, job.cached = job.cached, True
        budget = self.limits.caches_mb
        caches = [other.tokens for other in self.rows.values() if other.cached]
        assert budget is None or began or len(caches) == 1 or sum(caches) <= budget
        self.read_lows.append(job.low)
        self.begun.setdefault(job.ticket, job.steps_waited)
        self.take_time()
        job.chunks_left -= 1
        if not job.chunks_left:
            self.scheduler.on_prefilled(job.ticket)

    @property
    def reading(self) -> list[Job]:
        return [job for job in self.running if job.chunks_left]

    @property
    def low_prefills_overtaken(self) -> bool:
        return len(self.read_lows) == OVERTAKEN and not any(self.read_lows)

    def decode(self, model: str, alone: int | None) -> None:
        decoding = [job for job in self.running if job.model == model and job.decoding]
        company = [job for job in decoding if not job.alone_left]
        batch = company if alone is None else [self.rows[alone]]
        assert batch
        assert all(job in decoding for job in batch)
        if alone is None:
            assert len(company) == len(decoding) or not self.company_last.get(model)
        else:
            assert batch[0].alone_left
            assert not company or self.company_last.get(model, True)
        self.company_last[model] = alone is None
        if isinstance(self.last_model_step, Decode):
            assert not any(job.cached for job in self.reading), "decoded twice, a prompt waits"
        self.take_time()
        for job in batch:
            job.answer_left -= 1
            job.used += job.growth
            job.tokens = max(job.tokens, job.used)
            self.scheduler.on_cache_size(job.ticket, job.tokens, job.used)
            job.protected = max(0, job.protected - 1)
            if job.alone_left:
                job.alone_left -= 1
                if not job.alone_left:
                    self.scheduler.on_acquitted(job.ticket)
            if not job.answer_left:
                self.end(job.ticket)

    def fail(self, model: str) -> list[int]:
        """Have a step fail in which rows of this model decode together; they are suspected."""
        jobs = [job for job in self.rows.values() if job.model == model and job.cached]
        lost = [job for job in jobs if not job.alone_left]
        for job in lost:
            suspected = job.decoding and not job.paused
            job.cached, job.chunks_left, job.alone_left = False, job.chunks, 2 * suspected
            self.scheduler.on_lost(job.ticket, suspected=suspected)
        return [job.ticket for job in lost]

    def take_time(self) -> None:
        self.now += 1
        for job in (*self.waiting.values(), *self.rows.values()):
            job.steps_waited += 1
        high = [job for job in self.waiting.values() if not job.low]
        if high and self.first(high).model in self.loaded:
            yielding = any(job.low and not job.protected for job in self.running)
            held = self.low_is_due and self.low_needs_memory and not self.lows
            assert held or not (self.free or yielding), "a HIGH waits though a slot can be had"

    def check(self) -> None:
        assert len(self.running) <= self.limits.active
        assert self.lows <= self.limits.max_low
        queued = dict.fromkeys(Priority, 0)
        for job in self.waiting.values():
            queued[job.priority] += 1
        assert self.scheduler.queued == queued
        decoding = sum(job.decoding for job in self.running)
        assert self.scheduler.rows == RowCounts(
            len(self.running) - decoding, decoding, len(self.paused)
        )
        assert self.scheduler.loaded == tuple(self.loaded)
        assert len(set(self.ended)) == len(self.ended)

    # What a test asks for.

    def take(self, number: int) -> list[Action]:
        return [self.step() for _ in range(number)]

    def until(self, kind: type[Action]) -> Action:
        for _ in range(10_000):
            action = self.step()
            if isinstance(action, kind):
                return action
        raise AssertionError(f"no {kind.__name__}")

    def drain(self) -> None:
        for _ in range(100_000):
            if isinstance(self.step(), Wait | Rest):
                return
        raise AssertionError("it never comes to rest")


def limits(**changes: object) -> Limits:
    """Return limits that differ from the defaults."""
    return replace(Limits(), **changes)  # type: ignore[arg-type]  # the names are checked at run time


def flood(machine: Machine, number: int) -> list[int]:
    """Let so many HIGHs be admitted, one after another; each ends before its first step."""
    tickets = []
    for _ in range(number):
        ticket = machine.submit(HIGH)
        assert machine.step() == Admit(ticket)
        machine.end(ticket)
        tickets.append(ticket)
    return tickets


# Order and slots.


def test_nothing_to_do_waits_for_a_submission() -> None:
    """With no model and no request there is nothing to wait for but a submission."""
    assert Scheduler(Limits()).next(0.0) == Wait(None)


def test_order_is_priority_then_arrival() -> None:
    """A smaller priority number goes first; equals go in order of arrival."""
    machine = Machine(limits(active=8, max_low=7))
    tickets = [machine.submit(priority) for priority in (LOW, HIGH, LOW, SYSTEM, HIGH)]
    assert machine.take(5) == [Admit(tickets[index]) for index in (3, 1, 4, 0, 2)]


def test_low_leaves_the_reserved_slots_free() -> None:
    """However many LOWs wait, the last slots are for HIGH."""
    machine = Machine(limits(active=4, reserve_high=2, max_low=4))
    first, second, _ = (machine.submit() for _ in range(3))
    assert machine.take(2) == [Admit(first), Admit(second)]
    assert not any(isinstance(step, Admit) for step in machine.take(50))


def test_no_more_than_max_low_rows_are_low() -> None:
    """LOW has its share of the slots and no more, though others are free."""
    machine = Machine(limits(active=8, max_low=2))
    for _ in range(3):
        machine.submit()
    machine.take(50)
    assert machine.lows == 2


def test_high_takes_every_slot() -> None:
    """HIGH and SYSTEM may hold all slots; the next one waits for a row to end."""
    machine = Machine()
    first, *others = (machine.submit(priority) for priority in (SYSTEM, HIGH, HIGH, HIGH))
    assert machine.take(4) == [Admit(first), *map(Admit, others)]
    late = machine.submit(SYSTEM)
    assert not any(isinstance(step, Admit | Pause) for step in machine.take(20))
    machine.end(others[1])
    assert machine.step() == Admit(late)


def test_slots_are_shared_by_all_models() -> None:
    """Rows of two models together take no more slots than there are."""
    machine = Machine(limits(active=3, max_low=2), loaded=(A, B))
    tickets = [machine.submit(model=model) for model in (A, B, A)]
    machine.take(50)
    assert set(machine.rows) == set(tickets[:2])


def test_withdrawn_request_is_never_admitted() -> None:
    """Withdrawing takes a waiting request out, and says so; a running one is not touched."""
    machine = Machine()
    gone, stays = machine.submit(), machine.submit()
    machine.withdraw(gone)
    machine.withdraw(gone)
    assert machine.step() == Admit(stays)
    machine.withdraw(stays)


def test_reports_of_rows_that_have_ended_are_nothing() -> None:
    """A row ends once, and what is told of it later changes nothing."""
    machine = Machine()
    ticket = machine.submit()
    machine.step()
    machine.end(ticket)
    machine.end(ticket)
    machine.scheduler.on_cache_size(ticket, 7)
    machine.scheduler.on_prefilled(ticket)
    assert machine.scheduler.rows == RowCounts(0, 0, 0)
    machine.drain()


# Pausing and coming back.


def test_high_is_admitted_before_any_step() -> None:
    """A HIGH that finds a free slot is admitted at once, whatever else is to be done."""
    machine = Machine()
    machine.submit(chunks=9)
    machine.submit()
    machine.take(6)
    high = machine.submit(HIGH)
    assert machine.step() == Admit(high)


def test_newest_low_is_paused_where_no_slot_is_free() -> None:
    """Where LOW holds the slots, a HIGH takes that of the LOW that came last."""
    machine = Machine()
    lows = [machine.submit() for _ in range(3)]
    machine.take(9)
    machine.submit(HIGH)
    machine.take(3)
    high = machine.submit(HIGH)
    assert machine.take(3) == [Pause(lows[2]), Admit(high), Prefill(high)]
    machine.step()
    late = machine.submit(SYSTEM)
    assert machine.take(3) == [Pause(lows[1]), Admit(late), Prefill(late)]
    assert machine.scheduler.rows == RowCounts(prefilling=0, decoding=4, paused=2)


def test_prefilling_low_is_paused_as_well() -> None:
    """A LOW in the middle of its prompt gives its slot, and goes on with its prompt later."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit(chunks=3)
    assert machine.take(2) == [Admit(low), Prefill(low)]
    high = machine.submit(HIGH, answer=1)
    rest = [Prefill(high), Decode(A), Resume(low), Prefill(low), Prefill(low), Decode(A)]
    assert machine.take(8) == [Pause(low), Admit(high), *rest]


def test_high_is_never_paused() -> None:
    """A HIGH waits where only HIGHs run, for another HIGH as for SYSTEM."""
    machine = Machine(limits(active=1, reserve_high=0))
    machine.submit(HIGH, answer=5)
    machine.step()
    machine.submit(SYSTEM)
    assert not any(isinstance(step, Pause | Admit) for step in machine.take(5))


def test_resumed_low_gets_its_tokens_before_it_is_paused_again() -> None:
    """A LOW that came back is not paused before it has got sixteen tokens."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit()
    machine.take(3)
    flood_of_one = machine.submit(HIGH, answer=1)
    assert machine.take(2) == [Pause(low), Admit(flood_of_one)]
    machine.end(flood_of_one)
    assert machine.step() == Resume(low)
    high = machine.submit(HIGH)
    assert machine.take(PROTECTED) == [Decode(A)] * PROTECTED
    assert machine.take(2) == [Pause(low), Admit(high)]
    assert machine.scheduler.counters == Counters(2, 1, 0, 0, 0)


def test_protection_counts_from_decoding() -> None:
    """What remains of a prompt is read under protection and takes nothing of it."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit(chunks=4)
    machine.take(2)
    high = machine.submit(HIGH)
    assert machine.take(2) == [Pause(low), Admit(high)]
    machine.end(high)
    assert machine.step() == Resume(low)
    machine.submit(HIGH)
    expected = [Prefill(low)] * 3 + [Decode(A)] * PROTECTED + [Pause(low)]
    assert machine.take(len(expected)) == expected


def test_only_the_decode_steps_of_its_own_model_count() -> None:
    """Another model's tokens are not the row's own."""
    machine = Machine(limits(active=2, reserve_high=0), loaded=(A, B))
    low = machine.submit()
    machine.submit(HIGH, B)
    machine.take(10)
    high = machine.submit(HIGH, B, answer=1)
    assert machine.step() == Pause(low)
    machine.step()
    machine.end(high)
    assert machine.step() == Resume(low)
    machine.submit(HIGH, B)
    steps = machine.take(2 * PROTECTED + 2)
    assert Pause(low) in steps
    assert steps[: steps.index(Pause(low))].count(Decode(A)) == PROTECTED


def test_paused_rows_come_back_before_queued_ones_oldest_first() -> None:
    """Who was paused goes before who was never admitted."""
    machine = Machine(limits(active=3, reserve_high=0))
    lows = [machine.submit() for _ in range(3)]
    machine.take(12)
    highs = [machine.submit(HIGH) for _ in range(2)]
    queued = machine.submit()
    assert machine.take(4) == [Pause(lows[2]), Admit(highs[0]), Pause(lows[1]), Admit(highs[1])]
    for high in highs:
        machine.end(high)
    assert machine.take(2) == [Resume(lows[1]), Resume(lows[2])]
    machine.end(lows[0])
    assert machine.step() == Admit(queued)


def test_paused_row_waits_while_a_high_waits() -> None:
    """A slot that becomes free goes to the HIGH that waits, not to the paused LOW."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit()
    machine.step()
    first, second = machine.submit(HIGH), machine.submit(HIGH)
    assert machine.take(2) == [Pause(low), Admit(first)]
    machine.end(first)
    assert machine.step() == Admit(second)


def test_paused_row_that_ends_leaves_nothing_behind() -> None:
    """A row may end while it is paused."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit()
    machine.step()
    high = machine.submit(HIGH)
    assert machine.take(2) == [Pause(low), Admit(high)]
    machine.end(low)
    machine.end(high)
    assert machine.scheduler.rows == RowCounts(0, 0, 0)
    machine.drain()


def test_slot_made_for_a_high_that_left_goes_back() -> None:
    """Where the HIGH is withdrawn between the pause and its admission, the LOW comes back."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit()
    machine.step()
    high = machine.submit(HIGH)
    assert machine.step() == Pause(low)
    machine.withdraw(high)
    assert machine.step() == Resume(low)


# Steps.


def test_prefill_and_decode_take_turns() -> None:
    """While there is both, neither is done twice in a row."""
    machine = Machine()
    first = machine.submit()
    assert machine.take(3) == [Admit(first), Prefill(first), Decode(A)]
    second = machine.submit(chunks=3)
    steps = [Prefill(second), Decode(A)] * 3
    assert machine.take(7) == [Admit(second), *steps]


def test_older_prompt_is_read_to_its_end_first() -> None:
    """Of two prompts of equal priority one is read at a time."""
    machine = Machine()
    first, second = machine.submit(chunks=2), machine.submit(chunks=1)
    prompts = [Prefill(first), Prefill(first), Prefill(second)]
    assert [step for step in machine.take(7) if isinstance(step, Prefill)] == prompts


def test_prompt_of_high_goes_before_that_of_low() -> None:
    """A LOW's prompt rests while a HIGH's is read."""
    machine = Machine()
    low = machine.submit(chunks=3)
    machine.take(2)
    high = machine.submit(HIGH, chunks=2)
    assert machine.take(3) == [Admit(high), Prefill(high), Prefill(high)]
    assert machine.take(2) == [Decode(A), Prefill(low)]


def test_high_does_not_wait_for_the_decode_step_that_a_low_owes() -> None:
    """After the step that is under way a HIGH's prompt begins, even if that was a prefill."""
    machine = Machine()
    machine.submit()
    machine.take(3)
    low = machine.submit(chunks=9)
    assert machine.take(2) == [Admit(low), Prefill(low)]
    high, other = machine.submit(HIGH), machine.submit(HIGH)
    assert machine.take(3) == [Admit(high), Admit(other), Prefill(high)]
    # But prefills of HIGHs and decode steps take turns.
    assert machine.step() == Decode(A)
    assert machine.step() == Prefill(other)


def test_models_decode_in_turn() -> None:
    """Every model that has decoding rows gets its steps, a new one next."""
    machine = Machine(loaded=(A, B, C))
    machine.submit(model=A)
    machine.submit(model=B)
    machine.take(12)
    steps = machine.take(6)
    assert steps in ([Decode(A), Decode(B)] * 3, [Decode(B), Decode(A)] * 3)
    machine.submit(HIGH, C)
    machine.take(2)
    assert machine.step() == Decode(C)


def test_suspects_decode_alone_and_in_turns_with_the_others() -> None:
    """Each takes its steps by itself; who is acquitted is back in company."""
    machine = Machine()
    first, second = machine.submit(HIGH), machine.submit(HIGH)
    machine.take(5)
    assert machine.fail(A) == [first, second]
    other = machine.submit(HIGH)
    decodes = [step for step in machine.take(16) if isinstance(step, Decode)]
    assert decodes[:2] == [Decode(A, first)] * 2
    assert decodes.count(Decode(A, first)) == decodes.count(Decode(A, second)) == 2
    assert decodes[-1] == Decode(A)
    assert other in machine.rows


def test_a_suspect_does_not_hold_up_those_who_are_none() -> None:
    """Every other decode step of the model is theirs."""
    machine = Machine()
    machine.submit(HIGH)
    machine.take(3)
    machine.fail(A)
    machine.submit(HIGH)
    machine.rows[1].alone_left = LONG
    decodes = [step for step in machine.take(20) if isinstance(step, Decode)][2:]
    assert decodes[:6] in ([Decode(A), Decode(A, 1)] * 3, [Decode(A, 1), Decode(A)] * 3)


def test_low_prompt_is_read_under_a_flood_of_high_prompts() -> None:
    """After seven prefills of HIGHs the prompt of a LOW gets one."""
    machine = Machine(limits(active=3))
    low = machine.submit(chunks=2, answer=1)
    machine.step()
    machine.submit(HIGH, chunks=LONG)
    machine.submit(HIGH, chunks=LONG)
    steps = machine.take(2 + 2 * (OVERTAKEN + 1))
    assert [index for index, step in enumerate(steps) if step == Prefill(low)] == [9, 17]


# Ageing.


def test_after_seven_highs_a_low_takes_a_reserved_slot() -> None:
    """A LOW that was overtaken seven times goes next, though only a reserved slot is free."""
    machine = Machine(limits(active=2))
    machine.submit(HIGH)
    machine.take(3)
    low = machine.submit()
    flood(machine, OVERTAKEN)
    machine.submit(HIGH)
    assert machine.step() == Admit(low)


def test_overtaken_low_that_was_let_in_is_protected() -> None:
    """A LOW that got in by its age is not paused before it has got sixteen tokens."""
    machine = Machine(limits(active=1, reserve_high=0))
    machine.submit(HIGH)
    machine.step()
    low = machine.submit()
    highs = [machine.submit(HIGH) for _ in range(OVERTAKEN + 1)]
    for high in highs[:-1]:
        machine.end(machine.running[0].ticket)
        assert machine.step() == Admit(high)
    # It takes the first slot that becomes free, before the HIGH that waits.
    assert not any(isinstance(step, Admit | Pause) for step in machine.take(5))
    machine.end(highs[-2])
    assert machine.step() == Admit(low)
    expected = [Prefill(low), *[Decode(A)] * PROTECTED, Pause(low), Admit(highs[-1])]
    assert machine.take(len(expected)) == expected


def test_overtaken_paused_row_goes_before_an_overtaken_queued_one() -> None:
    """Of the LOWs that were overtaken the paused one goes first."""
    machine = Machine(limits(active=2))
    paused = machine.submit()
    machine.take(3)
    machine.submit(HIGH)
    machine.take(3)
    queued = machine.submit()
    high = machine.submit(HIGH)
    assert machine.take(2) == [Pause(paused), Admit(high)]
    machine.end(high)
    flood(machine, OVERTAKEN - 1)
    assert machine.step() == Resume(paused)
    assert queued in machine.waiting


def test_slot_that_a_high_makes_is_its_own() -> None:
    """A LOW whose turn it is does not take the slot that another LOW was paused for."""
    machine = Machine(limits(active=3, max_low=2))
    lows = [machine.submit() for _ in range(3)]
    machine.take(8)
    flood(machine, OVERTAKEN)
    machine.submit(HIGH)
    machine.step()
    high = machine.submit(HIGH)
    assert machine.take(2) == [Pause(lows[1]), Admit(high)]


def test_age_is_forgotten_when_no_low_waits() -> None:
    """A LOW that comes later was not overtaken."""
    machine = Machine(limits(active=2))
    machine.submit(HIGH)
    machine.take(3)
    low = machine.submit()
    flood(machine, OVERTAKEN)
    machine.withdraw(low)
    machine.step()
    machine.submit()
    assert not isinstance(machine.step(), Admit)


def test_low_that_has_its_share_is_not_due() -> None:
    """However often HIGH went, LOW never has more than its share."""
    machine = Machine(limits(active=4, max_low=1))
    machine.submit()
    machine.submit()
    machine.take(4)
    flood(machine, 2 * OVERTAKEN)
    high = machine.submit(HIGH)
    assert machine.step() == Admit(high)


def test_high_passes_an_overtaken_low_that_waits_for_the_rows_of_lows() -> None:
    """As long as LOW holds the memory that a LOW waits for, a HIGH need not wait with it."""
    machine = Machine(limits(memory_mb=SIZE_MB))
    holding = machine.submit()
    machine.take(3)
    low = machine.submit(model=B)
    flood(machine, OVERTAKEN)
    high = machine.submit(HIGH)
    assert machine.step() == Admit(high)
    machine.end(holding)
    machine.submit(HIGH)
    assert not any(isinstance(step, Admit) for step in machine.take(9))
    machine.end(high)
    assert machine.take(3) == [Unload(A, UnloadReason.MEMORY), Load(B), Admit(low)]


# Memory for tokens.


def test_row_waits_for_the_caches_of_others() -> None:
    """A row begins when what all caches may grow to is within the budget."""
    machine = Machine(limits(caches_mb=100))
    first = machine.submit(tokens=60)
    second = machine.submit(tokens=41)
    assert machine.take(2) == [Admit(first), Admit(second)]
    assert machine.take(4) == [Prefill(first), Decode(A), Decode(A), Decode(A)]
    machine.end(first)
    assert machine.step() == Prefill(second)


def test_row_that_stands_alone_always_goes() -> None:
    """A row larger than the budget runs, beside no other."""
    machine = Machine(limits(caches_mb=100))
    large = machine.submit(tokens=500, answer=2)
    small = machine.submit(tokens=1)
    assert machine.take(5) == [Admit(large), Admit(small), Prefill(large), *[Decode(A)] * 2]
    assert machine.step() == Prefill(small)


def test_small_row_does_not_pass_a_large_one_that_waits_for_memory() -> None:
    """While the first in order waits for caches to go, no other row begins."""
    machine = Machine(limits(caches_mb=100))
    machine.submit(tokens=60)
    machine.take(3)
    large, small = machine.submit(tokens=50), machine.submit(tokens=10)
    assert machine.take(2) == [Admit(large), Admit(small)]
    assert not any(isinstance(step, Prefill) for step in machine.take(20))
    machine.end(large)
    assert machine.step() == Prefill(small)


def test_row_that_has_begun_goes_on_while_another_waits_for_memory() -> None:
    """A prompt that is being read is read on, though one of higher priority waits."""
    machine = Machine(limits(caches_mb=100, active=2, reserve_high=0, max_low=1))
    machine.submit(HIGH, tokens=60)
    machine.take(2)
    low = machine.submit(chunks=3, tokens=40)
    machine.take(3)
    machine.end(1)
    protected = machine.rows[low]
    assert protected.cached
    assert Prefill(low) in machine.take(2)


def test_row_that_has_begun_goes_on_though_a_high_outgrew_its_memory() -> None:
    """Neither gives way, and neither waits for the other."""
    machine = Machine(limits(caches_mb=10))
    first = machine.submit(HIGH, tokens=4, growth=3)
    second = machine.submit(HIGH, chunks=9, tokens=3)
    machine.take(3)
    steps = machine.take(12)
    assert steps.count(Decode(A)) == steps.count(Prefill(second)) == 6
    machine.end(first)


def test_paused_rows_give_their_caches_newest_first() -> None:
    """Memory comes from paused rows, and from no more of them than is needed."""
    machine = Machine(limits(caches_mb=100, active=2, reserve_high=0))
    lows = [machine.submit(tokens=40), machine.submit(tokens=40)]
    machine.take(8)
    highs = [machine.submit(HIGH, tokens=15), machine.submit(HIGH, tokens=15)]
    assert machine.take(4) == [Pause(lows[1]), Admit(highs[0]), Pause(lows[0]), Admit(highs[1])]
    steps = machine.take(6)
    assert [step for step in steps if isinstance(step, Drop)] == [Drop(lows[1])]
    assert Prefill(highs[0]) in steps
    assert Prefill(highs[1]) in steps
    assert machine.scheduler.counters.drops == 1


def test_dropped_row_is_read_again() -> None:
    """A row whose cache was dropped is prefilled again when it is resumed."""
    machine = Machine(limits(caches_mb=100, active=1, reserve_high=0))
    low = machine.submit(tokens=60)
    machine.take(4)
    high = machine.submit(HIGH, tokens=60, answer=1)
    expected = [Pause(low), Admit(high), Drop(low), Prefill(high), Decode(A), Resume(low)]
    assert machine.take(8) == [*expected, Prefill(low), Decode(A)]


def test_nothing_is_dropped_where_that_does_not_help() -> None:
    """A paused row keeps its cache as long as rows that go on hold what is missing."""
    machine = Machine(limits(caches_mb=100, active=2, reserve_high=0))
    machine.submit(HIGH, tokens=60)
    low = machine.submit(tokens=20)
    machine.take(8)
    high = machine.submit(HIGH, tokens=50)
    assert machine.take(2) == [Pause(low), Admit(high)]
    assert not any(isinstance(step, Drop | Prefill) for step in machine.take(10))
    machine.end(1)
    assert machine.take(2) == [Resume(low), Prefill(high)]


def test_high_takes_memory_from_running_lows() -> None:
    """Where paused rows hold too little, a HIGH has the newest LOW paused and dropped."""
    machine = Machine(limits(caches_mb=100))
    lows = [machine.submit(tokens=45), machine.submit(tokens=45)]
    machine.take(8)
    high = machine.submit(HIGH, tokens=50, answer=2)
    assert machine.take(3) == [Admit(high), Pause(lows[1]), Drop(lows[1])]
    # The row is back at once, and waits for memory as any other that has not begun.
    assert machine.take(3) == [Resume(lows[1]), Prefill(high), Decode(A)]
    assert machine.take(2) == [Decode(A), Prefill(lows[1])]


def test_paused_rows_give_their_caches_before_running_ones() -> None:
    """An older row that is paused anyway is dropped rather than a newer one that runs."""
    machine = Machine(limits(caches_mb=100, active=3, reserve_high=0))
    older, newer = machine.submit(tokens=30), machine.submit(tokens=30)
    machine.take(6)
    first, second = machine.submit(HIGH), machine.submit(HIGH)
    assert machine.take(3) == [Admit(first), Pause(newer), Admit(second)]
    machine.take(4)
    machine.end(first)
    assert machine.step() == Resume(newer)
    third = machine.submit(HIGH)
    assert machine.take(2) == [Pause(older), Admit(third)]
    machine.take(2 * PROTECTED)
    machine.end(second)
    large = machine.submit(HIGH, tokens=60)
    assert machine.take(3) == [Admit(large), Drop(older), Prefill(large)]


def test_low_does_not_come_back_to_where_a_high_took_its_memory() -> None:
    """A LOW that was paused for its cache stays paused until that is dropped."""
    machine = Machine(limits(caches_mb=100))
    lows = [machine.submit(tokens=45), machine.submit(tokens=45)]
    machine.take(8)
    machine.submit(HIGH, tokens=90)
    machine.step()
    steps = machine.take(8)
    assert [step for step in steps if isinstance(step, Pause | Drop)] == [
        *[Pause(lows[1]), Drop(lows[1]), Pause(lows[0]), Drop(lows[0])],
    ]


def test_low_takes_no_memory_from_running_rows() -> None:
    """A LOW waits until running rows end."""
    machine = Machine(limits(caches_mb=100))
    machine.submit(tokens=60)
    machine.submit(tokens=60)
    assert not any(isinstance(step, Pause | Drop) for step in machine.take(30))


# The queue.


def test_rows_that_outgrow_their_memory_give_way_newest_low_first() -> None:
    """A LOW is paused and its cache dropped; the HIGH goes on, and so does the last row."""
    machine = Machine(limits(caches_mb=30))
    old, high, new = (
        machine.submit(priority, tokens=10, growth=1) for priority in (LOW, HIGH, LOW)
    )
    assert machine.until(Pause) == Pause(new)
    assert machine.step() == Drop(new)
    assert machine.until(Pause) == Pause(old)
    assert machine.step() == Drop(old)
    machine.take(60)
    assert machine.rows[high].used > 30
    assert machine.scheduler.counters.drops == 2


def test_paused_rows_give_way_before_rows_that_run() -> None:
    """Nobody is paused while the cache of one who is paused already can go, however old it is."""
    slots = Slots(active=4, reserve_high=0, max_low=4, caches_mb=30)
    for ticket in (1, 2, 3):
        row = Row(ticket, A, LOW, 0.0, used_mb=20, stage=Stage.DECODING, paused=ticket == 1)
        slots.add(row, low_queued=False)
    assert slots.relieve() == Drop(1)
    assert slots.relieve() == Pause(3)
    assert slots.relieve() == Drop(3)
    assert slots.relieve() is None


def test_low_that_stands_alone_is_not_dropped_however_large() -> None:
    """It would be read again only to be dropped again."""
    machine = Machine(limits(caches_mb=20))
    alone = machine.submit(tokens=10, growth=1)
    machine.take(60)
    assert machine.rows[alone].used > 20
    assert machine.scheduler.counters.drops == machine.scheduler.counters.pauses == 0


def test_rows_of_high_are_not_dropped_for_each_other() -> None:
    """They go on, however large they have become."""
    machine = Machine(limits(caches_mb=20))
    for _ in range(2):
        machine.submit(HIGH, tokens=10, growth=1)
    machine.take(60)
    assert sum(job.used for job in machine.running) > 20
    assert machine.scheduler.counters.drops == machine.scheduler.counters.pauses == 0


def test_low_is_refused_when_the_queue_is_full() -> None:
    """The queue is bounded; rows do not count."""
    machine = Machine(limits(queue=2))
    machine.submit()
    machine.step()
    machine.submit()
    machine.submit(HIGH)
    with pytest.raises(QueueFullError):
        machine.submit()
    assert machine.scheduler.counters.refused == 1


def test_flood_of_low_does_not_shut_high_out() -> None:
    """HIGH and SYSTEM have places of their own, and as many."""
    machine = Machine(limits(queue=2))
    for priority in (LOW, LOW, HIGH, SYSTEM):
        machine.submit(priority)
    for priority in Priority:
        with pytest.raises(QueueFullError):
            machine.submit(priority)


@pytest.mark.parametrize(
    ("times_s", "retry_after_s"),
    [
        ((), 2),
        ((3.0,), 6),
        ((3.1,), 7),
        ((0.01,), 1),
        ((500.0,), 60),
        ((10.0, 20.0), 24),
    ],
)
def test_refusal_tells_when_a_place_is_likely(
    times_s: tuple[float, ...], retry_after_s: int
) -> None:
    """The mean time of a row, times those before it, over the rows that run at once."""
    scheduler = Scheduler(limits(active=2, max_low=2, reserve_high=0, queue=4))
    scheduler.preload(A, SIZE_MB)
    scheduler.next(0.0)
    scheduler.on_loaded(A, 0.0)
    for taken_s in times_s:
        ticket = scheduler.submit(A, LOW, 50.0, size_mb=SIZE_MB)
        assert scheduler.next(100.0) == Admit(ticket)
        scheduler.on_ended(ticket, 100.0 + taken_s)
    for _ in range(4):
        scheduler.submit(A, LOW, 200.0, size_mb=SIZE_MB)
    with pytest.raises(QueueFullError) as refusal:
        scheduler.submit(A, LOW, 200.0, size_mb=SIZE_MB)
    assert refusal.value.retry_after_s == retry_after_s


def test_request_expires_though_rows_run() -> None:
    """Who has waited for as long as it may is refused, the first deadline first."""
    machine = Machine(limits(active=1, reserve_high=0))
    machine.submit()
    machine.take(2)
    late, soon, patient = (machine.submit(queue_s=wait) for wait in (4.0, 2.0, None))
    steps = machine.take(7)
    assert [step for step in steps if isinstance(step, Expire)] == [Expire(soon), Expire(late)]
    assert steps.index(Expire(soon)) == 2
    assert list(machine.waiting) == [patient]
    assert machine.scheduler.counters.expired == 2


def test_deadline_ends_with_admission() -> None:
    """Once admitted, a request does not expire; nor does one that was withdrawn."""
    machine = Machine(limits(active=1, reserve_high=0))
    machine.submit(queue_s=1.0)
    machine.step()
    machine.withdraw(machine.submit(queue_s=1.0))
    assert not any(isinstance(step, Expire) for step in machine.take(9))


def test_a_load_uses_up_nobodys_deadline() -> None:
    """Nobody could be served meanwhile, so whoever waits has that much longer, and no more."""
    machine = Machine(loaded=())
    ticket = machine.submit(queue_s=0.5)
    assert machine.take(2) == [Load(A), Admit(ticket)]
    scheduler = Scheduler(Limits(active=1, reserve_high=0))
    (first, second) = (scheduler.submit(A, LOW, 0.0, size_mb=1, queue_s=5.0) for _ in range(2))
    assert scheduler.next(1.0) == Load(A)
    scheduler.on_loaded(A, 101.0)
    assert scheduler.next(101.0) == Admit(first)
    assert scheduler.next(104.9) == Prefill(first)
    assert scheduler.next(105.1) == Expire(second)


# Models.


def test_first_request_loads_its_model_once() -> None:
    """Any number of requests for an absent model ask for one load, then are admitted in turn."""
    machine = Machine(loaded=())
    tickets = [machine.submit() for _ in range(2)]
    assert machine.take(3) == [Load(A), Admit(tickets[0]), Admit(tickets[1])]


def test_models_that_fit_are_loaded_side_by_side() -> None:
    """Another model is loaded beside one whose rows run."""
    machine = Machine(limits(memory_mb=2 * SIZE_MB))
    first = machine.submit()
    machine.take(3)
    other = machine.submit(model=B)
    assert machine.take(2) == [Load(B), Admit(other)]
    assert machine.scheduler.loaded == (A, B)
    assert first in machine.rows


def test_least_recently_used_model_makes_room() -> None:
    """Of the models without rows the one of no use for the longest goes."""
    machine = Machine(limits(memory_mb=3 * SIZE_MB), loaded=(A, B))
    machine.submit(model=A, answer=1)
    machine.drain()
    machine.preload(C)
    machine.drain()
    ticket = machine.submit(model="model-d")
    assert machine.take(3) == [Unload(B, UnloadReason.MEMORY), Load("model-d"), Admit(ticket)]


def test_model_with_rows_does_not_make_room() -> None:
    """The one without rows goes, though it was of use later."""
    machine = Machine(limits(memory_mb=2 * SIZE_MB), loaded=(A, B))
    machine.submit(model=A)
    machine.take(3)
    machine.submit(model=B, answer=1)
    machine.take(4)
    machine.submit(model=C)
    assert machine.take(2) == [Unload(B, UnloadReason.MEMORY), Load(C)]


def test_head_waits_for_rows_and_nobody_passes_it() -> None:
    """Where every model has rows, none is let in behind the head, so that the rows can end."""
    machine = Machine(limits(memory_mb=SIZE_MB))
    first = machine.submit(answer=4)
    assert machine.take(2) == [Admit(first), Prefill(first)]
    other = machine.submit(HIGH, B)
    machine.submit(HIGH)
    machine.submit()
    assert machine.take(7) == [
        *[Decode(A)] * 4,
        Unload(A, UnloadReason.MEMORY),
        Load(B),
        Admit(other),
    ]


def test_rows_end_before_the_model_that_the_head_needs() -> None:
    """A LOW head for another model waits for the running rows; equals behind it wait as well."""
    machine = Machine(limits(memory_mb=SIZE_MB))
    first = machine.submit(answer=3)
    other, behind = machine.submit(model=B, answer=1), machine.submit()
    assert machine.take(5) == [Admit(first), Prefill(first), *[Decode(A)] * 3]
    assert machine.take(3) == [Unload(A, UnloadReason.MEMORY), Load(B), Admit(other)]
    assert machine.take(5) == [
        Prefill(other),
        Decode(B),
        Unload(B, UnloadReason.MEMORY),
        Load(A),
        Admit(behind),
    ]


def test_high_passes_a_low_that_waits_for_memory() -> None:
    """A HIGH for a loaded model does not wait behind a LOW for another."""
    machine = Machine(limits(memory_mb=SIZE_MB))
    machine.submit()
    machine.submit(model=B)
    machine.take(3)
    high = machine.submit(HIGH)
    assert machine.step() == Admit(high)


def test_paused_rows_are_finished_for_a_high_that_needs_their_memory() -> None:
    """Rows that are paused come back and end, though a HIGH waits for another model."""
    machine = Machine(limits(memory_mb=SIZE_MB, active=1, reserve_high=0))
    low = machine.submit(answer=3)
    machine.take(2)
    high = machine.submit(HIGH, answer=1)
    assert machine.take(2) == [Pause(low), Admit(high)]
    other = machine.submit(HIGH, B)
    steps = machine.take(9)
    assert steps == [
        *[Prefill(high), Decode(A), Resume(low)],
        *[Decode(A)] * 3,
        *[Unload(A, UnloadReason.MEMORY), Load(B), Admit(other)],
    ]


def test_nobody_is_paused_for_a_high_that_needs_another_model_first() -> None:
    """A LOW keeps its slot while the HIGH could not run in it yet; the load goes first."""
    machine = Machine(limits(active=1, reserve_high=0))
    low = machine.submit()
    machine.take(2)
    high = machine.submit(HIGH, B)
    assert machine.take(3) == [Load(B), Pause(low), Admit(high)]


def test_model_is_not_loaded_for_a_request_that_has_no_slot() -> None:
    """No running row loses time to a load whose request could not run."""
    machine = Machine(limits(active=1, reserve_high=0))
    machine.submit(HIGH)
    machine.take(3)
    machine.submit(LOW, B)
    machine.submit(HIGH, B)
    assert machine.take(9) == [Decode(A)] * 9


def test_flood_of_high_for_one_model_lets_a_low_for_another_in() -> None:
    """An overtaken LOW gets its model, though HIGHs keep asking for the one in memory."""
    machine = Machine(limits(memory_mb=SIZE_MB))
    running = machine.submit(HIGH)
    machine.take(3)
    low = machine.submit(model=B)
    flood(machine, OVERTAKEN)
    machine.submit(HIGH)
    assert machine.take(3) == [Decode(A)] * 3
    machine.end(running)
    assert machine.take(3) == [Unload(A, UnloadReason.MEMORY), Load(B), Admit(low)]


def test_failed_load_drops_everyone_who_waits_for_that_model() -> None:
    """A model that cannot be loaded fails its requests at once and no others."""
    scheduler = Scheduler(Limits())
    first, other, second = (
        scheduler.submit(model, priority, 0.0, size_mb=SIZE_MB)
        for model, priority in ((A, HIGH), (B, LOW), (A, LOW))
    )
    assert scheduler.next(0.0) == Load(A)
    assert scheduler.on_load_failed(A) == [first, second]
    assert scheduler.next(0.0) == Load(B)
    scheduler.on_loaded(B, 0.0)
    assert scheduler.next(0.0) == Admit(other)


def test_single_model_above_the_bound_is_loaded() -> None:
    """The engine refuses what is too large; alone in memory a model may be tried."""
    machine = Machine(limits(memory_mb=SIZE_MB / 2))
    assert machine.scheduler.loaded == (A,)


def test_preload_comes_after_those_who_wait() -> None:
    """A model to be loaded at the start is loaded when nobody waits for another one."""
    scheduler = Scheduler(Limits())
    scheduler.preload(A, SIZE_MB)
    assert scheduler.next(0.0) == Load(A)
    scheduler.submit(B, LOW, 0.0, size_mb=SIZE_MB)
    assert scheduler.next(0.0) == Load(B)


def test_preload_waits_while_anything_runs() -> None:
    """No row loses time to a load that nobody waits for."""
    machine = Machine()
    machine.submit(answer=3)
    machine.step()
    machine.preload(B)
    assert machine.take(5) == [Prefill(1), *[Decode(A)] * 3, Load(B)]


def test_preload_evicts_nobody() -> None:
    """A model that nobody asked for waits until it fits."""
    machine = Machine(limits(memory_mb=SIZE_MB, idle_unload_s=500))
    machine.preload(B)
    assert isinstance(machine.until(Wait), Wait)
    machine.now += 500
    assert machine.take(2) == [Unload(A, UnloadReason.IDLE), Load(B)]


def test_preload_of_what_is_loaded_is_nothing() -> None:
    """A model is loaded once."""
    machine = Machine()
    machine.preload(A)
    machine.drain()
    assert machine.loaded == [A]


def test_preload_that_fails_is_not_tried_again() -> None:
    """A broken model is not loaded over and over."""
    scheduler = Scheduler(Limits())
    scheduler.preload(A, SIZE_MB)
    assert scheduler.next(0.0) == Load(A)
    assert scheduler.on_load_failed(A) == []
    assert scheduler.next(0.0) == Wait(None)


def test_unload_on_demand() -> None:
    """An idle model is unloaded on demand, a model in use is not, an absent one need not be."""
    machine = Machine(loaded=(A, B))
    scheduler = machine.scheduler
    assert not scheduler.want_unload(C)
    ticket = machine.submit()
    for model in (A, None):
        with pytest.raises(BusyError):
            scheduler.want_unload(model)
    machine.step()
    with pytest.raises(BusyError):
        scheduler.want_unload(A)
    assert scheduler.want_unload(B)
    assert machine.step() == Unload(B, UnloadReason.ASKED)
    machine.end(ticket)
    assert scheduler.want_unload()
    assert machine.step() == Unload(A, UnloadReason.ASKED)
    assert machine.step() == Wait(None)
    assert not scheduler.want_unload()


def test_unload_on_demand_ends_a_preload() -> None:
    """What nobody wants any more is not loaded."""
    scheduler = Scheduler(Limits())
    scheduler.preload(A, SIZE_MB)
    assert not scheduler.want_unload()
    assert scheduler.next(0.0) == Wait(None)


# Idleness.


def test_idle_model_is_unloaded_while_another_runs() -> None:
    """Every model has its own idle time, which runs from the end of its last row."""
    machine = Machine(limits(idle_unload_s=10), loaded=(A, B))
    machine.submit(model=B, answer=2)
    machine.take(4)
    ended_at = machine.now
    machine.submit(model=A)
    while not isinstance(machine.step(), Unload):
        assert machine.now < ended_at + 11
    assert machine.now == ended_at + 10
    assert machine.loaded == [A]


def test_model_is_not_idle_while_a_row_waits_or_is_paused() -> None:
    """Neither a long row nor a paused one nor a queued request leaves its model idle."""
    machine = Machine(limits(idle_unload_s=5, active=1, reserve_high=0), loaded=(A, B, C))
    low = machine.submit(model=B)
    machine.step()
    machine.submit(HIGH, A)
    assert machine.step() == Pause(low)
    machine.submit(HIGH, C)
    machine.take(40)
    assert machine.loaded == [A, B, C]


def test_idle_time_begins_when_the_last_request_leaves_the_queue() -> None:
    """A request that waited and left was use, though it never ran."""
    machine = Machine(limits(idle_unload_s=10, active=1, reserve_high=0), loaded=(A, B))
    machine.submit(HIGH)
    waiting = machine.submit(model=B)
    machine.take(22)
    machine.withdraw(waiting)
    assert machine.take(10) == [Decode(A)] * 9 + [Unload(B, UnloadReason.IDLE)]


def test_model_that_is_waited_for_is_not_idle() -> None:
    """Even without any idle time a model stays for a request that a HIGH overtook."""
    machine = Machine(limits(idle_unload_s=0, active=1, reserve_high=0), loaded=())
    machine.submit(model=B)
    assert machine.step() == Load(B)
    high = machine.submit(HIGH)
    assert machine.take(3) == [Load(A), Admit(high), Prefill(high)]
    assert machine.loaded == [B, A]


def test_idle_time_of_nought_unloads_at_once() -> None:
    """Zero seconds are no seconds."""
    machine = Machine(limits(idle_unload_s=0), loaded=())
    machine.submit(answer=1)
    assert machine.take(4)[-1] == Decode(A)
    assert machine.take(2) == [Unload(A, UnloadReason.IDLE), Wait(None)]


def test_rest_once_after_what_ran() -> None:
    """The batches' memory is given back once, and again only after something has run."""
    machine = Machine(limits(queue_idle_stop_s=5, idle_unload_s=50))
    machine.submit(answer=1)
    machine.take(3)
    ended_at = machine.now
    assert machine.step() == Wait(ended_at + 5)
    machine.now = ended_at + 5
    assert machine.take(2) == [Rest(), Wait(ended_at + 50)]
    machine.submit(answer=1)
    machine.take(3)
    assert machine.step() == Wait(machine.now + 5)


def test_rest_after_a_load_that_nothing_followed() -> None:
    """Loading leaves memory behind as well."""
    machine = Machine(limits(queue_idle_stop_s=5))
    assert machine.step() == Wait(machine.now + 5)
    machine.now += 5
    assert machine.step() == Rest()


def test_wait_ends_with_the_model_where_that_is_sooner() -> None:
    """The wait is until whatever comes first."""
    machine = Machine(limits(queue_idle_stop_s=50, idle_unload_s=5))
    assert machine.step() == Wait(machine.now + 5)
    machine.now += 5
    assert machine.take(2) == [Unload(A, UnloadReason.IDLE), Wait(None)]


@pytest.mark.parametrize("wrong", [{"active": 1}, {"reserve_high": -1}, {"max_low": 0}])
def test_limits_leave_room_for_low(wrong: dict[str, int]) -> None:
    """Limits under which LOW could never run are refused."""
    with pytest.raises(ValueError, match="must"):
        limits(**wrong)


def test_repr_tells_the_state() -> None:
    """What is printed of it says who waits, runs and is loaded."""
    machine = Machine()
    machine.submit()
    machine.submit()
    machine.step()
    assert "model-a" in repr(machine.scheduler)
    assert "<Slots 1/4 paused=0>" in repr(machine.scheduler)


# Over time.


def test_high_waits_for_no_step_over_a_queue_of_lows() -> None:
    """Sixty-four LOWs of 200 tokens all end; each HIGH among them waits for one step at most."""
    machine = Machine()
    lows = [machine.submit(chunks=2, answer=200) for _ in range(64)]
    highs = []
    for step in range(100_000):
        if step % 7 == 0 and machine.waiting:
            highs.append(machine.submit(HIGH, chunks=1, answer=2))
        if isinstance(machine.step(), Wait | Rest):
            break
    assert set(machine.ended) == {*lows, *highs}
    assert len(highs) > 500
    assert max(machine.begun[high] for high in highs) <= 1


@pytest.mark.parametrize("models", [(A,), (A, B)])
@pytest.mark.parametrize("caches_mb", [None, 50])
def test_flood_of_high_lets_every_low_end(models: tuple[str, ...], caches_mb: int | None) -> None:
    """With four HIGHs waiting at any time, for any model, every LOW ends."""
    machine = Machine(limits(memory_mb=SIZE_MB, caches_mb=caches_mb), loaded=())
    lows = {machine.submit(model=model, answer=40, tokens=40) for model in models * 4}
    for step in range(50_000):
        if sum(not job.low for job in machine.waiting.values()) < 4:
            machine.submit(HIGH, models[step // 50 % len(models)], answer=5, chunks=3, tokens=20)
        machine.step()
        if lows <= set(machine.ended):
            return
    raise AssertionError(f"{len(lows - set(machine.ended))} LOWs are left")


class Promises(RuleBasedStateMachine):
    """Any order of events keeps the promises that the machine checks at every action."""

    @initialize(
        active=st.integers(1, 4),
        max_low=st.integers(1, 4),
        memory=st.sampled_from([None, 1, 2]),
        caches_mb=st.sampled_from([None, 10, 25]),
        data=st.data(),
    )
    def begin(
        self,
        active: int,
        max_low: int,
        memory: int | None,
        caches_mb: int | None,
        data: st.DataObject,
    ) -> None:
        wanted = Limits(
            active=active,
            max_low=max_low,
            reserve_high=data.draw(st.integers(0, active - 1)),
            idle_unload_s=data.draw(st.sampled_from([0, 20, 900])),
            queue_idle_stop_s=30,
            memory_mb=memory and memory * SIZE_MB,
            caches_mb=caches_mb,
        )
        self.machine = Machine(wanted, loaded=())
        self.tickets: list[int] = []

    @rule(
        model=st.sampled_from([A, B, C]),
        priority=st.sampled_from(sorted(Priority)),
        chunks=st.integers(1, 3),
        answer=st.integers(1, 25),
        tokens=st.integers(1, 30),
        growth=st.integers(0, 3),
        queue_s=st.sampled_from([None, None, 3.0, 30.0]),
    )
    def submit(
        self,
        model: str,
        priority: Priority,
        chunks: int,
        answer: int,
        tokens: int,
        growth: int,
        queue_s: float | None,
    ) -> None:
        self.tickets.append(
            self.machine.submit(
                priority,
                model,
                chunks=chunks,
                answer=answer,
                tokens=tokens,
                growth=growth,
                queue_s=queue_s,
            )
        )

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.machine.withdraw(data.draw(st.sampled_from(self.tickets)))

    @precondition(lambda self: self.machine.rows)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.machine.end(data.draw(st.sampled_from(sorted(self.machine.rows))))

    @rule(model=st.sampled_from([None, A, B]))
    def want_unload(self, model: str | None) -> None:
        jobs = [*self.machine.waiting.values(), *self.machine.rows.values()]
        if any(model in {None, job.model} for job in jobs):
            with pytest.raises(BusyError):
                self.machine.scheduler.want_unload(model)
        else:
            self.machine.scheduler.want_unload(model)

    @rule(model=st.sampled_from([A, B]))
    def preload(self, model: str) -> None:
        self.machine.preload(model)

    @rule(model=st.sampled_from([A, B]))
    def fail(self, model: str) -> None:
        self.machine.fail(model)

    @rule(seconds=st.sampled_from([1, 20, 1000]))
    def let_time_pass(self, seconds: int) -> None:
        self.machine.now += seconds

    @rule(steps=st.integers(1, 20))
    def go_on(self, steps: int) -> None:
        self.machine.take(steps)

    @invariant()
    def every_ticket_is_in_one_place(self) -> None:
        if hasattr(self, "machine"):
            machine = self.machine
            places = [*machine.waiting, *machine.rows, *machine.ended]
            assert sorted(places) == sorted(self.tickets)

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.drain()
            assert sorted(self.machine.ended) == sorted(self.tickets)


TestPromises = Promises.TestCase
