"""Pyth over HTTP: spot prices from Hermes, minute and hour candles from the shim that the validators score on.

Hermes asks for an API key since August 2026 and answers 403 for a whole request when the key may not read one of
its feeds, so what is refused together is asked for one by one. XAU is Tether's gold token XAUT, as in the scoring;
WTIOIL is not on Pyth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from infra import bars
from infra.market_hours import DAY, Hours
from infra.price_sources import SourceError, Spot, Spots
from infra.price_sources.http import Patient, Refused

SYMBOLS = {
    "BTC": "Crypto.BTC/USD", "ETH": "Crypto.ETH/USD", "XAU": "Crypto.XAUT/USD", "SOL": "Crypto.SOL/USD",
    "SPYX": "Crypto.SPYX/USD", "NVDAX": "Crypto.NVDAX/USD", "TSLAX": "Crypto.TSLAX/USD", "AAPLX": "Crypto.AAPLX/USD",
    "GOOGLX": "Crypto.GOOGLX/USD", "XRP": "Crypto.XRP/USD", "HYPE": "Crypto.HYPE/USD",
}  # fmt: skip
_RESOLUTION = {60: "1", 3600: "60"}
_WINDOW = {60: DAY, 3600: 30 * DAY}  # seconds asked for at once: 1440 and 720 candles
_LATEST = "/v2/updates/price/latest"
_FEEDS = "/v2/price_feeds"
_CANDLES = "/v1/shims/tradingview/history"
_SPOT_PATIENCE = 4.0  # seconds: a recorder that waits longer misses its next minute


class Pyth:
    """Pyth's public services, or anything that answers in their shapes.

    Args:
        spot_url: Hermes, without a path.
        history_url: The benchmarks service, without a path.
        api_key: Sent as a bearer token when not empty.
        days: How far back history goes when nothing is stored yet.
        max_age: Seconds after its publication at which a spot price is stale.
        max_confidence: Share of the price above which its confidence interval is too wide to use.
        clock, sleep: Wall time (unix s) and how to wait.
    """

    name = "pyth"
    simulated = False
    proxy = False
    hours: Hours | None = "round-the-clock"

    def __init__(
        self,
        spot_url: str,
        history_url: str,
        *,
        api_key: str = "",
        days: float = 7.0,
        max_age: float = 60.0,
        max_confidence: float = 0.02,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._hermes = Patient(spot_url, headers=headers, tries=2, patience=_SPOT_PATIENCE, sleep=sleep)
        self._benchmarks = Patient(history_url, headers=headers, sleep=sleep)
        self._days = days
        self._max_age = max_age
        self._max_confidence = max_confidence
        self._clock = clock
        self._ids: dict[str, str] = {}
        self._notes: list[str] = []

    def close(self) -> None:
        """Close the connections."""
        self._hermes.close()
        self._benchmarks.close()

    def offers(self) -> Sequence[tuple[str, int]]:
        """Every asset that Pyth has, by the minute and by the hour."""
        return [(asset, step) for asset in SYMBOLS for step in _RESOLUTION]

    def notes(self) -> Sequence[str]:
        """What Pyth said it has no data for."""
        return list(self._notes)

    def history(self, asset: str, step: int, since: int | None = None) -> pd.DataFrame:
        """Finished candles from `since`, or from the configured days ago.

        Raises SourceError when Pyth is down, refuses the symbol or answers in another shape.
        """
        if asset not in SYMBOLS or step not in _RESOLUTION:
            raise SourceError(f"Pyth has no {asset} by {step} s")
        now = int(self._clock())
        start = since if since is not None else now - int(self._days * DAY)
        first = start = start - start % step
        pages = []
        while start < now:
            end = min(start + _WINDOW[step], now)
            pages.append(self._page(asset, step, start, end))
            start = end if end == now else end - end % step
        table = pd.concat(pages, ignore_index=True) if pages else bars.empty()
        if table.empty:
            self._notes.append(f"pyth: no data of {asset} by {step} s since {bars.iso(first)}")
        return table[table["time"] + step <= now].reset_index(drop=True)

    def _page(self, asset: str, step: int, start: int, end: int) -> pd.DataFrame:
        symbol = SYMBOLS[asset]
        params: list[tuple[str, str | int]] = [
            ("symbol", symbol),
            ("resolution", _RESOLUTION[step]),
            ("from", start),
            ("to", end),
        ]
        found = self._benchmarks.get(_CANDLES, params)
        said = found.get("s") if isinstance(found, dict) else None
        if said == "no_data":
            return bars.empty()
        if said != "ok":
            why = str(found.get("errmsg") or said)[:120] if isinstance(found, dict) else "another shape"
            raise SourceError(f"{self._benchmarks.base}: no candles of {symbol}: {why}")
        columns = {"time": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"}
        try:
            table = pd.DataFrame({name: found[short] for name, short in columns.items() if short in found})
            return table if len(table) else bars.empty()
        except (ValueError, TypeError):
            raise SourceError(f"{self._benchmarks.base}: candles of {symbol} whose columns do not match") from None

    def spots(self, assets: Sequence[str], now: float | None = None) -> Spots:
        """Prices at about `now` (unix s); see `Spots` for those that are refused."""
        at = self._clock() if now is None else now
        refused = {asset: "not on Pyth" for asset in assets if asset not in SYMBOLS}
        wanted = self._resolve([asset for asset in assets if asset in SYMBOLS], refused)
        answers: dict[str, Any] = {}
        try:
            answers = self._latest(list(wanted))
        except Refused as error:
            if len(wanted) == 1:
                return Spots({}, refused | dict.fromkeys(wanted.values(), str(error)))
            for feed, asset in wanted.items():
                try:
                    answers |= self._latest([feed])
                except Refused as single:
                    refused[asset] = str(single)
        prices: dict[str, Spot] = {}
        for feed, asset in wanted.items():
            if asset not in refused:
                spot = self._judged(answers.get(feed), at)
                if isinstance(spot, str):
                    refused[asset] = spot
                else:
                    prices[asset] = spot
        return Spots(prices, refused)

    def _latest(self, feeds: list[str]) -> dict[str, Any]:
        """Hermes' parsed updates by feed id."""
        if not feeds:
            return {}
        asked = [("ids[]", feed) for feed in feeds]
        found = self._hermes.get(_LATEST, [*asked, ("parsed", "true"), ("ignore_invalid_price_ids", "true")])
        try:
            return {str(one["id"]).removeprefix("0x"): one["price"] for one in found["parsed"]}
        except (KeyError, TypeError):
            raise SourceError(f"{self._hermes.base}{_LATEST}: answered in another shape") from None

    def _judged(self, update: Any, at: float) -> Spot | str:
        """The spot price in an update, or why it is not to be used."""
        try:
            unit = 10.0 ** int(update["expo"])
            spot = Spot(int(update["price"]) * unit, int(update["publish_time"]), int(update["conf"]) * unit)
        except (KeyError, TypeError, ValueError, OverflowError):
            return "no update" if update is None else "an update in another shape"
        age = at - spot.time
        why = ""
        if not 0.0 < spot.price < float("inf"):
            why = f"a price of {spot.price:g}"
        elif age > self._max_age:
            why = f"stale: published {age:.0f} s ago"
        elif age < -self._max_age:
            why = f"published {-age:.0f} s ahead of this machine's clock"
        elif spot.confidence > self._max_confidence * spot.price:
            why = f"doubtful: within {100 * spot.confidence / spot.price:.1f} % either way"
        return why or spot

    def _resolve(self, assets: list[str], refused: dict[str, str]) -> dict[str, str]:
        """Feed id to asset; ids are looked up by symbol once."""
        if any(asset not in self._ids for asset in assets):
            found = self._hermes.get(_FEEDS, [("asset_type", "crypto")])
            try:
                by_symbol = {one["attributes"]["symbol"]: str(one["id"]).removeprefix("0x") for one in found}
            except (KeyError, TypeError):
                raise SourceError(f"{self._hermes.base}{_FEEDS}: answered in another shape") from None
            self._ids = {asset: by_symbol[symbol] for asset, symbol in SYMBOLS.items() if symbol in by_symbol}
        for asset in assets:
            if asset not in self._ids:
                refused[asset] = f"Pyth lists no {SYMBOLS[asset]}"
        return {self._ids[asset]: asset for asset in assets if asset in self._ids}
