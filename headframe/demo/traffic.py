"""The demo's validator traffic: held-out moments on recorded time, and a rollout that is ticked between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from serving.subnets.synth.rules import HIGH, LOW, PROMPTS
from serving.twin.schedule import LEAD, Ask, Round
from serving.types import Asset, SlotName

PROXY = Asset("AAPLX")
"""The one asset with real packaged bars; profile ``local`` asks for it in both slots."""
ASKED: dict[SlotName, tuple[Asset, ...]] = {LOW: PROMPTS[LOW].assets, HIGH: (*PROMPTS[HIGH].assets, PROXY)}
BEFORE, AFTER = 2, 2
"""Moments asked before the rollouts start, and after they end."""
LEAST, MOST = 12, 24
"""Moments asked in all; a rollout that is not through by `MOST` is left where it stands."""


def rounds_at(start: int) -> Iterator[Round]:
    """Both slots' prompts for a start time (unix s): the hour's a minute before, the day's at the start itself."""
    for slot in sorted(ASKED, key=lambda name: -LEAD[name]):
        yield Round(float(start - LEAD[slot]), tuple(Ask(slot, asset, start) for asset in ASKED[slot]))


async def staged(starts: Sequence[int], tick: Callable[[], bool]) -> AsyncIterator[Round]:
    """Rounds at `starts`, in order, with a tick of the rollouts between moments until `tick` says that all are done.

    Starts are used again from the front when they run out: a validator may ask twice, and gets the same answer.
    """
    asked, through, since = 0, False, 0
    while asked < LEAST or (asked < MOST and (not through or since < AFTER)):
        if asked >= BEFORE and not through:
            through = await asyncio.to_thread(tick)
        elif through:
            since += 1
        for one in rounds_at(starts[asked % len(starts)]):
            yield one
        asked += 1
