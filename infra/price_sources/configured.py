"""The sources that the settings name, foremost first."""

from __future__ import annotations

from infra.price_sources import LiveSource, Source
from infra.price_sources.folder import Folder
from infra.price_sources.packaged import Packaged
from infra.price_sources.pyth import Pyth
from infra.price_sources.simulated import Simulated
from infra.settings import Settings


def sources(settings: Settings) -> list[Source]:
    """Every configured source; simulated prices in profile ``local`` only."""
    prices = settings.prices
    found: list[Source] = []
    if prices.packaged:
        found.append(Packaged())
    if prices.folder is not None:
        found.append(Folder(prices.folder.expanduser(), prices.folder_timezone))
    if prices.pyth:
        found.append(_pyth(settings))
    if prices.simulate and settings.profile == "local":
        found.append(Simulated())
    return found


def live_source(settings: Settings) -> LiveSource | None:
    """The source that the recorder listens to, or None when none is configured."""
    return _pyth(settings) if settings.prices.pyth else None


def _pyth(settings: Settings) -> Pyth:
    prices = settings.prices
    return Pyth(
        prices.pyth_spot_url, prices.pyth_history_url, api_key=prices.pyth_api_key, days=prices.pyth_history_days
    )
