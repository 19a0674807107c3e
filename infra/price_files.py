"""How series lie in the object store, and the copy on this disk that answers when the store is down.

    prices/index/<asset>/<source>/<step>/<generation>.json    which parts make the series up, and its digest
    prices/bars/<asset>/<source>/<step>/<period>-<digest>.parquet    a month of minutes, or a year of hours

A part is named by the digest of its bars and never changes. A new generation of an index is created once, so of two
writers one is told to look again; readers probe for the next generation and do not rely on a listing being fresh.
"""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import msgspec
import pandas as pd

from infra import bars as tables
from infra.market_hours import Hours
from infra.objects import ObjectMissing, ObjectStore, ObjectStoreError
from serving.clock import replace_file
from serving.errors import UserError

_INDEX, _BARS = "prices/index/", "prices/bars/"
_KEPT = 8  # generations, for readers that are behind
_NAME = re.compile(r"prices/index/([A-Z0-9]{1,16})/([a-z0-9-]{1,32})/(\d+)/(\d{8})\.json")


class SeriesName(msgspec.Struct, frozen=True, order=True):
    """Which series: whose price, who says so, and how often."""

    asset: str
    source: str
    step: int
    """Seconds."""

    @property
    def path(self) -> str:
        """``<asset>/<source>/<step>``."""
        return f"{self.asset}/{self.source}/{self.step}"


class Part(msgspec.Struct, frozen=True):
    """One Parquet object."""

    key: str
    sha256: str
    """Of the bars, not of the file."""
    rows: int


class Index(msgspec.Struct, frozen=True):
    """What makes a series up, as of one generation."""

    generation: int
    simulated: bool
    proxy: bool
    hours: Hours
    sha256: str
    """Over the periods and digests of the parts: equal bars, equal digest."""
    rows: int
    first: int
    """Unix s at which the first bar opens."""
    last: int
    notes: list[str]
    parts: dict[str, Part]
    """By period, such as 2026-08."""


