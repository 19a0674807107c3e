"""The recorder: keeps what a live source says, so that a miner comes to own real minute bars of every asset.

Each price is appended to a file of its UTC day and synced; finished minutes become bars (open, high, low and close
of what was seen in the minute) of the source ``recorded``, shipped to the price store every quarter of an hour. A
killed recorder goes on from its files. While the store is down the files keep what was seen and are shipped later;
shipping the same minutes twice writes nothing. A minute without a price is a gap, and the series tells it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd

from infra import bars
from infra.market_hours import DAY
from infra.objects import ObjectStoreError
from infra.price_sources import ASSETS, LiveSource, SourceError
from infra.price_sources.configured import live_source
from infra.prices import HISTORY, PriceStore
from infra.settings import Settings
from serving.clock import replace_file
from serving.state import AssetPrices, Points, PriceBook
from serving.types import Asset

SOURCE = "recorded"
_SHIP_EVERY = 900.0
_EARLY = 0.9  # of `every`: a loop that is a little early does not lose a minute
_RECENT = 3600  # seconds of shipped prices kept at hand, for readers that have not seen the store's yet
_GRACE = 5.0  # seconds after a minute's end in which its last price is still on its way
_LATEST = 65.0  # seconds after a minute's end in which a price of it may still come: a spot may be a minute old
_DISK_CAP = 256_000_000  # bytes of files that wait for the store: half a year of twelve assets


class Tick(msgspec.Struct, frozen=True, array_like=True):
    """One price that was seen."""

    asset: str
    time: int
    """Unix s at which the source published it."""
    price: float


class Recorded(msgspec.Struct, frozen=True):
    """What one look of the recorder did."""

    ticks: int
    refused: dict[str, str]
    """Assets without a usable price, and why."""
    problem: str | None
    """The source or the store in trouble, in one line."""
    shipped: int
    """Bars new in the store."""
    dropped_days: int
    """Days of ticks given up because the store was down until the disk's cap was reached."""


