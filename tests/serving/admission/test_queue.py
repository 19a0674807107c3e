"""Budgets by hotkey, and the queue in front of Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.admission.estimate import FRESH_S, ServiceTimes
from serving.admission.queue import LONGEST_RETRY_S, Admission, Budgets
from serving.errors import Refusal
from serving.nonces.store import open_store, prepare_store
from serving.types import SlotName
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, BOB

S = 10**9
T0 = 1_795_370_737 * S
SLOT = SlotName("tiny")
A, B = PublicKey(ALICE.public_key), PublicKey(BOB.public_key)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    prepare_store(tmp_path / "store", T0)
    with open_store(tmp_path / "store") as opened:
        yield opened


def spent(budgets: Budgets, key: PublicKey, now_ns: int) -> int | None:
    """None when accepted, else the seconds to wait."""
    try:
        budgets.spend(key, now_ns)
    except Refusal as refused:
        return refused.retry_after if refused.status == 429 else -1
    return None


def test_a_burst_then_the_sustained_rate(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=2.0, burst=4)
    assert [spent(budgets, A, T0) for _ in range(5)] == [None, None, None, None, 1]
    assert spent(budgets, B, T0) is None
    assert [spent(budgets, A, T0 + S) for _ in range(3)] == [None, None, 1]


def test_a_budget_is_shared_by_whoever_has_the_store(env: lmdb.Environment) -> None:
    first, second = Budgets(env, per_s=1.0, burst=2), Budgets(env, per_s=1.0, burst=2)
    assert spent(first, A, T0) is None
    assert spent(second, A, T0) is None
    assert spent(first, A, T0) == 1
    assert spent(second, A, T0) == 1


def test_a_budget_is_looked_at_without_being_charged(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=1.0, burst=2)
    for _ in range(10):
        budgets.check(A, T0)
    assert [spent(budgets, A, T0) for _ in range(2)] == [None, None]
    with pytest.raises(Refusal) as refused:
        budgets.check(A, T0)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "over_budget", 1)
    budgets.check(A, T0 + S)


def test_a_clock_that_steps_back_locks_nobody_out(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=1.0, burst=2)
    assert spent(budgets, A, T0 + 3600 * S) is None
    assert spent(budgets, A, T0) is None


class Rooms:
    """Callers of an admission, by name, in the order in which they got in."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.entered: list[str] = []
        self.refused: dict[str, Refusal] = {}
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, *, stake: float = 0.0, within_s: float = 60.0) -> None:
        self._leave[name] = asyncio.Event()
        deadline = time.monotonic() + within_s
        self._tasks[name] = asyncio.create_task(self._stay(name, stake, deadline))
        await self.settle()

    async def _stay(self, name: str, stake: float, deadline: float) -> None:
        try:
            await self.admission.enter(slot=SLOT, stake=stake, deadline=deadline)
        except Refusal as refused:
            self.refused[name] = refused
            return
        self.entered.append(name)
        try:
            await self._leave[name].wait()
        finally:
            self.admission.leave()

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


def taught(seconds: float, now: float | None = None) -> ServiceTimes:
    """Times that have seen answers of `seconds`."""
    times = ServiceTimes() if now is None else ServiceTimes(clock=lambda: now)
    for _ in range(20):
        times.learn(SLOT, seconds)
    return times


async def test_what_takes_longer_than_its_deadline_is_refused_though_there_is_room() -> None:
    rooms = Rooms(Admission(in_flight=4, waiting=4, times=taught(5.0)))
    await rooms.come("hurried", within_s=2.0)
    await rooms.come("patient", within_s=20.0)
    assert rooms.entered == ["patient"]
    assert (rooms.refused["hurried"].status, rooms.refused["hurried"].code) == (503, "too_late")


async def test_who_cannot_be_answered_behind_those_before_it_is_refused_at_once() -> None:
    rooms = Rooms(Admission(in_flight=2, waiting=8, times=taught(4.0)))
    for name in ("one", "two"):
        await rooms.come(name)
    await rooms.come("third", stake=5, within_s=6.5)  # waits 2 s and takes 4
    await rooms.come("fourth", within_s=6.5)  # would wait 4 s
    await rooms.come("richest", stake=9, within_s=6.5)  # goes first
    assert rooms.entered == ["one", "two"]
    assert list(rooms.refused) == ["fourth"]
    assert rooms.refused["fourth"].retry_after == 4  # the queue of one moves at a place in 2 s, and so will the next
    await rooms.leave("one")
    await rooms.leave("two")
    assert rooms.entered == ["one", "two", "richest", "third"]