class SeriesFiles:
    """Reads and writes series; what was read once stays on disk below `cache`."""

    def __init__(self, objects: ObjectStore, cache: Path | None) -> None:
        self._objects = objects
        self._cache = cache
        self.reached: float | None = None
        """Wall time (unix s) at which the object store last answered."""
        self.offline = False

    def names(self) -> dict[SeriesName, int]:
        """Every series with its newest listed generation; the copy's when the store is down."""
        try:
            keys = self._objects.list(_INDEX)
        except ObjectStoreError:
            keys = self._cached_keys()
            if not keys:
                raise
            self.offline = True
        else:
            self._told_by_store()
        found: dict[SeriesName, int] = {}
        for key in keys:
            if match := _NAME.fullmatch(key):
                name = SeriesName(match[1], match[2], int(match[3]))
                found[name] = max(found.get(name, 0), int(match[4]))
        return found

    def index(self, name: SeriesName, listed: int = 0) -> Index | None:
        """The newest index from generation `listed` on, or None when the series is not there."""
        newest: Index | None = None
        generation = max(listed, 1)
        try:
            while True:
                data = self._objects.get(_index_key(name, generation))
                newest = msgspec.json.decode(data, type=Index)
                generation += 1
        except ObjectMissing:
            self._told_by_store()
        except ObjectStoreError:
            newest = self._cached_index(name)
            if newest is None:
                raise
            self.offline = True
        except msgspec.DecodeError as error:
            raise UserError(f"{_index_key(name, generation)} is not a price index: {error}") from None
        if newest is None and listed == 0:
            known = self.names().get(name, 0)
            return self.index(name, known) if known > 1 else None
        if newest is not None and not self.offline:
            self._remember(name, newest)
        return newest

    def bars(self, index: Index) -> pd.DataFrame:
        """All bars of a series; raises UserError when a part is not what its digest says."""
        if not index.parts:
            return tables.empty()
        return pd.concat([self._part(index.parts[period]) for period in sorted(index.parts)], ignore_index=True)

    def save(self, name: SeriesName, old: Index | None, new: Index, bars: pd.DataFrame) -> tuple[Index, int] | None:
        """Write what is new of a series: its index and the number of objects made.

        None when another writer was faster: read again and merge again. Equal bars with equal labels write nothing.
        """
        parts, made = {}, 0
        for period, part in _periods(bars, name.step):
            sha256 = tables.digest(part)
            held = old.parts.get(period) if old else None
            if held is not None and held.sha256 == sha256:
                parts[period] = held
                continue
            key = f"{_BARS}{name.path}/{period}-{sha256[:16]}.parquet"
            data = _encode(part)
            made += self._objects.put(key, data, only_if_absent=True)
            if self._cache is not None:
                replace_file(self._cache / "parts" / f"{sha256}.parquet", data)
            parts[period] = Part(key, sha256, len(part))
        index = msgspec.structs.replace(
            new, generation=old.generation + 1 if old else 1, parts=parts, sha256=_series_digest(parts)
        )
        if not self._objects.put(_index_key(name, index.generation), msgspec.json.encode(index), only_if_absent=True):
            return None
        self._told_by_store()
        self._remember(name, index)
        made += 1
        if old is not None:
            self._sweep(name, index)
        return index, made

    def _told_by_store(self) -> None:
        self.reached = time.time()
        self.offline = False

    def _part(self, part: Part) -> pd.DataFrame:
        copy = self._cache / "parts" / f"{part.sha256}.parquet" if self._cache else None
        if copy is not None and copy.exists():
            found = _decode(copy.read_bytes())
            if found is not None and tables.digest(found) == part.sha256:
                return found
            copy.unlink()
        data = self._objects.get(part.key)
        found = _decode(data)
        if found is None or tables.digest(found) != part.sha256:
            raise UserError(f"{part.key} is damaged: delete it and its series' indexes, and ingest again")
        if copy is not None:
            replace_file(copy, data)
        return found

    def _sweep(self, name: SeriesName, index: Index) -> None:
        """Remove the generation that nobody reads any more, with the parts that only it names."""
        expired = index.generation - _KEPT
        if expired < 1:
            return
        try:
            gone = msgspec.json.decode(self._objects.get(_index_key(name, expired)), type=Index)
            after = msgspec.json.decode(self._objects.get(_index_key(name, expired + 1)), type=Index)
            needed = {part.key for one in (after, index) for part in one.parts.values()}
            for part in gone.parts.values():
                if part.key not in needed:
                    self._objects.delete(part.key)
            self._objects.delete(_index_key(name, expired))
        except ObjectStoreError:
            pass  # the series itself is written; what is left over only takes room

    def _cached_path(self, name: SeriesName) -> Path | None:
        return self._cache / "index" / f"{name.path}.json" if self._cache else None

    def _cached_keys(self) -> list[str]:
        if self._cache is None:
            return []
        keys = []
        for path in sorted((self._cache / "index").glob("*/*/*.json")):
            name = SeriesName(path.parts[-3], path.parts[-2], int(path.stem))
            held = self._cached_index(name)
            if held is not None:
                keys.append(_index_key(name, held.generation))
        return keys

    def _cached_index(self, name: SeriesName) -> Index | None:
        path = self._cached_path(name)
        try:
            if path is None:
                return None
            if self.reached is None:
                self.reached = path.stat().st_mtime
            return msgspec.json.decode(path.read_bytes(), type=Index)
        except (OSError, msgspec.DecodeError):
            return None

    def _remember(self, name: SeriesName, index: Index) -> None:
        path = self._cached_path(name)
        if path is None or self._cache is None:
            return
        before = self._cached_index(name)
        replace_file(path, msgspec.json.encode(index))
        if before is not None:
            kept = {part.sha256 for part in index.parts.values()}
            for part in before.parts.values():
                if part.sha256 not in kept:
                    (self._cache / "parts" / f"{part.sha256}.parquet").unlink(missing_ok=True)


def _index_key(name: SeriesName, generation: int) -> str:
    return f"{_INDEX}{name.path}/{generation:08d}.json"


def _periods(bars: pd.DataFrame, step: int) -> list[tuple[str, pd.DataFrame]]:
    """Bars by the UTC month, or the year for steps of an hour and more."""
    if bars.empty:
        return []
    stamps = pd.to_datetime(bars["time"], unit="s", utc=True).dt.strftime("%Y-%m" if step < 3600 else "%Y")
    return [(str(period), part) for period, part in bars.groupby(stamps.to_numpy(), sort=True)]


def _series_digest(parts: dict[str, Part]) -> str:
    import hashlib

    return hashlib.sha256("".join(f"{p} {parts[p].sha256}\n" for p in sorted(parts)).encode()).hexdigest()


def _encode(bars: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    bars.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def _decode(data: bytes) -> pd.DataFrame | None:
    """The bars in a Parquet file, or None when it is none."""
    try:
        found = pd.read_parquet(io.BytesIO(data))
    except (ValueError, OSError):  # pyarrow's own errors are both
        return None
    return found if list(found.columns) == list(tables.COLUMNS) else None
