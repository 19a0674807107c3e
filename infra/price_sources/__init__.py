"""Where prices come from: a small interface, and one file a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import pandas as pd

from infra.market_hours import Hours
from serving.errors import UserError

ASSETS = ("BTC", "ETH", "XAU", "SOL", "SPYX", "NVDAX", "TSLAX", "AAPLX", "GOOGLX", "XRP", "HYPE", "WTIOIL")
"""The twelve assets that Synth asks for."""


class SourceError(UserError):
    """A source cannot say what it was asked, in one line."""


class Spot(NamedTuple):
    """A live price."""

    price: float
    time: int
    """Unix s at which the source published it."""
    confidence: float
    """Half the width of the source's own interval, in the price's unit; 0 when it gives none."""


class Spots(NamedTuple):
    """Live prices of those assets that have a good one, and why the others have none."""

    prices: Mapping[str, Spot]
    refused: Mapping[str, str]


class Source(Protocol):
    """One place that prices come from."""

    name: str
    simulated: bool
    proxy: bool
    """The bars are of something that stands for the asset, not of the asset."""
    hours: Hours | None
    """None: judged by the bars."""

    def offers(self) -> Sequence[tuple[str, int]]:
        """The (asset, step in seconds) pairs that it can tell the history of."""
        ...

    def history(self, asset: str, step: int, since: int | None) -> pd.DataFrame:
        """Finished bars (`infra.bars` columns, not yet cleaned) that open at `since` (unix s) or later."""
        ...

    def notes(self) -> Sequence[str]:
        """What went wrong so far without stopping it: a file left out, an asset refused."""
        ...

    def close(self) -> None:
        """Give up what it holds open."""
        ...


@runtime_checkable
class LiveSource(Source, Protocol):
    """A source that also knows the price now."""

    def spots(self, assets: Sequence[str], now: float) -> Spots:
        """Prices at about `now` (unix s); stale and doubtful ones are refused. Raises SourceError when it is down."""
        ...
