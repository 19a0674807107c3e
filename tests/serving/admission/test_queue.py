"""The places in Triton, and the queues for them."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.admission.estimate import FRESH_S, ServiceTimes
from serving.admission.queue import LONGEST_RETRY_S, Admission
from serving.errors import Refusal
from serving.types import SlotName

SLOT, OTHER = SlotName("tiny"), SlotName("other")


class Rooms:
    """Callers of an admission, by name, in the order in which they got in."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.entered: list[str] = []
        self.refused: dict[str, Refusal] = {}
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(
        self, *names: str, slot: SlotName = SLOT, stake: float = 0.0, within_s: float = 60.0
    ) -> None:  # fmt: skip
        for name in names:
            self._leave[name] = asyncio.Event()
            deadline = time.monotonic() + within_s
            self._tasks[name] = asyncio.create_task(self._stay(name, slot, stake, deadline))
            await self.settle()

    async def _stay(self, name: str, slot: SlotName, stake: float, deadline: float) -> None:
        try:
            await self.admission.enter(slot=slot, stake=stake, deadline=deadline)
        except Refusal as refused:
            self.refused[name] = refused
            return
        self.entered.append(name)
        try:
            await self._leave[name].wait()
        finally:
            self.admission.leave(slot)

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self.settle()

    async def hang_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await self.settle()

    async def gone(self, name: str) -> None:
        await self._tasks[name]

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_the_highest_stake_goes_first_then_the_earliest_deadline() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=8))
    await rooms.come("first")
    await rooms.come("low", stake=1)
    await rooms.come("high", stake=9)
    await rooms.come("high but later", stake=9, within_s=90)
    for name in ("first", "high", "high but later", "low"):
        await rooms.leave(name)
    assert rooms.entered == ["first", "high", "high but later", "low"]
    assert rooms.admission.in_flight == 0


async def test_when_the_queue_is_full_the_least_stake_is_refused_at_once() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=2))
    for name, stake in (("in", 1.0), ("low", 1.0), ("middle", 5.0)):
        await rooms.come(name, stake=stake)
    await rooms.come("high", stake=9.0)
    assert list(rooms.refused) == ["low"]
    await rooms.come("newcomer with nothing", stake=0.0)
    assert list(rooms.refused) == ["low", "newcomer with nothing"]
    refused = rooms.refused["low"]
    assert (refused.status, refused.code, refused.retry_after) == (503, "queue_full", 1)


async def test_nobody_waits_past_the_deadline() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=2))
    await rooms.come("in")
    await rooms.come("gone before it came", within_s=-1.0)
    await rooms.come("hurried", within_s=0.01)
    await rooms.gone("hurried")
    assert rooms.refused["hurried"].code == "too_late"
    assert rooms.refused["gone before it came"].code == "too_late"
    assert rooms.admission.waiting == 0


async def test_a_caller_who_hangs_up_frees_its_place() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=2))
    await rooms.come("in")
    await rooms.come("waits")
    await rooms.come("waits too")
    await rooms.hang_up("waits")
    await rooms.hang_up("in")
    assert rooms.entered == ["in", "waits too"]
    await rooms.leave("waits too")
    assert (rooms.admission.in_flight, rooms.admission.waiting) == (0, 0)


async def test_a_newcomer_to_a_full_queue_takes_the_seat_of_who_hung_up_in_the_same_breath() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=1))
    await rooms.come("in")
    await rooms.come("leaves", stake=1)
    newcomer = asyncio.create_task(rooms.come("stays", stake=9))
    await asyncio.sleep(0)  # its own task is made, and takes its first step behind the one that is ended
    await rooms.hang_up("leaves")
    await newcomer
    await rooms.leave("in")
    assert (rooms.entered, rooms.refused) == (["in", "stays"], {})


def taught(seconds: float, now: float | None = None, slot: SlotName = SLOT) -> ServiceTimes:
    """Times that have seen answers of `seconds`."""
    times = ServiceTimes() if now is None else ServiceTimes(clock=lambda: now)
    for _ in range(20):
        times.learn(slot, seconds)
    return times


