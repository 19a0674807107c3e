"""Who is served next, and who is told to come back: budgets by hotkey, and a bounded queue in front of Triton."""

from __future__ import annotations

import asyncio
import struct
import time
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

import lmdb

from serving.admission.estimate import ServiceTimes
from serving.errors import Refusal
from serving.types import SlotName
from serving.wire.keys import PublicKey

LONGEST_RETRY_S = 60
_U64 = struct.Struct(">Q")


class Budgets:
    """Requests that one hotkey may send, counted over all workers of a box and across restarts.

    One number a hotkey: the time at which its budget would be full again. A request moves it by 1/rate; when it lies
    more than burst/rate ahead, the request is refused (429).
    """

    def __init__(self, env: lmdb.Environment, *, per_s: float, burst: int) -> None:
        self._env = env
        self._cost_ns = int(1e9 / per_s)
        self._ahead_ns = self._cost_ns * burst
        self._db = env.open_db(b"budgets")

    def check(self, sender: PublicKey, now_ns: int) -> None:
        """Refuse as `spend` would, and charge nothing: before any work on a claim that may be false."""
        self._judge(sender, now_ns, charge=False)

    def spend(self, sender: PublicKey, now_ns: int) -> None:
        """Charge one request; raises Refusal 429 with the seconds to wait, or 503 when it cannot be written down."""
        self._judge(sender, now_ns, charge=True)

    def _judge(self, sender: PublicKey, now_ns: int, *, charge: bool) -> None:
        try:
            over_ns = self._charge(sender, now_ns, charge=charge)
        except lmdb.Error:
            raise Refusal(503, "replay_store_down", "the budgets cannot be kept", retry_after=5) from None
        if over_ns > 0:
            wait = max(1, ceil(over_ns / 1e9))
            raise Refusal(429, "over_budget", "too many requests from this hotkey", retry_after=wait)

    def _charge(self, sender: PublicKey, now_ns: int, *, charge: bool) -> int:
        """Nanoseconds that the budget is short of; nothing is charged when it is."""
        with self._env.begin(write=charge, db=self._db) as txn:
            stored = txn.get(sender)
            full_at = _U64.unpack(stored)[0] if stored is not None else 0
            if full_at > now_ns + self._ahead_ns + self._cost_ns:  # our clock stepped back
                full_at = now_ns
            full_at = max(full_at, now_ns) + self._cost_ns
            over_ns = full_at - now_ns - self._ahead_ns
            if charge and over_ns <= 0:
                txn.put(sender, _U64.pack(full_at))
            return over_ns


@dataclass(order=True, slots=True)
class _Waiter:
    """Best first: more stake, then the earlier deadline, then the earlier arrival."""

    rank: tuple[float, float, int]
    start_by: float = field(compare=False)
    """After this an answer would come too late."""
    place: asyncio.Future[None] = field(compare=False)


class Admission:
    """A bounded number of requests in Triton, and a bounded queue of those that wait, ordered by stake and deadline.

    When the queue is full the least of all, the newcomer included, is refused at once (503). So is whoever could not be
    answered before its deadline, by what answers took of late, behind those who go first; where nothing is known of
    that, nobody is refused for it. Whoever waits is let in or refused before its deadline. Deadlines are
    `time.monotonic` seconds. Whoever entered must `leave`.
    """

    def __init__(
        self, *, in_flight: int, waiting: int, times: ServiceTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.in_flight = 0
        self.times = times or ServiceTimes(clock=clock)
        self._limit = in_flight
        self._cap = waiting
        self._clock = clock
        self._queue: list[_Waiter] = []
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether a newcomer would have to wait."""
        return self.in_flight >= self._limit

    async def enter(self, *, slot: SlotName, stake: float, deadline: float) -> None:
        """Take a place in Triton; raises Refusal (503) when there is none to be had in time."""
        start_by = deadline - (self.times.of(slot) or 0.0)
        if self._clock() >= start_by:
            raise self._too_late()
        if self.busy:
            await self._wait(stake, deadline, start_by)  # the place of whoever leaves is handed over, not freed
        else:
            self.in_flight += 1

    def leave(self) -> None:
        """Give the place to the first in the queue who can still be answered in time, or free it."""
        while self._queue:
            waiter = self._queue.pop(0)
            if waiter.place.done():
                continue
            if self._clock() < waiter.start_by:
                waiter.place.set_result(None)
                return
            waiter.place.set_exception(self._too_late())
        self.in_flight -= 1

    async def _wait(self, stake: float, deadline: float, start_by: float) -> None:
        self._arrivals += 1
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter((-stake, deadline, self._arrivals), start_by, place)
        self._join(waiter)
        try:
            async with asyncio.timeout(start_by - self._clock()):
                await place
        except TimeoutError:
            self._withdraw(waiter)
            raise self._too_late() from None
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def _join(self, waiter: _Waiter) -> None:
        """Into the queue, at somebody's cost if it is full; raises Refusal where that is the newcomer's own."""
        self._queue = [other for other in self._queue if not other.place.done()]  # some left in this very breath
        ahead = bisect(self._queue, waiter)
        if self._clock() + self._wait_s(ahead) > waiter.start_by:
            raise self._too_late()
        if len(self._queue) >= self._cap:
            if ahead == len(self._queue):
                raise self._full()
            self._queue.pop().place.set_exception(self._full())
        self._queue.insert(ahead, waiter)

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
            self.leave()  # it was given a place in the same breath

    def _wait_s(self, ahead: int) -> float:
        """Seconds until whoever has `ahead` others before it gets a place; 0 where nothing is known."""
        return (ahead + 1) * (self.times.of_any() or 0.0) / self._limit

    def _retry_after(self) -> int:
        return max(1, min(LONGEST_RETRY_S, ceil(self._wait_s(len(self._queue)))))

    def _full(self) -> Refusal:
        text = "more requests than this miner can take now"
        return Refusal(503, "queue_full", text, retry_after=self._retry_after())

    def _too_late(self) -> Refusal:
        return Refusal(503, "too_late", "no answer can be ready in time", retry_after=self._retry_after())
