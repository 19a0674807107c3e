"""The price store: what each source said, cleaned, as Parquet in the object store, and read as the subnet reads it.

Which series an asset's prices come from is `infra.price_views`' business. Labels travel with the prices.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from infra import bars as tables
from infra.market_hours import Hours
from infra.objects import ObjectStore, object_store
from infra.points import Priced, look_up, sessions_of
from infra.price_files import Index, SeriesFiles, SeriesName
from infra.price_sources.simulated import walk
from infra.price_views import Views
from infra.settings import Settings
from serving.errors import UserError
from serving.state import AssetPrices, Points, PriceBook
from serving.types import Asset

HISTORY = 512
"""Points of each step in a price book."""
STEPS = (60, 3600)
_REFRESH = 10.0  # seconds between looks for new generations
_TRIES = 6


class Series(msgspec.Struct, frozen=True):
    """One stored series."""

    source: str
    asset: str
    step: int
    rows: int
    sha256: str
    simulated: bool
    proxy: bool
    first: int
    """Unix s at which the first bar opens."""
    last: int
    notes: list[str]
    """Gaps, and what the last write that changed it dropped or found odd."""


class WriteReport(msgspec.Struct, frozen=True):
    """What became of the bars that were given to `PriceStore.write`."""

    series: Series
    rows_in: int
    rows_new: int
    rows_changed: int
    """Bars whose values differ from those stored; the later ones hold."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    odd: dict[str, int]
    """Rows kept that look wrong, by reason."""
    objects: int
    """Objects made; 0 when everything was there."""


