"""Which sessions are held out, fixed before any model is fitted.

The sessions that allow at least one start are sorted; the last 40 % of them are held out, and a model may be fitted on
what was known before the first of these begins. Each slot has its own split, since its starts differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infra.prices import PriceStore
from serving.errors import UserError
from serving.subnets.synth.rules import HIGH, LOW, PROMPTS, Prompt

HELD_OUT = 0.4
DAY = 86_400


@dataclass(frozen=True)
class Grid:
    """What a slot is asked for, and how its replays are laid; all in seconds."""

    prompt: Prompt
    spacing: int
    """Between two replay starts, at the closest."""
    lag: int
    """A replay sees what was known this long before its start."""

    @property
    def increment(self) -> int:
        """Between two points of an answer."""
        return self.prompt.increment

    @property
    def length(self) -> int:
        """From the first point of an answer to the last."""
        return self.prompt.length

    @property
    def step(self) -> int:
        """Between the prices that truth and history are made of."""
        return self.prompt.history_step

    @property
    def overlap(self) -> int:
        """How many starts in a row share prices: the bootstrap's block."""
        return max(1, math.ceil(self.length / self.spacing))


GRIDS: Mapping[str, Grid] = {
    HIGH: Grid(PROMPTS[HIGH], spacing=600, lag=60),
    # the proxy's hourly bar opens at the start itself, so its open stands for the spot
    LOW: Grid(PROMPTS[LOW], spacing=DAY, lag=0),
}


def grid_of(slot: str) -> Grid:
    """The slot's grid; raises UserError for a slot that no gate is known for."""
    try:
        return GRIDS[slot]
    except KeyError:
        raise UserError(f"no replays are defined for slot {slot}; known: {', '.join(sorted(GRIDS))}") from None


@dataclass(frozen=True)
class Session:
    """A stretch of trading of one asset with the replay starts it allows, all in unix s."""

    asset: str
    first: int
    last: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """The fixed division of a slot's real prices."""

    slot: str
    train: tuple[Session, ...]
    held_out: tuple[Session, ...]

    @property
    def grid(self) -> Grid:
        """The slot's grid."""
        return grid_of(self.slot)

    @property
    def cut(self) -> int:
        """Unix s: a model may see what was known before this moment."""
        return min(session.first for session in self.held_out)

    @property
    def assets(self) -> tuple[str, ...]:
        """Assets with held-out starts."""
        return tuple(dict.fromkeys(session.asset for session in self.held_out))


def disjoint(starts: Iterable[int], length: int) -> int:
    """How many windows of `length` seconds fit without sharing a stretch, taken greedily from the first."""
    count, free_from = 0, -math.inf
    for start in sorted(starts):
        if start >= free_from:
            count, free_from = count + 1, start + length
    return count


def make_split(store: PriceStore, slot: str) -> Split:
    """The slot's split over every asset with real prices; raises UserError when the prices allow no start."""
    grid = grid_of(slot)
    real = sorted({series.asset for series in store.series() if not series.simulated and series.step == grid.step})
    usable = [
        session for asset in real for session in sessions_with_starts(slot, asset, store.sessions(asset, grid.step))
    ]
    if len(usable) < 2:
        raise UserError(
            f"slot {slot}: the stored prices hold {len(usable)} sessions with a replay start, and a split needs two; "
            "run 'headframe ingest', or add prices"
        )
    usable.sort(key=lambda session: (session.first, session.asset))
    boundary = usable[-math.ceil(HELD_OUT * len(usable))].first
    train = tuple(session for session in usable if session.last < boundary)
    held_out = tuple(session for session in usable if session.first >= boundary)
    return Split(slot, train, held_out)


def sessions_with_starts(slot: str, asset: str, sessions: Sequence[tuple[int, int]]) -> list[Session]:
    """The sessions (first and last point, unix s) that allow a start, with their starts."""
    if slot == HIGH:
        made = [Session(asset, first, last, _inside(first, last)) for first, last in sessions]
    else:
        openings = {first for first, _ in sessions}
        made = [Session(asset, first, last, _daily(first, openings)) for first, last in sessions]
    return [session for session in made if session.starts]


def _inside(first: int, last: int) -> tuple[int, ...]:
    """Every ten minutes with all the truth inside the session; at its opening, the price known is the last close."""
    grid = GRIDS[HIGH]
    begin = -(-first // grid.spacing) * grid.spacing
    return tuple(range(begin, last - grid.length + 1, grid.spacing))


def _daily(first: int, openings: set[int]) -> tuple[int, ...]:
    """The session's opening, if a session opens 24 hours later too."""
    return (first,) if first + DAY in openings else ()


def when(moment: int) -> str:
    """A moment as a person reads it, UTC."""
    return datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%d %H:%M")
