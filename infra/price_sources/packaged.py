"""Real AAPL bars from the mintalib wheel (Yahoo's, regular hours), standing for the token AAPLX."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib import resources

import pandas as pd

from infra.market_hours import Hours
from infra.price_sources import SourceError

ASSET = "AAPLX"
_FILES = {
    3600: ("hourly-prices.csv", "5caf37781e44d8ec59c41bc6599437c345d24a181a32cb536dcf342cbeebfea3"),
    60: ("minute-prices.csv", "38d437edab63e377e6c9d1793d0a14ad27244e9dc8b6760b6198084f0ab2c512"),
}


class Packaged:
    """AAPL by the hour since 2024-08-06 and by the minute from 2026-07-31 to 2026-08-06.

    The sample window moves with mintalib's releases, so each file's sha256 is checked before use. The last hourly
    bar was cut off by the download and is left out.
    """

    name = "packaged"
    simulated = False
    proxy = True
    hours: Hours | None = "new-york"

    def offers(self) -> Sequence[tuple[str, int]]:
        """AAPLX by the hour and by the minute."""
        return [(ASSET, step) for step in _FILES]

    def notes(self) -> Sequence[str]:
        """Nothing: it works or it raises."""
        return []

    def close(self) -> None:
        """Nothing is open."""

    def history(self, asset: str, step: int, since: int | None = None) -> pd.DataFrame:
        """The packaged bars; raises SourceError when the wheel is missing or is another release."""
        if asset != ASSET or step not in _FILES:
            raise SourceError(f"the packaged bars have no {asset} by {step} s")
        name, expected = _FILES[step]
        table = pd.read_csv(io.BytesIO(_checked(name, expected)))
        opens = pd.to_datetime(table.pop("datetime"), utc=True)
        table.insert(0, "time", (opens - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1))
        if step == 3600:
            table = table.iloc[:-1]
        return table if since is None else table[table["time"] >= since].reset_index(drop=True)


def _checked(name: str, expected: str) -> bytes:
    try:
        data = (resources.files("mintalib.samples") / name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise SourceError(
            "the packaged AAPL bars are missing: install the extra 'sample-data' (mintalib 0.1.13), "
            "or set [prices] packaged = false"
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SourceError(
            f"mintalib's {name} has sha256 {found[:12]}, not {expected[:12]}: install mintalib 0.1.13 exactly"
        )
    return data