async def test_what_takes_longer_than_its_deadline_is_refused_though_there_is_room() -> None:
    rooms = Rooms(Admission(in_flight=4, waiting=4, times=taught(5.0)))
    await rooms.come("hurried", within_s=2.0)
    await rooms.come("patient", within_s=20.0)
    assert rooms.entered == ["patient"]
    assert (rooms.refused["hurried"].status, rooms.refused["hurried"].code) == (503, "too_late")


async def test_who_cannot_be_answered_behind_those_before_it_is_refused_at_once() -> None:
    rooms = Rooms(Admission(in_flight=2, waiting=8, times=taught(20.0)))
    for name in ("one", "two"):
        await rooms.come(name)
    await rooms.come("third", stake=5, within_s=35.0)  # waits 10 s and takes 20
    await rooms.come("fourth", within_s=35.0)  # would wait 20 s
    await rooms.come("richest", stake=9, within_s=35.0)  # goes first
    assert rooms.entered == ["one", "two"]
    assert list(rooms.refused) == ["fourth"]
    assert rooms.refused["fourth"].retry_after == 20  # the queue of one moves at a place in 10 s, and so will the next
    await rooms.leave("one")
    await rooms.leave("two")
    assert rooms.entered == ["one", "two", "richest", "third"]


async def test_a_place_is_not_given_to_whom_it_cannot_help_any_more() -> None:
    now = [1000.0]
    rooms = Rooms(Admission(in_flight=1, waiting=8, clock=lambda: now[0]))
    await rooms.admission.enter(slot=SLOT, stake=0, deadline=1050.0)
    waits = asyncio.create_task(rooms.admission.enter(slot=SLOT, stake=9, deadline=1005.0))
    also = asyncio.create_task(rooms.admission.enter(slot=SLOT, stake=1, deadline=1050.0))
    await rooms.settle()
    now[0] = 1006.0  # the loop was busy: its timers come after this
    rooms.admission.leave(SLOT)
    await also
    with pytest.raises(Refusal) as refused:
        await waits
    assert refused.value.code == "too_late"
    assert (rooms.admission.in_flight, rooms.admission.waiting) == (1, 0)


async def test_what_was_learnt_long_ago_refuses_nobody() -> None:
    times = taught(5.0, now=time.monotonic() - FRESH_S - 1)
    rooms = Rooms(Admission(in_flight=1, waiting=4, times=times))
    times._clock = time.monotonic
    await rooms.come("hurried", within_s=1.0)
    assert rooms.entered == ["hurried"]


async def test_retry_after_is_bounded() -> None:
    rooms = Rooms(Admission(in_flight=1, waiting=0, times=taught(1000.0)))
    await rooms.come("in", within_s=5000.0)
    await rooms.come("out", within_s=5000.0)
    assert rooms.refused["out"].code == "queue_full"
    assert rooms.refused["out"].retry_after == LONGEST_RETRY_S


# Slots beside each other


def of_two_slots(in_flight: int, waiting: int = 8, times: ServiceTimes | None = None) -> Rooms:
    return Rooms(Admission(in_flight=in_flight, waiting=waiting, slots=[SLOT, OTHER], times=times))


async def test_half_of_the_places_stay_the_slots_own_and_the_rest_is_for_whoever_comes() -> None:
    rooms = of_two_slots(8)
    await rooms.come(*"abcdefgh")
    assert rooms.entered == [*"abcdef"]
    assert rooms.admission.busy(SLOT)
    assert not rooms.admission.busy(OTHER)
    await rooms.come(*"123", slot=OTHER)
    assert rooms.entered == [*"abcdef", "1", "2"]
    await rooms.leave("1")  # a place of its own: no other slot gets it
    assert rooms.entered == [*"abcdef", "1", "2", "3"]
    await rooms.leave("2")
    await rooms.leave("3")
    assert rooms.entered == [*"abcdef", "1", "2", "3"]
    assert (rooms.admission.in_flight, rooms.admission.waiting) == (6, 2)


@pytest.mark.parametrize(("slots", "places", "own"), [(2, 16, 4), (5, 16, 1), (3, 4, 1), (2, 2, 0), (3, 2, 0)])
async def test_each_slot_has_one_place_of_its_own_at_least_where_there_are_more_places_than_slots(
    slots: int, places: int, own: int
) -> None:
    names = [SLOT, *(SlotName(f"slot-{number}") for number in range(1, slots))]
    rooms = Rooms(Admission(in_flight=places, waiting=8, slots=names))
    await rooms.come(*map(str, range(places)))
    assert len(rooms.entered) == places - own * (slots - 1)


