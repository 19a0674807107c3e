"""Places in Triton, shared by the slots, and a queue of each for those who wait: by stake, then deadline."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import ceil

from serving.admission.estimate import ServiceTimes
from serving.errors import Refusal
from serving.types import SlotName

LONGEST_RETRY_S = 60


@dataclass(order=True, slots=True)
class _Waiter:
    """Best first: more stake, then the earlier deadline, then the earlier arrival."""

    rank: tuple[float, float, int]
    start_by: float = field(compare=False)
    """After this an answer would come too late."""
    place: asyncio.Future[None] = field(compare=False)


@dataclass(eq=False, slots=True)
class _Lane:
    """The requests of one slot: those in Triton, and those that wait, best first."""

    slot: SlotName
    own: int
    """Places that no other slot takes; beyond them the slot holds common ones."""
    held: int = 0
    queue: list[_Waiter] = field(default_factory=list)

    def claim(self) -> tuple[int, _Waiter]:
        """Whose turn it is, among slots where somebody waits: the least goes first."""
        return self.held, self.queue[0]


class Admission:
    """A bounded number of requests in Triton, shared by the slots, and a bounded queue of those that wait for each.

    Half of the places are divided among the slots and stay their own, one each at least where there are more places
    than slots; the rest is common. A slot that holds fewer than its own never waits, however long others hold theirs.
    A place that comes free goes to the slot that holds the fewest, and within a slot by stake, then deadline.

    When a slot's queue is full the least in it, the newcomer included, is refused at once (503). So is whoever could
    not be answered before its deadline, by what the slot's answers took of late, behind those who go first; where
    nothing is known of that, nobody is refused for it. Whoever waits is let in or refused before its deadline.
    Deadlines are `time.monotonic` seconds. Whoever entered must `leave`.
    """

    def __init__(
        self, *, in_flight: int, waiting: int, slots: Collection[SlotName] = (), times: ServiceTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`waiting` is the length of each slot's queue; `slots` are those with places of their own."""
        self.times = times or ServiceTimes(clock=clock)
        self._limit = in_flight
        self._cap = waiting
        self._clock = clock
        self._arrivals = 0
        own = max(1, in_flight // (2 * len(slots))) if 0 < len(slots) < in_flight else 0
        self._lanes = {slot: _Lane(slot, own) for slot in slots}
        self._common = in_flight - own * len(self._lanes)
        self._free = self._common
        """Common places that nobody holds. Where there is one, nobody waits."""

    @property
    def in_flight(self) -> int:
        """Requests in Triton."""
        return sum(lane.held for lane in list(self._lanes.values()))

    @property
    def waiting(self) -> int:
        """Requests in the queues."""
        return sum(len(lane.queue) for lane in list(self._lanes.values()))

    def busy(self, slot: SlotName) -> bool:
        """Whether a newcomer of this slot would have to wait."""
        return not self._has_room(self._lane(slot))

    async def enter(self, *, slot: SlotName, stake: float, deadline: float) -> None:
        """Take a place in Triton; raises Refusal (503) when there is none to be had in time."""
        lane = self._lanes.get(slot) or self._lane(slot)
        start_by = deadline - (self.times.of(slot) or 0.0)
        if self._clock() >= start_by:
            raise self._too_late(lane)
        if lane.held < lane.own:
            lane.held += 1
        elif self._free:
            lane.held += 1
            self._free -= 1
        else:
            await self._wait(lane, stake, deadline, start_by)  # whoever leaves takes the place for it

    def leave(self, slot: SlotName) -> None:
        """Give the place back, to the first who can use it if somebody waits."""
        lane = self._lanes[slot]
        crowded = not self._free
        lane.held -= 1
        if lane.held >= lane.own:
            self._free += 1
        if crowded:
            self._hand_on()

    def _lane(self, slot: SlotName) -> _Lane:
        """The slot's lane; one that was not told of has no places of its own."""
        return self._lanes.setdefault(slot, _Lane(slot, 0))

    def _has_room(self, lane: _Lane) -> bool:
        return lane.held < lane.own or self._free > 0

    def _hand_on(self) -> None:
        """Let in who waits and can still be answered in time, as far as there is room."""
        while able := [lane for lane in self._lanes.values() if lane.queue and self._has_room(lane)]:
            lane = min(able, key=_Lane.claim)
            waiter = lane.queue.pop(0)
            if waiter.place.done():
                continue
            if self._clock() >= waiter.start_by:
                waiter.place.set_exception(self._too_late(lane))
                continue
            self._free -= lane.held >= lane.own
            lane.held += 1
            waiter.place.set_result(None)

    async def _wait(self, lane: _Lane, stake: float, deadline: float, start_by: float) -> None:
        self._arrivals += 1
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter((-stake, deadline, self._arrivals), start_by, place)
        self._join(lane, waiter)
        try:
            async with asyncio.timeout(start_by - self._clock()):
                await place
        except TimeoutError:
            self._withdraw(lane, waiter)
            raise self._too_late(lane) from None
        except asyncio.CancelledError:
            self._withdraw(lane, waiter)
            raise

    def _join(self, lane: _Lane, waiter: _Waiter) -> None:
        """Into the queue, at somebody's cost if it is full; raises Refusal where that is the newcomer's own."""
        lane.queue = [other for other in lane.queue if not other.place.done()]  # some left in this very breath
        ahead = bisect(lane.queue, waiter)
        if self._clock() + self._wait_s(lane, ahead) > waiter.start_by:
            raise self._too_late(lane)
        if len(lane.queue) >= self._cap:
            if ahead == len(lane.queue):
                raise self._full(lane)
            lane.queue.pop().place.set_exception(self._full(lane))
        lane.queue.insert(ahead, waiter)

    def _withdraw(self, lane: _Lane, waiter: _Waiter) -> None:
        if waiter in lane.queue:
            lane.queue.remove(waiter)
        elif waiter.place.done() and not waiter.place.cancelled() and waiter.place.exception() is None:
            self.leave(lane.slot)  # it was given a place in the same breath

    def _wait_s(self, lane: _Lane, ahead: int) -> float:
        """Seconds until whoever has `ahead` others of its slot before it gets a place; 0 where nothing is known.

        Judged by the places that the slot has or is due, and so rather too short: a wrong guess costs a wait, and no
        answer.
        """
        wanted = sum(1 for other in self._lanes.values() if other is lane or other.held or other.queue)
        places = min(lane.own + self._common, max(lane.held, self._limit / wanted))
        return (ahead + 1) * (self.times.of(lane.slot) or 0.0) / places

    def _retry_after(self, lane: _Lane) -> int:
        return max(1, min(LONGEST_RETRY_S, ceil(self._wait_s(lane, len(lane.queue)))))

    def _full(self, lane: _Lane) -> Refusal:
        text = "more requests than this miner can take now"
        return Refusal(503, "queue_full", text, retry_after=self._retry_after(lane))

    def _too_late(self, lane: _Lane) -> Refusal:
        return Refusal(503, "too_late", "no answer can be ready in time", retry_after=self._retry_after(lane))
