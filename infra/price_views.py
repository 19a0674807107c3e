"""An asset's bars as they are read: from its best kind of series, coarser ones made of finer ones where need be.

Real series come first, then those of a proxy, and simulated ones only where there is nothing else; kinds never mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd

from infra import bars as tables
from infra.market_hours import Hours
from infra.points import Priced, priced
from infra.price_files import Index, SeriesName
from infra.price_sources import ASSETS
from infra.price_sources.simulated import SIGMA, WINDOW, walk_bars
from serving.errors import UserError

_PRECEDENCE = ("pyth", "folder", "recorded", "packaged")  # of sources of one kind, at one instant


class View(NamedTuple):
    """An asset's bars of one step from its best kind of series."""

    bars: pd.DataFrame
    points: Priced
    hours: Hours
    source: str
    simulated: bool
    proxy: bool


class Views:
    """What an asset's prices are made of.

    Args:
        indexes: What is stored now.
        load: The bars of a stored series.
        simulate: Whether assets with no real series have simulated prices.
    """

    def __init__(
        self, indexes: Callable[[], Mapping[SeriesName, Index]], load: Callable[[SeriesName, Index], pd.DataFrame], *,
        simulate: bool,
    ) -> None:  # fmt: skip
        self._indexes, self._load, self._simulate = indexes, load, simulate
        self._held: dict[tuple[str, int], tuple[tuple[str, ...], View]] = {}

    def assets(self) -> list[str]:
        """Every asset that has prices."""
        real = {asset for asset in {name.asset for name in self._indexes()} if self.kind(asset) is not None}
        return sorted(real.union(ASSETS if self._simulate else ()))

    def has(self, asset: str, step: int) -> bool:
        """Whether an asset has prices by this step (s)."""
        return self.kind(asset) is None or bool(self.names(asset, step))

    def kind(self, asset: str) -> tuple[bool, bool] | None:
        """(simulated, proxy) of the best kind of series an asset has; None when its prices are computed."""
        kinds = {(i.simulated, i.proxy) for name, i in self._indexes().items() if name.asset == asset}
        if not self._simulate:
            kinds = {kind for kind in kinds if not kind[0]}
        best = min(kinds, default=None)
        if best is not None and not (best[0] and asset in SIGMA):
            return best
        if not self._simulate or asset not in SIGMA:
            raise UserError(f"no prices of {asset!r}: run 'headframe ingest' with a source that has it")
        return None

    def names(self, asset: str, step: int) -> list[SeriesName]:
        """The series of an asset's best kind for a step, foremost first; finer ones when the step has none."""
        kind = self.kind(asset)
        mine = [n for n, i in self._indexes().items() if n.asset == asset and (i.simulated, i.proxy) == kind]
        exact = [n for n in mine if n.step == step]
        finer = [n for n in mine if n.step < step and step % n.step == 0]
        return sorted(exact or finer, key=lambda n: (-n.step, _rank(n.source), n.source))

    def of(self, asset: str, step: int) -> View:
        """An asset's bars by this step (s), made anew when a series changed; raises UserError for none."""
        if self.kind(asset) is None:
            made = walk_bars(asset, step, *WINDOW)
            return View(made, priced(made, step, "round-the-clock"), "round-the-clock", "simulated", True, False)
        names = self.names(asset, step)
        if not names:
            raise UserError(f"no prices of {asset} by {step} s: run 'headframe ingest' with a source that has them")
        indexes = self._indexes()
        state = tuple(indexes[name].sha256 for name in names)
        held = self._held.get((asset, step))
        if held is None or held[0] != state:
            held = (state, self._make(names, [indexes[name] for name in names], step))
            self._held[(asset, step)] = held
        return held[1]

    def _make(self, names: list[SeriesName], mine: list[Index], step: int) -> View:
        loaded = [self._load(name, index) for name, index in zip(names, mine, strict=True)]
        stacked = pd.concat(
            [tables.coarser(b, n.step, step) if n.step < step else b for n, b in zip(names, loaded, strict=True)]
        )
        one_each = stacked.drop_duplicates("time", keep="first").sort_values("time").reset_index(drop=True)
        hours: Hours = "new-york" if all(index.hours == "new-york" for index in mine) else "round-the-clock"
        source = "+".join(dict.fromkeys(name.source for name in names))
        return View(one_each, priced(one_each, step, hours), hours, source, mine[0].simulated, mine[0].proxy)


def _rank(source: str) -> int:
    return _PRECEDENCE.index(source) if source in _PRECEDENCE else len(_PRECEDENCE)