async def test_a_single_slot_has_all_places() -> None:
    rooms = Rooms(Admission(in_flight=4, waiting=8, slots=[SLOT]))
    await rooms.come(*"abcde")
    assert rooms.entered == [*"abcd"]


async def test_a_place_goes_to_the_slot_that_holds_the_fewest_and_to_the_most_stake_where_they_hold_alike() -> None:
    rooms = of_two_slots(8)
    await rooms.come(*"abcdef")
    await rooms.come("rich", "rich too", stake=9)
    await rooms.come("1", "2", slot=OTHER)
    await rooms.come("poor", "poor too", slot=OTHER, stake=1)
    await rooms.leave("a")  # five against two
    assert rooms.entered[-1] == "poor"
    await rooms.leave("b")
    assert rooms.entered[-1] == "poor too"
    await rooms.come("poor still", slot=OTHER, stake=1)
    await rooms.leave("c")  # three against four
    assert rooms.entered[-1] == "rich"
    await rooms.leave("1")  # four against three
    assert rooms.entered[-1] == "poor still"


async def test_the_queue_of_a_slot_that_hangs_neither_keeps_out_nor_pushes_out_another_slots_callers() -> None:
    rooms = of_two_slots(4, waiting=2)
    await rooms.come(*"abc")
    await rooms.come("1", "2", slot=OTHER, stake=1)
    await rooms.come("hangs", "hangs too", stake=9)
    await rooms.come("3", slot=OTHER, stake=1)
    assert (rooms.admission.waiting, rooms.refused) == (4, {})
    await rooms.come("hangs as well", stake=10)
    assert list(rooms.refused) == ["hangs too"]
    await rooms.come("4", slot=OTHER)
    assert list(rooms.refused) == ["hangs too", "4"]
    for name in "123":
        await rooms.leave(name)
    assert rooms.entered == [*"abc", *"123"]


async def test_how_long_one_slots_answers_take_refuses_nobody_of_another() -> None:
    rooms = of_two_slots(4, times=taught(50.0, slot=OTHER))
    await rooms.come(*"123", slot=OTHER, within_s=500.0)
    await rooms.come("a", "b", within_s=5.0)
    await rooms.come("4", slot=OTHER, within_s=60.0)  # one of three places in 17 s, and 50 s more
    assert list(rooms.refused) == ["4"]
    assert rooms.refused["4"].retry_after == 17
    await rooms.leave("a")
    assert rooms.entered == [*"123", "a", "b"]


async def test_a_slot_that_nobody_told_of_shares_the_common_places() -> None:
    rooms = of_two_slots(4)
    await rooms.come(*"xyz", slot=SlotName("unheard-of"))
    await rooms.come("a")
    assert rooms.entered == ["x", "y", "a"]
    await rooms.leave("a")
    assert rooms.entered == ["x", "y", "a"]
    await rooms.leave("x")
    assert rooms.entered == ["x", "y", "a", "z"]


class Guest(NamedTuple):
    """Somebody who came to the queue."""

    slot: SlotName
    stake: int
    deadline: float
    arrival: int
    task: asyncio.Task[None]

    def rank(self) -> tuple[int, float, int]:
        return -self.stake, self.deadline, self.arrival


