"""Synth's numbers as of 2026-05-29: assets, the two prompts, and what each counts in the reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from serving.types import Asset, NetUid, Seconds, SlotName

NETUID = NetUid(50)
LOW = SlotName("synth-low")
HIGH = SlotName("synth-high")
MAX_SIMULATIONS = 1000
MAX_TIMEOUT = Seconds(120.0)
"""Validators wait until `start_time`, which is 60 to 120 s after they ask."""
PUBLISH_DELAY = 90
"""Seconds after the last point until its price can be read: one 60 s candle and 30 s of latency."""


class AssetRule(NamedTuple):
    """What the subnet fixes about an asset."""

    weight: float
    """Coefficient c of the leaderboard average."""
    sigma: float
    """The reference miner's standard deviation of an hourly price change, as a fraction."""


ASSETS: Mapping[Asset, AssetRule] = {
    Asset("BTC"): AssetRule(1.0, 0.00541),
    Asset("ETH"): AssetRule(0.7064366394033871, 0.00766),
    Asset("XAU"): AssetRule(1.7370922597118699, 0.00312),
    Asset("SOL"): AssetRule(0.6310037175639559, 0.00858),
    Asset("SPYX"): AssetRule(3.437935601155441, 0.00157),
    Asset("NVDAX"): AssetRule(1.6028217601617174, 0.00338),
    Asset("TSLAX"): AssetRule(1.6068755936957768, 0.00337),
    Asset("AAPLX"): AssetRule(2.0916380815843123, 0.00259),
    Asset("GOOGLX"): AssetRule(1.6827392777257926, 0.00322),
    Asset("XRP"): AssetRule(0.5658394110809131, 0.00956),
    Asset("HYPE"): AssetRule(0.4784547133706857, 0.01131),
    Asset("WTIOIL"): AssetRule(0.8475062847978935, 0.00639),
}


class Prompt(NamedTuple):
    """One of the two kinds of prompt: its grid, its score's intervals, and its half of the reward."""

    slot: SlotName
    increment: int
    """Seconds between points."""
    length: int
    """Seconds from the first point to the last."""
    intervals: tuple[tuple[str, int], ...]
    """Name and seconds of each interval set, in scoring order; the name's ending chooses the kind of term."""
    beta: float
    """Exponent of the softmax over leaderboard values (basis points)."""
    window_days: int
    coefficient: float
    """Share of the reward."""
    cycle: Seconds
    """One asset is asked every so many seconds, round robin."""
    assets: tuple[Asset, ...]
    """In the order they are asked."""
    history_step: int
    """Seconds between the points of price history that a model of this slot is given."""

    @property
    def points(self) -> int:
        """Points of a path, the first being the price at the start."""
        return self.length // self.increment + 1

    @property
    def terms(self) -> int:
        """CRPS terms of a prompt when every price is known."""
        return sum(1 if name.endswith("_gaps") else self.length // seconds for name, seconds in self.intervals)


_GAPS = tuple((f"0_{minutes}min_gaps", minutes * 60) for minutes in range(5, 65, 5))

PROMPTS: Mapping[SlotName, Prompt] = {
    LOW: Prompt(
        slot=LOW,
        increment=300,
        length=86_400,
        intervals=(("5min", 300), ("30min", 1800), ("3hour", 10_800), ("24hour_abs", 86_400)),
        beta=-0.1,
        window_days=10,
        coefficient=0.5,
        cycle=Seconds(300.0),
        assets=tuple(ASSETS),
        history_step=3600,
    ),
    HIGH: Prompt(
        slot=HIGH,
        increment=60,
        length=3600,
        intervals=(
            ("1min", 60), ("2min", 120), ("5min", 300), ("15min", 900), ("30min", 1800), ("60min_abs", 3600), *_GAPS,
        ),
        beta=-0.2,
        window_days=3,
        coefficient=0.5,
        cycle=Seconds(120.0),
        assets=(Asset("BTC"), Asset("ETH"), Asset("XAU"), Asset("SOL"), Asset("HYPE")),
        history_step=60,
    ),
}  # fmt: skip