class PriceStore:
    """Series of bars in an object store.

    Args:
        objects: Where they lie.
        cache: Folder of the copy that answers when the store is down; None for no copy.
        simulate: Whether assets with no real series have simulated prices.
    """

    def __init__(self, objects: ObjectStore, cache: Path | None = None, *, simulate: bool = True) -> None:
        self._files = SeriesFiles(objects, cache)
        self._indexes: dict[SeriesName, Index] = {}
        self._looked = float("-inf")
        self._bars: dict[SeriesName, tuple[str, pd.DataFrame]] = {}
        self._views = Views(self._known, self._load, simulate=simulate)
        self._book: tuple[int, dict[Asset, AssetPrices]] = (-1, {})

    @property
    def offline_for(self) -> float | None:
        """Seconds since the object store last answered, when it does not answer now; None when it does."""
        if not self._files.offline:
            return None
        return max(0.0, time.time() - (self._files.reached or 0.0))

    def write(
        self,
        bars: pd.DataFrame,
        *,
        source: str,
        asset: str,
        step: int,
        simulated: bool,
        proxy: bool,
        hours: Hours | None = None,
    ) -> WriteReport:
        """Clean bars (`infra.bars` columns) and merge them into their series; the same bars again write nothing.

        `hours` None is judged by the bars. Raises UserError for a name that cannot be one or when no row is left,
        ObjectStoreError when the store is down: then nothing is half written, and the same call finishes later.
        """
        if not re.fullmatch(r"[A-Z0-9]{1,16}", asset) or not re.fullmatch(r"[a-z0-9-]{1,32}", source) or step < 1:
            raise UserError(f"no series can be called {asset}/{source}/{step}: use letters and digits, as BTC/pyth/60")
        name = SeriesName(asset, source, step)
        given = tables.clean(bars, step, hours or "round-the-clock")
        for _ in range(_TRIES):
            old = self._files.index(name)
            merged, new, changed = tables.merge(self._load(name, old) if old else tables.empty(), given.bars)
            if merged.empty:
                raise UserError(
                    f"no usable bar of {name.path} in {len(bars)} rows ({_counts(given.dropped) or 'empty'})"
                )
            kept = hours or tables.infer_hours(merged["time"].to_numpy())
            labels = (simulated, proxy, kept)
            if old and not new and not changed and labels == (old.simulated, old.proxy, old.hours):
                return WriteReport(_series(name, old), len(bars), 0, 0, given.dropped, given.odd, 0)
            fresh = _new_index(merged, step, labels, given)
            saved = self._files.save(name, old, fresh, merged)
            if saved is not None:
                index, objects = saved
                self._indexes[name], self._bars[name] = index, (index.sha256, merged)
                self._book = (-1, {})
                return WriteReport(_series(name, index), len(bars), new, changed, given.dropped, given.odd, objects)
        raise UserError(f"{name.path} is being written by others all the time; try again")

    def series(self) -> list[Series]:
        """Every stored series, freshly looked up."""
        self._look(always=True)
        told = [_series(name, index) for name, index in sorted(self._indexes.items())]
        if (age := self.offline_for) is None:
            return told
        note = f"the object store does not answer: this is the copy of {age:.0f} s ago"
        return [msgspec.structs.replace(one, notes=[*one.notes, note]) for one in told]

    def bars(self, asset: str, step: int) -> pd.DataFrame:
        """Bars of an asset: columns time (unix s), open, high, low, close, volume; raises UserError for none."""
        return self._views.of(asset, step).bars.copy()

    def points(self, asset: str, step: int, *, known_by: float | None = None, count: int | None = None) -> Points:
        """Prices at instants (`infra.points`), those known by `known_by` (unix s), the last `count` of them.

        A simulated asset has the stored window's points without `known_by`, and with it those up to any time.
        """
        found = self._points(asset, step, known_by, count)
        return Points(found.times.tolist(), found.prices.tolist())

    def sessions(self, asset: str, step: int) -> list[tuple[int, int]]:
        """First and last point (unix s) of each trading day; a UTC day where trading never pauses."""
        view = self._views.of(asset, step)
        return sessions_of(view.points.times, view.hours)

    def truth(
        self, asset: str, start: int, increment: int, length: int, *, steps: tuple[int, ...] = STEPS
    ) -> npt.NDArray[np.float64]:
        """Prices at start, start + increment, ... start + length (unix s, s), NaN where none is known.

        Of the points of several steps at one instant those of the first step in `steps` hold.
        """
        at = np.arange(start, start + length + 1, increment, dtype=np.int64)
        if self._views.kind(asset) is None:
            return np.where(at % 60 == 0, walk(asset, at), np.nan)
        found = np.full(len(at), np.nan)
        for step in steps:
            if self._views.names(asset, step):
                found = np.where(np.isnan(found), look_up(self._views.of(asset, step).points, at), found)
        return found

    def book(self, now: float, assets: Sequence[str] | None = None) -> PriceBook:
        """What is known of each asset at `now` (unix s), simulated assets computed; made once a minute, kept after."""
        self._look()
        minute = int(now // 60)
        if self._book[0] != minute:
            self._book = (minute, {})
        wanted = self._views.assets() if assets is None else assets
        kept = self._book[1]
        for asset in wanted:
            if asset not in kept and (made := self._asset_prices(asset, now)) is not None:
                kept[Asset(asset)] = made
        chosen = {Asset(asset): kept[Asset(asset)] for asset in wanted if asset in kept}
        return PriceBook(as_of=now, written_at=time.time(), assets=chosen)

    def _asset_prices(self, asset: str, now: float) -> AssetPrices | None:
        known = {step: self._points(asset, step, now, HISTORY) for step in STEPS if self._views.has(asset, step)}
        last = [(int(one.times[-1]), -step, float(one.prices[-1])) for step, one in known.items() if len(one.times)]
        if not last:
            return None
        spot_time, _, spot = max(last)
        kind = self._views.kind(asset)
        source = "simulated" if kind is None else self._views.of(asset, min(known)).source
        history = {str(step): Points(one.times.tolist(), one.prices.tolist()) for step, one in known.items()}
        simulated, proxy = kind or (True, False)
        return AssetPrices(spot, spot_time, source, simulated, proxy, history)

    def _points(self, asset: str, step: int, known_by: float | None, count: int | None) -> Priced:
        if self._views.kind(asset) is not None or known_by is None:
            return self._views.of(asset, step).points.known_by(known_by, count)
        last = int(known_by // step) * step if step > 60 else int(known_by // 60) * 60 - 60
        times = np.arange(last - (HISTORY if count is None else count) * step, last, step, dtype=np.int64) + step
        return Priced(times, walk(asset, times), times)

    def _load(self, name: SeriesName, index: Index) -> pd.DataFrame:
        held = self._bars.get(name)
        if held is None or held[0] != index.sha256:
            held = (index.sha256, self._files.bars(index))
            self._bars[name] = held
        return held[1]

    def _known(self) -> Mapping[SeriesName, Index]:
        self._look()
        return self._indexes

    def _look(self, *, always: bool = False) -> None:
        """Look for new generations now and then; raises ObjectStoreError when down with no copy."""
        now = time.monotonic()
        if not always and now - self._looked < _REFRESH:
            return
        listed = self._files.names()
        fresh = {name: index for name, index in self._indexes.items() if name in listed}
        for name, generation in listed.items():
            held = fresh.get(name)
            if held is None or held.generation < generation:
                found = self._files.index(name, generation)
                if found is not None:
                    fresh[name] = found
                    self._book = (-1, {})
        self._indexes = fresh  # whoever goes through the old one goes on with it
        self._looked = now


def _new_index(bars: pd.DataFrame, step: int, labels: tuple[bool, bool, Hours], given: tables.Cleaned) -> Index:
    simulated, proxy, hours = labels
    times = bars["time"].to_numpy(dtype=np.int64)
    notes = tables.gaps(times, step, hours)
    notes += [f"dropped at the last write: {_counts(given.dropped)}"] if given.dropped else []
    notes += [f"odd at the last write: {_counts(given.odd)}"] if given.odd else []
    return Index(0, simulated, proxy, hours, "", len(bars), int(times[0]), int(times[-1]), notes, {})


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _series(name: SeriesName, index: Index) -> Series:
    return Series(
        name.source, name.asset, name.step, index.rows, index.sha256, index.simulated, index.proxy,
        index.first, index.last, list(index.notes),
    )  # fmt: skip


def price_store(settings: Settings) -> PriceStore:
    """The configured store; only profile ``local`` has simulated prices."""
    simulate = settings.prices.simulate and settings.profile == "local"
    return PriceStore(object_store(settings), settings.paths.cache / "prices", simulate=simulate)


__all__ = ["HISTORY", "PriceStore", "Series", "WriteReport", "price_store"]
