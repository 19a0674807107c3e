"""Price bars and their cleaning, in pure functions: nothing is read, written or dropped in silence.

A table of bars has the columns ``time`` (int64, unix s at which the bar opens), ``open high low close`` and
``volume`` (float64), one row a bar, in order of time. A step is the length of a bar in seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.market_hours import DAY, Hours, sessions_between
from serving.errors import UserError

PRICES = ("open", "high", "low", "close")
COLUMNS = ("time", *PRICES, "volume")
_CENTURY = (946_684_800, 4_102_444_799)
_SLACK = 1e-6  # vendors adjust a bar's four prices with rounding of their own


@dataclass(frozen=True)
class Cleaned:
    """Bars that can be used, and what was found on the way."""

    bars: pd.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""
    odd: dict[str, int] = field(default_factory=dict)
    """Rows kept that a person may want to look at, by reason."""


def empty() -> pd.DataFrame:
    """A table of no bars."""
    return pd.DataFrame({name: pd.Series(dtype="int64" if name == "time" else "float64") for name in COLUMNS})


def make(time: npt.ArrayLike, price: npt.ArrayLike) -> pd.DataFrame:
    """Bars of one price each: a series of points as bars."""
    flat = np.asarray(price, dtype=np.float64)
    table = {"time": np.asarray(time, dtype=np.int64), **dict.fromkeys(PRICES, flat), "volume": np.zeros(len(flat))}
    return pd.DataFrame(table)


def clean(table: pd.DataFrame, step: int, hours: Hours = "round-the-clock") -> Cleaned:
    """Bars in order, one a time, with possible prices only.

    Impossible rows are dropped and counted: no time, no positive finite price, a high or low that the other prices
    break, an opening off the minute or outside the market's hours. Of rows with one time the last stays. Spikes are
    kept and counted as odd: a crash is not a bad tick.
    """
    bars = _typed(table)
    dropped: dict[str, int] = {}
    odd: dict[str, int] = {}

    def drop(reason: str, rows: pd.Series[bool] | npt.ArrayLike) -> None:
        nonlocal bars
        bad = np.asarray(rows, dtype=bool)
        if bad.any():
            dropped[reason] = int(bad.sum())
            bars = bars[~bad]

    drop("no time of this century", ~bars["time"].between(*_CENTURY))
    prices = bars[list(PRICES)]
    drop("no positive price", ~(np.isfinite(prices) & (prices > 0)).all(axis=1))
    body = bars[["open", "close"]]
    broken = (bars["high"] < body.max(axis=1) * (1 - _SLACK)) | (bars["low"] > body.min(axis=1) * (1 + _SLACK))
    drop("high or low broken", broken)
    drop("off the minute", bars["time"] % min(step, 60) != 0)
    bars = bars.astype({"time": "int64"})
    if hours == "new-york":
        drop("outside market hours", ~_inside(bars["time"], hours))
    if unordered := int((bars["time"].diff() < 0).sum()):
        odd["out of order"] = unordered
    drop("duplicate", bars.duplicated(subset=["time", *PRICES], keep="last"))
    drop("replaced by a later row", bars.duplicated(subset="time", keep="last"))
    bars = bars.sort_values("time", kind="stable").reset_index(drop=True)
    if spikes := int(spiked(bars).sum()):
        odd["spike"] = spikes
    return Cleaned(bars, dropped, odd)


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("time", *PRICES) if name not in table]
    if missing:
        raise UserError(f"a table of bars has no column {', '.join(missing)}; it has {', '.join(map(str, table))}")
    numbers = {name: pd.to_numeric(table[name], errors="coerce").astype("float64") for name in ("time", *PRICES)}
    volume = pd.to_numeric(table["volume"], errors="coerce") if "volume" in table else pd.Series(0.0, table.index)
    bars = pd.DataFrame({**numbers, "volume": volume.astype("float64").fillna(0.0)}).reset_index(drop=True)
    return bars[list(COLUMNS)]


def _inside(times: pd.Series[int], hours: Hours) -> npt.NDArray[np.bool_]:
    if times.empty:
        return np.zeros(0, dtype=bool)
    spans = np.array(list(sessions_between(times.min(), times.max(), hours)), dtype=np.int64).reshape(-1, 2)
    if not len(spans):
        return np.zeros(len(times), dtype=bool)
    at = times.to_numpy()
    which = np.searchsorted(spans[:, 0], at, side="right") - 1
    return np.asarray((which >= 0) & (at < spans[np.maximum(which, 0), 1]))


def spiked(bars: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Bars whose close leaves both neighbours and comes straight back.

    Both moves exceed 5 % and 25 times the series' median absolute move, and together they cancel to a fifth. A crash
    stays down, so it is none; a crash that recovers within one bar is one.
    """
    move = np.diff(np.log(bars["close"].to_numpy(dtype=np.float64)))
    found = np.zeros(len(bars), dtype=bool)
    if len(move) < 2:
        return found
    far = max(0.05, 25.0 * float(np.median(np.abs(move))))
    out, back = move[:-1], move[1:]
    both = np.minimum(np.abs(out), np.abs(back)) > far
    found[1:-1] = both & (out * back < 0) & (np.abs(out + back) < 0.2 * np.abs(out))
    return found


