"""Replays: what a validator could have asked at a held-out moment, what was known then, and what came true.

The tensors come from the subnet's own `Route.inputs`, the code that live requests go through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from flows.split import Split, grid_of
from infra.prices import PriceStore
from serving.errors import UserError
from serving.seed import seed_of
from serving.state import PriceBook
from serving.subnets.base import Inputs, Route, Task
from serving.subnets.synth.protocol import synth
from serving.subnets.synth.rules import ASSETS
from serving.types import UnixSeconds

SUBNET = synth(use_stale=True)
"""At a session's opening the last close is the freshest price; serving uses and marks it so in profile ``local``."""
PATHS = 1_000
"""Paths in an answer, as the validators ask."""
LEAD = 60
"""Seconds from a replayed request to its start time, the least that a validator leaves."""


@dataclass(frozen=True)
class Replay:
    """One held-out request."""

    slot: str
    asset: str
    start: int
    """Unix s of point 1."""
    book: PriceBook
    """What was known."""
    truth: npt.NDArray[np.float64]
    """(length / increment + 1,) real prices, NaN where none is known."""


@dataclass(frozen=True)
class Asked:
    """A request as serving understands it, with its tensors."""

    asset: str
    start: int
    """Unix s."""
    route: Route
    task: Task
    seed: int
    inputs: Inputs


def route_of(slot: str) -> Route:
    """The subnet's route that a slot is served on."""
    if slot not in SUBNET.slots:
        raise UserError(f"slot {slot} belongs to no subnet that Headframe mines; known: {', '.join(SUBNET.slots)}")
    return SUBNET.routes[0]


def ask(slot: str, asset: str, start: int, book: PriceBook, *, paths: int = PATHS) -> Asked:
    """The request of a validator for `asset` at `start`, parsed and turned into tensors as serving does it."""
    grid, route = grid_of(slot), route_of(slot)
    now = UnixSeconds(float(start - LEAD))
    body = {
        "simulation_input": {
            "asset": asset,
            "start_time": datetime.fromtimestamp(start, tz=UTC).isoformat(),
            "time_increment": grid.increment,
            "time_length": grid.length,
            "num_simulations": paths,
        }
    }
    task = route.parse(body, now)
    seed = seed_of(task.slot, task.canonical)
    return Asked(asset, start, route, task, seed, route.inputs(task, seed, book, now))


def make_replays(store: PriceStore, split: Split, *, limit: int | None = None) -> list[Replay]:
    """The held-out replays in order of asset and start; with a `limit`, that many, spread evenly over all."""
    starts = [(s.asset, start) for s in split.held_out for start in s.starts]
    starts.sort()
    return [_replay(store, split, asset, start) for asset, start in _spread(starts, limit)]


def simulated_replays(store: PriceStore, split: Split, *, a_asset: int) -> list[Replay]:
    """Replays at held-out times of every asset that has simulated prices only, `a_asset` of each, sharing no price.

    They tell nothing about a market; they show a candidate that is off on the assets no real price speaks for.
    """
    grid = split.grid
    begin = min(start for session in split.held_out for start in session.starts)
    starts = [begin + number * (grid.length + grid.spacing) for number in range(a_asset)]
    found = []
    for start in starts:
        book = store.book(start - grid.lag, list(ASSETS))
        for asset, known in book.assets.items():
            if known.simulated:
                truth = store.truth(asset, start, grid.increment, grid.length)
                found.append(Replay(split.slot, asset, start, book, truth))
    return found


def training_replays(store: PriceStore, split: Split, sessions: int, *, limit: int | None = None) -> list[Replay]:
    """Replays over the last `sessions` training sessions, for a first look at a model before the gate."""
    starts = [(s.asset, start) for s in split.train[-sessions:] for start in s.starts]
    starts.sort()
    return [_replay(store, split, asset, start) for asset, start in _spread(starts, limit)]


def _replay(store: PriceStore, split: Split, asset: str, start: int) -> Replay:
    grid = split.grid
    truth = store.truth(asset, start, grid.increment, grid.length, steps=(grid.step,))
    if grid.step > grid.increment:  # the price at a session's end lies between two points of the step
        truth = truth.copy()
        truth[np.arange(truth.size) * grid.increment % grid.step != 0] = np.nan
    return Replay(split.slot, asset, start, store.book(start - grid.lag, [asset]), truth)


def _spread(starts: Sequence[tuple[str, int]], limit: int | None) -> list[tuple[str, int]]:
    if limit is None or len(starts) <= limit:
        return list(starts)
    return [starts[i] for i in np.linspace(0, len(starts) - 1, limit).round().astype(int)]
