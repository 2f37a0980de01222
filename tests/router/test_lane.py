"""The bounded lane with priorities, as decisions alone."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backends.wire import Priority
from router.lane import Lane, Verdict

SYSTEM, HIGH, LOW = Priority.SYSTEM, Priority.HIGH, Priority.LOW
URGENT = st.sampled_from([SYSTEM, HIGH])


def verdicts(lane: Lane[str], tickets: str, priority: Priority) -> list[Verdict]:
    """Let tickets in, one letter each, and return what each was told."""
    return [lane.enter(ticket, priority).verdict for ticket in tickets]


def test_a_lane_admits_then_queues_then_refuses() -> None:
    """Newcomers run while there is room, wait while the queue has room, and are refused then."""
    lane: Lane[str] = Lane(concurrency=1, queue=1)
    assert verdicts(lane, "abc", LOW) == [Verdict.RUN, Verdict.WAIT, Verdict.REFUSED]
    assert repr(lane) == "<Lane running=1 waiting=1>"


def test_leaving_admits_the_longest_waiting() -> None:
    """The place of one who leaves goes to the first in line; one who only waited frees no place."""
    lane: Lane[str] = Lane(concurrency=1, queue=3)
    verdicts(lane, "abcd", LOW)
    assert lane.leave("c") is None
    assert lane.leave("a") == "b"
    assert lane.leave("b") == "d"
    assert lane.leave("d") is None
    assert (lane.running, lane.waiting) == (0, 0)


def test_who_is_more_urgent_goes_first() -> None:
    """SYSTEM overtakes HIGH, and HIGH overtakes LOW, whoever came first."""
    lane: Lane[str] = Lane(concurrency=1, queue=9)
    lane.enter("running", LOW)
    for ticket, priority in (("l", LOW), ("h", HIGH), ("s", SYSTEM), ("i", HIGH)):
        lane.enter(ticket, priority)
    left, order = "running", []
    while (successor := lane.leave(left)) is not None:
        order.append(successor)
        left = successor
    assert order == ["s", "h", "i", "l"]


def test_places_are_kept_free_for_the_urgent() -> None:
    """LOW ones leave `reserve_high` places alone, which an urgent newcomer finds free."""
    lane: Lane[str] = Lane(concurrency=3, queue=9, reserve_high=2)
    assert verdicts(lane, "ab", LOW) == [Verdict.RUN, Verdict.WAIT]
    assert verdicts(lane, "hi", HIGH) == [Verdict.RUN, Verdict.RUN]
    # A reserved place that becomes free is not for LOW.
    assert lane.leave("h") is None
    assert lane.leave("a") == "b"


def test_one_place_is_always_for_low_too() -> None:
    """A reserve as large as the lane does not shut LOW out."""
    lane: Lane[str] = Lane(concurrency=1, queue=1, reserve_high=8)
    assert verdicts(lane, "ab", LOW) == [Verdict.RUN, Verdict.WAIT]


def test_after_seven_urgent_ones_the_oldest_low_one_goes() -> None:
    """A flood of HIGH lets one LOW in after seven of its own, again and again."""
    lane: Lane[int] = Lane(concurrency=1, queue=100)
    lane.enter(-1, HIGH)
    for ticket in (100, 101):
        lane.enter(ticket, LOW)
    for ticket in range(20):
        lane.enter(ticket, HIGH)
    left, order = -1, []
    while (successor := lane.leave(left)) is not None:
        order.append(successor)
        left = successor
    assert order == [*range(7), 100, *range(7, 14), 101, *range(14, 20)]


def test_urgent_ones_count_only_while_low_ones_wait() -> None:
    """Seven HIGH that nobody had to wait for give a LOW one that comes later no right of way."""
    lane: Lane[int] = Lane(concurrency=1, queue=100)
    for ticket in range(10):
        lane.enter(ticket, HIGH)
    for ticket in range(8):
        assert lane.leave(ticket) == ticket + 1
    lane.enter(100, LOW)
    assert lane.leave(8) == 9


def test_a_full_queue_makes_room_for_the_urgent() -> None:
    """An urgent newcomer displaces the LOW one that came last; among equals the newcomer loses."""
    lane: Lane[str] = Lane(concurrency=1, queue=2)
    verdicts(lane, "abc", LOW)
    assert lane.enter("h", HIGH) == (Verdict.WAIT, "c")
    assert lane.leave("c") is None
    assert lane.enter("i", HIGH) == (Verdict.WAIT, "b")
    assert lane.enter("j", HIGH) == (Verdict.REFUSED, None)
    assert lane.enter("s", SYSTEM) == (Verdict.REFUSED, None)
    assert lane.waiting == 2


class LaneMachine(RuleBasedStateMachine):
    """Whatever comes and goes, the bounds hold and nobody is forgotten."""

    @initialize(
        concurrency=st.integers(1, 4), queue=st.integers(0, 6), reserve_high=st.integers(0, 5)
    )
    def begin(self, concurrency: int, queue: int, reserve_high: int) -> None:
        self.lane: Lane[int] = Lane(concurrency, queue, reserve_high)
        self.concurrency, self.queue = concurrency, queue
        self.places_for_low = max(1, concurrency - reserve_high)
        self.running: dict[int, Priority] = {}
        self.waiting: dict[int, Priority] = {}
        self.tickets = 0

    @rule(priority=st.sampled_from([SYSTEM, HIGH, LOW]))
    def enter(self, priority: Priority) -> None:
        ticket = self.tickets = self.tickets + 1
        verdict, displaced = self.lane.enter(ticket, priority)
        if verdict is Verdict.RUN:
            self.running[ticket] = priority
        elif verdict is Verdict.WAIT:
            self.waiting[ticket] = priority
        if displaced is not None:
            low = [each for each in self.waiting if self.waiting[each] is LOW]
            assert displaced == max(low)
            assert priority is not LOW
            del self.waiting[displaced]
            assert self.lane.leave(displaced) is None
        elif verdict is Verdict.REFUSED:
            assert len(self.waiting) == self.queue
            assert priority is LOW or LOW not in self.waiting.values()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[ticket]
        successor = self.lane.leave(ticket)
        if successor is None:
            return
        priority = self.waiting.pop(successor)
        self.running[successor] = priority
        # First come, first served among equals.
        assert all(each > successor for each, other in self.waiting.items() if other is priority)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ticket]
        assert self.lane.leave(ticket) is None

    @invariant()
    def bounds_hold(self) -> None:
        low = sum(priority is LOW for priority in self.running.values())
        assert len(self.running) <= self.concurrency
        assert len(self.waiting) <= self.queue
        assert low <= self.places_for_low
        assert (self.lane.running, self.lane.waiting) == (len(self.running), len(self.waiting))

    @invariant()
    def nobody_waits_for_a_free_place(self) -> None:
        if len(self.running) == self.concurrency:
            return
        assert set(self.waiting.values()) <= {LOW}
        if self.waiting:
            low = sum(priority is LOW for priority in self.running.values())
            assert low == self.places_for_low


TestLaneMachine = LaneMachine.TestCase


@given(st.integers(1, 4), st.integers(0, 5), st.lists(URGENT, min_size=60, max_size=60))
def test_a_flood_of_urgent_ones_leaves_low_an_eighth(
    concurrency: int, reserve_high: int, flood: list[Priority]
) -> None:
    """However many urgent ones come, of sixteen that are let in two were LOW."""
    lane: Lane[int] = Lane(concurrency, 200, reserve_high)
    for ticket in range(concurrency):
        lane.enter(ticket, HIGH)
    for ticket in range(1000, 1010):
        lane.enter(ticket, LOW)
    for ticket, priority in enumerate(flood, concurrency):
        lane.enter(ticket, priority)
    running, order = list(range(concurrency)), []
    for _ in range(16):
        successor = lane.leave(running.pop(0))
        assert successor is not None
        running.append(successor)
        order.append(successor)
    assert sum(ticket >= 1000 for ticket in order) >= 2