class TimedLoop(asyncio.SelectorEventLoop):
    """A loop whose time stands still until it is set."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class Queueing(RuleBasedStateMachine):
    """Admission beside a plain model of it: whatever order things happen in, no place is lost and none is doubled."""

    PLACES, OWN, SEATS = 5, 1, 3
    SLOTS = (SLOT, OTHER)
    slots = st.sampled_from(SLOTS)

    def __init__(self) -> None:
        super().__init__()
        self.loop = TimedLoop()
        self.admission = Admission(
            in_flight=self.PLACES, waiting=self.SEATS, slots=self.SLOTS, clock=self.loop.time
        )  # fmt: skip
        self.inside: list[Guest] = []
        self.queue: list[Guest] = []
        self.hung: set[SlotName] = set()
        self.arrivals = 0

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def refusal(self, guest: Guest) -> str:
        assert guest.task.done(), guest
        error = guest.task.exception()
        assert isinstance(error, Refusal), error
        return error.code

    def held(self, slot: SlotName) -> int:
        return sum(guest.slot == slot for guest in self.inside)

    def has_room(self, slot: SlotName) -> bool:
        kept = sum(max(0, self.OWN - self.held(other)) for other in self.SLOTS if other != slot)
        return len(self.inside) + kept < self.PLACES

    def next(self) -> Guest | None:
        """Who goes in now: somebody of the slot that holds the fewest."""
        able = [guest for guest in self.queue if self.has_room(guest.slot)]
        return min(able, key=lambda guest: (self.held(guest.slot), guest.rank()), default=None)

    def go_in(self) -> None:
        while (guest := self.next()) is not None:
            self.queue.remove(guest)
            self.inside.append(guest)

    @rule(slot=slots, stake=st.integers(0, 3), within_s=st.integers(-1, 20))
    def come(self, slot: SlotName, stake: int, within_s: int) -> None:
        self.arrivals += 1
        deadline = self.loop.now + within_s
        task = self.loop.create_task(self.admission.enter(slot=slot, stake=stake, deadline=deadline))
        guest = Guest(slot, stake, deadline, self.arrivals, task)
        nothing_in_flight = not self.held(slot)
        self.settle()
        if within_s <= 0:
            assert self.refusal(guest) == "too_late"
        elif self.has_room(slot):
            self.inside.append(guest)
        else:
            assert not nothing_in_flight  # whatever hangs
            self.queue.append(guest)
            waiting = sorted((other for other in self.queue if other.slot == slot), key=Guest.rank)
            if len(waiting) > self.SEATS:
                assert self.refusal(waiting[-1]) == "queue_full"
                self.queue.remove(waiting[-1])

    @rule(slot=slots)
    def hang(self, slot: SlotName) -> None:
        """From now on nobody of this slot is answered."""
        self.hung.add(slot)

    @rule(slot=slots)
    def wake(self, slot: SlotName) -> None:
        self.hung.discard(slot)

    def answerable(self) -> list[Guest]:
        return [guest for guest in self.inside if guest.slot not in self.hung]

    @precondition(lambda self: self.answerable())
    @rule(pick=st.integers(0, 9))
    def leave(self, pick: int) -> None:
        able = self.answerable()
        guest = able[pick % len(able)]
        self.inside.remove(guest)
        self.admission.leave(guest.slot)
        self.go_in()
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(pick=st.integers(0, 9))
    def hang_up_while_waiting(self, pick: int) -> None:
        guest = self.queue.pop(pick % len(self.queue))
        guest.task.cancel()
        self.settle()
        assert guest.task.cancelled()

    @precondition(lambda self: self.queue and self.inside)
    @rule(pick=st.integers(0, 9))
    def hang_up_in_the_breath_in_which_a_place_is_given(self, pick: int) -> None:
        left = self.inside.pop(pick % len(self.inside))
        self.admission.leave(left.slot)
        if (chosen := self.next()) is not None:
            self.queue.remove(chosen)
            chosen.task.cancel()
        self.go_in()
        self.settle()
        assert chosen is None or chosen.task.cancelled()

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.loop.now += seconds
        self.settle()
        late = [guest for guest in self.queue if guest.deadline <= self.loop.now]
        self.queue = [guest for guest in self.queue if guest.deadline > self.loop.now]
        assert all(self.refusal(guest) == "too_late" for guest in late)

    @invariant()
    def as_the_model_says(self) -> None:
        assert self.admission.in_flight == len(self.inside) <= self.PLACES
        assert self.admission.waiting == len(self.queue) <= self.SEATS * len(self.SLOTS)
        for slot in self.SLOTS:
            assert self.admission.busy(slot) != self.has_room(slot)
            assert self.admission.busy(slot) or not any(guest.slot == slot for guest in self.queue)
        assert all(guest.task.done() and guest.task.exception() is None for guest in self.inside)
        assert not any(guest.task.done() for guest in self.queue)

    def teardown(self) -> None:
        self.hung.clear()
        while self.inside:
            self.leave(0)
        assert (self.admission.in_flight, self.admission.waiting) == (0, 0)
        self.loop.close()


Queueing.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase
