"""A folder of CSV and Parquet files: bars that an operator brings.

A file says what it holds by its name, ``BTC_60.csv``, ``btc-1m.parquet``, ``AAPLX_1h.csv``, or by columns ``asset``
and ``step``; a step that is nowhere said is the commonest distance between its rows. Times are unix seconds (or
milli-, micro-, nanoseconds), or text with an offset; text without one is refused unless a time zone is configured.
A file that cannot be used is told in one line and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra import bars
from infra.market_hours import Hours
from infra.price_sources import SourceError

_TIME = ("time", "timestamp", "datetime", "date", "open_time", "opentime", "ts", "unix", "t")
_SHORT = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "symbol": "asset", "ticker": "asset"}
_STEM = re.compile(r"([A-Za-z0-9]{1,16})(?:[_-](\d+)(s|sec|m|min|h|d)?)?(?:[_.-].*)?")
_UNIT = {None: 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_OFFSET = r"(?:Z|UTC|GMT|[+-]\d{2}:?\d{2})$"


class Folder:
    """Files below one folder, not deeper.

    Args:
        path: The folder.
        timezone: IANA name that text times without an offset are in; empty refuses them.
    """

    name = "folder"
    simulated = False
    proxy = False
    hours: Hours | None = None

    def __init__(self, path: Path, timezone: str = "") -> None:
        self.path = path
        self.timezone = timezone
        self._notes: list[str] = []

    def offers(self) -> Sequence[tuple[str, int]]:
        """What the readable files hold; raises SourceError when there is no such folder."""
        return sorted(self._tables)

    def notes(self) -> Sequence[str]:
        """A line for each file that was left out."""
        return list(self._notes)

    def close(self) -> None:
        """Nothing is open."""

    def history(self, asset: str, step: int, since: int | None = None) -> pd.DataFrame:
        """Rows of every file that holds this series, as they stand in the files."""
        found = self._tables.get((asset, step))
        if found is None:
            raise SourceError(f"no file in {self.path} holds {asset} by {step} s")
        table = pd.concat(found, ignore_index=True)
        return table if since is None else table[table["time"] >= since].reset_index(drop=True)

    @cached_property
    def _tables(self) -> dict[tuple[str, int], list[pd.DataFrame]]:
        if not self.path.is_dir():
            raise SourceError(f"[prices] folder {self.path} is not a folder")
        if self.timezone:
            _zone(self.timezone)
        found: dict[tuple[str, int], list[pd.DataFrame]] = {}
        for file in sorted(self.path.iterdir()):
            if file.suffix.lower() not in {".csv", ".parquet"} or not file.is_file():
                continue
            try:
                for key, table in read_file(file, self.timezone).items():
                    found.setdefault(key, []).append(table)
            except SourceError as error:
                self._notes.append(str(error))
        return found


def read_file(file: Path, timezone: str = "") -> dict[tuple[str, int], pd.DataFrame]:
    """The tables of bars in a file, by (asset, step); raises SourceError naming the file and what is wrong in it."""
    table = _read(file)
    table.columns = pd.Index([_SHORT.get(str(name).strip().lower(), str(name).strip().lower()) for name in table])
    column = next((name for name in _TIME if name in table), None)
    missing = [name for name in bars.PRICES if name not in table]
    if column is None or missing:
        lacking = ", ".join(missing if column else ["time", *missing])
        raise SourceError(f"{file.name}: no column {lacking}; it has {', '.join(map(str, table))[:120] or 'none'}")
    if table.empty:
        raise SourceError(f"{file.name}: no rows")
    table["time"] = _times(table[column], file.name, timezone)
    asset, step = _named(file.stem)
    if "asset" not in table:
        table["asset"] = asset
    table["step"] = pd.to_numeric(table["step"], errors="coerce").fillna(0) if "step" in table else step
    made: dict[tuple[str, int], pd.DataFrame] = {}
    for one in table["asset"].astype(str).unique():
        name = one.strip().upper()
        if not re.fullmatch(r"[A-Z0-9]{1,16}", name):
            raise SourceError(f"{file.name}: {one[:20]!r} is no asset; name the file as BTC_60.csv")
        for said in table.loc[table["asset"] == one, "step"].unique():
            rows = table[(table["asset"] == one) & (table["step"] == said)]
            kept = rows[[column for column in bars.COLUMNS if column in rows]].reset_index(drop=True)
            made[(name, int(said) or _spacing(kept, file.name))] = kept
    return made


def _read(file: Path) -> pd.DataFrame:
    if file.stat().st_size == 0:
        raise SourceError(f"{file.name}: empty")
    try:
        if file.suffix.lower() == ".csv":
            return pd.read_csv(file, comment="#", skipinitialspace=True)
        table = pd.read_parquet(file)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise SourceError(f"{file.name}: cannot be read as {file.suffix[1:]}: {_line(error)}") from None
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index(names="time")


def _times(values: pd.Series[Any], where: str, timezone: str) -> npt.NDArray[np.float64]:
    """Unix seconds; NaN where a row has no readable time."""
    if pd.api.types.is_numeric_dtype(values):
        return _epoch(values.to_numpy(dtype=np.float64))
    stamps = pd.DatetimeIndex(values) if pd.api.types.is_datetime64_any_dtype(values) else _parsed(values, where)
    if stamps.tz is None:
        if not timezone:
            raise SourceError(f"{where}: times without an offset; add one, or set [prices] folder_timezone, as UTC")
        try:
            stamps = stamps.tz_localize(_zone(timezone), ambiguous="infer", nonexistent="raise")
        except ValueError as error:
            raise SourceError(f"{where}: not times of {timezone}: {_line(error)}") from None
    seconds = (stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    return np.asarray(seconds, dtype=np.float64)


def _parsed(values: pd.Series[Any], where: str) -> pd.DatetimeIndex:
    """Text as instants: with a zone when every readable one has an offset, without when none has."""
    text = values.astype(str).str.strip()
    text = text.where(text.str.contains(r"\d{4}", regex=True), "")  # pandas would read words such as "today"
    stamps = pd.DatetimeIndex(pd.to_datetime(text, utc=True, errors="coerce", format="mixed"))
    readable = ~np.asarray(stamps.isna())
    if not readable.any():
        raise SourceError(f"{where}: no readable time in {values.name!r}, such as {str(values.iloc[0])[:30]!r}")
    offset = text.str.contains(_OFFSET, regex=True).to_numpy(dtype=bool)[readable]
    if offset.any() and not offset.all():
        raise SourceError(f"{where}: some times have an offset and some have none; give all of them one")
    return stamps if offset.all() else stamps.tz_localize(None)


def _epoch(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Seconds, by the size of the numbers: a unix time of this century has 9 or 10 digits in seconds."""
    middle = float(np.nanmedian(values)) if np.isfinite(values).any() else 0.0
    scale = next((unit for unit in (1e9, 1e6, 1e3) if abs(middle) >= 1e8 * unit), 1.0)
    return values / scale


def _named(stem: str) -> tuple[str, int]:
    """Asset and step (0 when not said) by the file's name."""
    match = _STEM.fullmatch(stem)
    if match is None:
        return stem, 0
    number, unit = match[2], match[3]
    return match[1].upper(), int(number) * _UNIT[unit] if number else 0


def _spacing(table: pd.DataFrame, where: str) -> int:
    distance = np.diff(np.sort(table["time"].dropna().unique()))
    if len(distance) == 0:
        raise SourceError(f"{where}: one row does not say its step; name the file as BTC_60.csv")
    values, counts = np.unique(distance, return_counts=True)
    step = float(values[counts.argmax()])
    if step < 1 or step != int(step):
        raise SourceError(f"{where}: rows are {step:g} s apart, which is no step")
    return int(step)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise SourceError(f"[prices] folder_timezone {name!r} is no time zone; use a name such as UTC") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
