"""Budgets by hotkey, and the queue in front of Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.admission import Admission, Budgets
from serving.errors import Refusal
from serving.nonces import open_store, prepare_store
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, BOB

S = 10**9
T0 = 1_795_370_737 * S
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
            async with self.admission.enter(stake=stake, deadline=deadline):
                self.entered.append(name)
                await self._leave[name].wait()
        except Refusal as refused:
            self.refused[name] = refused

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
    assert (refused.status, refused.code, refused.retry_after) == (503, "queue_full", 2)


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


@given(st.lists(st.tuples(st.sampled_from(["come", "leave", "hang up"]), st.integers(0, 9)), max_size=40))
async def test_places_are_neither_lost_nor_doubled(steps: list[tuple[str, int]]) -> None:
    rooms = Rooms(Admission(in_flight=2, waiting=3))
    there: list[str] = []
    for number, (step, pick) in enumerate(steps):
        if step == "come":
            there.append(f"{number}")
            await rooms.come(there[-1], stake=pick)
        elif there:
            name = there[pick % len(there)]
            await (rooms.leave(name) if step == "leave" else rooms.hang_up(name))
        assert rooms.admission.in_flight <= 2
        assert rooms.admission.waiting <= 3
        assert rooms.admission.busy or not rooms.admission.waiting
    for name in there:
        await rooms.leave(name)
    for name in there:
        await rooms.hang_up(name)
    assert (rooms.admission.in_flight, rooms.admission.waiting) == (0, 0)