class Recorder:
    """Asks a live source every `every` seconds; `look` is to be called that often or more, by one thread.

    `extend` may be called by another.

    Args:
        live: The source.
        store: Where bars go.
        folder: Where ticks are kept; this recorder's own.
        every: Seconds between two questions.
        assets: What to ask for.
    """

    def __init__(
        self, live: LiveSource, store: PriceStore, folder: Path, every: float, assets: Sequence[str] = ASSETS
    ) -> None:
        self._live = live
        self._store = store
        self._folder = folder
        self._every = every
        self._assets = tuple(assets)
        self._asked = self._shipped_at = float("-inf")
        self._dropped_days = 0
        self._shipped = self._read_shipped()
        self._lock = threading.Lock()
        self._ticks: dict[str, list[Tick]] = {}
        for tick in sorted(self._kept_ticks(), key=lambda tick: tick.time):
            held = self._ticks.setdefault(tick.asset, [])
            if not held or tick.time > held[-1].time:
                held.append(tick)

    def look(self, now: float) -> Recorded | None:
        """Ask, keep and ship as is due at wall time `now` (unix s); None when nothing is."""
        if now - self._asked < _EARLY * self._every:
            return None
        self._asked = now
        refused: dict[str, str] = {}
        problem: str | None = None
        fresh: list[Tick] = []
        try:
            spots = self._live.spots(self._assets, now)
            refused = dict(spots.refused)
            fresh = [Tick(asset, spot.time, spot.price) for asset, spot in spots.prices.items()]
        except SourceError as error:
            problem = str(error)
        kept = [tick for tick in fresh if self._keep(tick)]
        try:
            self._append(kept)
            self._cap()
        except OSError as error:
            problem = f"cannot keep prices in {self._folder}: {error.strerror}"
        shipped = 0
        if now - self._shipped_at >= _SHIP_EVERY:
            try:
                shipped = self.ship(now)
                self._shipped_at = now
            except ObjectStoreError as error:
                problem = str(error)
                self._shipped_at = now - _SHIP_EVERY + 60.0
        return Recorded(len(kept), refused, problem, shipped, self._dropped_days)

    def ship(self, now: float) -> int:
        """Write every finished minute that is not in the store yet; raises ObjectStoreError, and then nothing is lost.

        Returns the number of bars that were new there.
        """
        new = 0
        for asset in sorted(self._ticks):
            table = self.minutes(asset, now)
            if table.empty:
                continue
            last = int(table["time"].iloc[-1])
            new += self._store.write(
                table, source=SOURCE, asset=asset, step=60, simulated=False, proxy=False, hours="round-the-clock"
            ).rows_new
            self._shipped[asset] = last
            replace_file(self._folder / "shipped.json", msgspec.json.encode(self._shipped))
        with self._lock:
            for asset, ticks in self._ticks.items():
                done = min(self._shipped.get(asset, -1), now - _RECENT)
                self._ticks[asset] = [tick for tick in ticks if _minute(tick) > done]
        self._tidy(now)
        return new

    def minutes(self, asset: str, now: float) -> pd.DataFrame:
        """Bars of the minutes to ship: no price of them can come any more (`infra.bars` columns)."""
        return _folded(self._ticks.get(asset, ()), self._shipped.get(asset, -1), now - 60.0 - _LATEST)

    def extend(self, book: PriceBook) -> PriceBook:
        """The book with what was seen after it: real prices, so they replace simulated ones and a proxy's."""
        with self._lock:
            seen = {asset: [tick for tick in ticks if tick.time <= book.as_of] for asset, ticks in self._ticks.items()}
        assets = dict(book.assets)
        for asset, ticks in seen.items():
            held = assets.get(Asset(asset))
            real = held if held is not None and not (held.simulated or held.proxy) else None
            if ticks and (real is None or real.spot_time < ticks[-1].time):
                assets[Asset(asset)] = _extended(real, ticks, book.as_of)
        return msgspec.structs.replace(book, assets=assets)

    def _keep(self, tick: Tick) -> bool:
        """Whether the tick is news: neither seen before nor of a minute that was shipped."""
        with self._lock:
            held = self._ticks.setdefault(tick.asset, [])
            if _minute(tick) <= self._shipped.get(tick.asset, -1) or (held and tick.time <= held[-1].time):
                return False
            held.append(tick)
        return True

    def _append(self, ticks: Sequence[Tick]) -> None:
        if not ticks:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        by_day: dict[Path, list[Tick]] = {}
        for tick in ticks:
            by_day.setdefault(self._file(tick.time), []).append(tick)
        for path, mine in by_day.items():
            with path.open("ab") as file:
                file.write(b"".join(b"\n" + msgspec.json.encode(tick) for tick in mine))
                file.flush()
                os.fsync(file.fileno())

    def _file(self, at: float) -> Path:
        return self._folder / f"ticks-{datetime.fromtimestamp(at, UTC):%Y-%m-%d}.jsonl"

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("ticks-*.jsonl"))

    def _kept_ticks(self) -> Iterator[Tick]:
        """Every whole line of every file; a kill may tear the last, and the next append starts a line of its own."""
        for path in self._files():
            for line in path.read_bytes().splitlines():
                try:
                    yield msgspec.json.decode(line, type=Tick)
                except msgspec.DecodeError:
                    continue

    def _read_shipped(self) -> dict[str, int]:
        try:
            return msgspec.json.decode((self._folder / "shipped.json").read_bytes(), type=dict[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _tidy(self, now: float) -> None:
        """Remove files whose every tick is shipped."""
        waiting = (t.time for a, ticks in self._ticks.items() for t in ticks if _minute(t) > self._shipped.get(a, -1))
        keep_from = self._file(min(min(waiting, default=now), now - DAY))
        for path in self._files():
            if path < keep_from:
                path.unlink()

    def _cap(self) -> None:
        """Give the oldest days up while the files are over the cap, and count them."""
        files = self._files()
        while len(files) > 1 and sum(path.stat().st_size for path in files) > _DISK_CAP:
            files.pop(0).unlink()
            self._dropped_days += 1


def _minute(tick: Tick) -> int:
    return tick.time // 60 * 60


def _folded(ticks: Sequence[Tick], after: int, until: float) -> pd.DataFrame:
    """Bars of the minutes that begin later than `after` and no later than `until` (unix s)."""
    wanted = [tick for tick in ticks if after < _minute(tick) <= until]
    if not wanted:
        return bars.empty()
    table = bars.make([_minute(tick) for tick in wanted], [tick.price for tick in wanted])
    return bars.grouped(table, table["time"])


def _extended(real: AssetPrices | None, seen: Sequence[Tick], now: float) -> AssetPrices:
    """An asset's real prices, if it has any, with ticks after them."""
    history = dict(real.history) if real else {}
    past = history.get("60", Points([], []))
    after = _folded(seen, past.times[-1] if past.times else -1, now - 60.0 - _GRACE)
    times, prices = past.times + after["time"].tolist(), past.prices + after["close"].tolist()
    history["60"] = Points(times[-HISTORY:], prices[-HISTORY:])
    source = real.source if real else SOURCE
    return AssetPrices(seen[-1].price, seen[-1].time, source, False, False, history)


def recorder(settings: Settings, store: PriceStore) -> Recorder | None:
    """The configured recorder, or None when recording is off or no live source is configured."""
    live = live_source(settings) if settings.prices.record else None
    if live is None:
        return None
    return Recorder(live, store, settings.home / "recorder", settings.prices.record_every)