async def test_a_place_is_not_given_to_whom_it_cannot_help_any_more() -> None:
    now = [1000.0]
    rooms = Rooms(Admission(in_flight=1, waiting=8, clock=lambda: now[0]))
    rooms.admission.in_flight = 1
    waits = asyncio.create_task(rooms.admission.enter(slot=SLOT, stake=9, deadline=1005.0))
    also = asyncio.create_task(rooms.admission.enter(slot=SLOT, stake=1, deadline=1050.0))
    await rooms.settle()
    now[0] = 1006.0  # the loop was busy: its timers come after this
    rooms.admission.leave()
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


class Guest(NamedTuple):
    """Somebody who came to the queue."""

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

    PLACES, SEATS = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.loop = TimedLoop()
        self.admission = Admission(in_flight=self.PLACES, waiting=self.SEATS, clock=self.loop.time)
        self.inside: list[Guest] = []
        self.queue: list[Guest] = []
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

    def first_goes_in(self) -> None:
        if self.queue:
            self.queue.sort(key=Guest.rank)
            self.inside.append(self.queue.pop(0))

    @rule(stake=st.integers(0, 3), within_s=st.integers(-1, 20))
    def come(self, stake: int, within_s: int) -> None:
        self.arrivals += 1
        deadline = self.loop.now + within_s
        task = self.loop.create_task(self.admission.enter(slot=SLOT, stake=stake, deadline=deadline))
        guest = Guest(stake, deadline, self.arrivals, task)
        self.settle()
        if within_s <= 0:
            assert self.refusal(guest) == "too_late"
        elif len(self.inside) < self.PLACES:
            self.inside.append(guest)
        else:
            self.queue.append(guest)
            self.queue.sort(key=Guest.rank)
            if len(self.queue) > self.SEATS:
                assert self.refusal(self.queue.pop()) == "queue_full"

    @precondition(lambda self: self.inside)
    @rule(pick=st.integers(0, 9))
    def leave(self, pick: int) -> None:
        self.inside.pop(pick % len(self.inside))
        self.admission.leave()
        self.first_goes_in()
        self.settle()

    @precondition(lambda self: self.queue)
    @rule(pick=st.integers(0, 9))
    def hang_up_while_waiting(self, pick: int) -> None:
        guest = self.queue.pop(pick % len(self.queue))
        guest.task.cancel()
        self.settle()
        assert guest.task.cancelled()

    @precondition(lambda self: self.queue and self.inside)
    @rule()
    def hang_up_in_the_breath_in_which_a_place_is_given(self) -> None:
        self.inside.pop()
        self.queue.sort(key=Guest.rank)
        chosen = self.queue.pop(0)
        self.admission.leave()
        chosen.task.cancel()
        self.first_goes_in()
        self.settle()
        assert chosen.task.cancelled()

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
        assert self.admission.waiting == len(self.queue) <= self.SEATS
        assert self.admission.busy or not self.admission.waiting
        assert all(guest.task.done() and guest.task.exception() is None for guest in self.inside)
        assert not any(guest.task.done() for guest in self.queue)

    def teardown(self) -> None:
        while self.inside:
            self.leave(0)
        assert (self.admission.in_flight, self.admission.waiting) == (0, 0)
        self.loop.close()


Queueing.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueing = Queueing.TestCase


def test_a_budget_that_cannot_be_written_down_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.nonces.store.MAP_BYTES", 64 * 1024)
    with open_store(tmp_path / "nonces") as env:
        budgets = Budgets(env, per_s=1.0, burst=5)
        codes = set()
        for number in range(3000):
            try:
                budgets.spend(PublicKey(number.to_bytes(32, "big")), 10**18)
            except Refusal as refused:
                codes.add((refused.status, refused.code))
        assert codes == {(503, "replay_store_down")}