def infer_hours(times: npt.NDArray[np.int64]) -> Hours:
    """New York's hours when five days or more of bars all lie within its sessions, else round the clock."""
    if len(times) == 0 or len(np.unique(times // DAY)) < 5:
        return "round-the-clock"
    inside = _inside(pd.Series(times), "new-york")
    return "new-york" if bool(inside.all()) else "round-the-clock"


def merge(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """The union of two clean tables, `new` holding where both have a time; the bars added, and the bars that differ."""
    if old.empty:
        return new, len(new), 0
    shared = old.merge(new, on="time", suffixes=("", "_new"))
    values = list(COLUMNS[1:])
    differ = shared[values].to_numpy() != shared[[f"{one}_new" for one in values]].to_numpy()
    changed = int(differ.any(axis=1).sum())
    added = len(new) - len(shared)
    if not added and not changed:
        return old, 0, 0
    both = pd.concat([old, new], ignore_index=True).drop_duplicates("time", keep="last")
    return both.sort_values("time").reset_index(drop=True), added, changed


def gaps(times: npt.NDArray[np.int64], step: int, hours: Hours) -> list[str]:
    """What is missing between the first and the last bar, as sentences: bars inside sessions, and whole sessions."""
    if len(times) == 0:
        return []
    holes, sessions, longest = 0, 0, (0, 0)
    for opens, closes in sessions_between(times[0], times[-1], hours):
        here = times[slice(*np.searchsorted(times, (opens, closes)))]
        due = np.arange(max(opens, times[0]), min(closes, times[-1] + 1), step)
        missing = due[~np.isin(due, here)]
        if len(missing) == len(due) > 0:
            sessions += 1
        elif len(missing):
            holes += len(missing)
        if len(missing) > longest[0]:
            longest = (len(missing), int(missing[0]))
    told = []
    if holes:
        told.append(f"{holes} bars of {step} s missing inside sessions")
    if sessions:
        told.append(f"{sessions} whole sessions missing")
    if told:
        told.append(f"most in one session: {longest[0]} from {iso(longest[1])}")
    return told


def digest(bars: pd.DataFrame) -> str:
    """sha256 of the bars' canonical bytes: each column in turn, little endian, 8 bytes a value."""
    state = hashlib.sha256(b"bars/1\n")
    for name in COLUMNS:
        kind = "<i8" if name == "time" else "<f8"
        state.update(np.ascontiguousarray(bars[name].to_numpy(), dtype=kind).tobytes())
    return state.hexdigest()


def grouped(bars: pd.DataFrame, opens: pd.Series[int]) -> pd.DataFrame:
    """One bar for all rows of one opening time: `opens`, unix s, one a row."""
    group = bars.drop(columns="time").groupby(opens.to_numpy(), sort=True)
    made = group.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
    made.insert(0, "time", made.index.astype("int64"))
    return made.reset_index(drop=True)[list(COLUMNS)]


def coarser(bars: pd.DataFrame, fine: int, step: int) -> pd.DataFrame:
    """Bars of `step` seconds, opening on its multiples, from bars of `fine`; those whose ends are both there."""
    if bars.empty:
        return bars
    opens = bars["time"] // step * step
    made = grouped(bars, opens)
    whole = made["time"].isin(bars["time"]) & (made["time"] + step - fine).isin(bars["time"])
    return made[whole].reset_index(drop=True)


def iso(at: float) -> str:
    """An instant (unix s) as a person reads it, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%MZ")
