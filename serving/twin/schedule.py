"""When a validator asks for what: the subnet's two cycles live, rounds of recorded time, or all at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import NamedTuple

from serving.clock import Clock
from serving.subnets.synth.rules import HIGH, LOW, PROMPTS
from serving.types import Asset, SlotName

Assets = Mapping[SlotName, Sequence[Asset]]
"""What each slot is asked for, in order."""

LEAD = {HIGH: 60, LOW: 0}
"""Seconds from asking to `start_time` on recorded time.

Hourly bars give a price only every hour, so a prompt of synth-low is asked at its very start, where the bar opens;
a live validator asks 60 to 120 s before.
"""


class Ask(NamedTuple):
    """One prompt."""

    slot: SlotName
    asset: Asset
    start: int
    """Unix s."""


class Round(NamedTuple):
    """Prompts that are sent together."""

    at: float | None
    """The subnet's time to set before (unix s), or None to leave the clock alone."""
    asks: tuple[Ask, ...]


def next_start(now: float) -> int:
    """The start time of a prompt asked at `now` (unix s): the next whole minute, and one more."""
    return math.ceil(now / 60) * 60 + 60


async def recorded(starts: Mapping[SlotName, Iterable[int]], assets: Assets) -> AsyncIterator[Round]:
    """One round for each slot's start (unix s), in time order, at recorded time."""
    moments = sorted((start - LEAD[slot], slot, start) for slot, own in starts.items() for start in own)
    for at, slot, start in moments:
        yield Round(float(at), tuple(Ask(slot, asset, start) for asset in assets[slot]))


async def at_once(clock: Clock, assets: Assets) -> AsyncIterator[Round]:
    """Rounds without a pause at the subnet's present time, every start a minute after the one before; endless."""
    start = 0
    while True:
        start = max(start + 60, next_start(clock.subnet()))
        yield Round(None, tuple(Ask(slot, asset, start) for slot, own in assets.items() for asset in own))


async def live(clock: Clock, assets: Assets, stop: asyncio.Event) -> AsyncIterator[Round]:
    """The subnet's cadence, one asset a tick: every 5 min in synth-low, every 2 min in synth-high, until `stop`."""
    loop = asyncio.get_running_loop()
    due = dict.fromkeys(assets, loop.time())
    turn = dict.fromkeys(assets, 0)
    while not stop.is_set():
        slot = min(due, key=lambda name: due[name])
        if await pause(due[slot] - loop.time(), stop):
            return
        own = assets[slot]
        asset = own[turn[slot] % len(own)]
        turn[slot] += 1
        due[slot] += PROMPTS[slot].cycle
        yield Round(None, (Ask(slot, asset, next_start(clock.subnet())),))


async def pause(seconds: float, stop: asyncio.Event) -> bool:
    """Wait, or be stopped: whether `stop` came first."""
    try:
        await asyncio.wait_for(stop.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
