"""The recorder: what it saw is kept, folded into minutes and shipped once, whatever is killed or down meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from infra import bars
from infra import recorder as module
from infra.market_hours import Hours
from infra.objects import ObjectStore
from infra.ports import choose_ports
from infra.price_sources import LiveSource, SourceError, Spot, Spots
from infra.prices import PriceStore
from infra.recorder import Recorder, recorder
from infra.settings import Prices, Settings
from serving.state import AssetPrices, PriceBook
from serving.types import Asset
from tests.servers import seaweed, store_at

START = 1_785_931_200  # 2026-08-05 12:00 UTC
NOWHERE = ObjectStore("http://127.0.0.1:1", "headframe", "key", "secret", "us-east-1")


class Live:
    """A live source that says what it is told to."""

    name = "live"
    simulated = False
    proxy = False
    hours: Hours | None = None

    def __init__(self) -> None:
        self.says: Mapping[str, tuple[float, int]] | Exception = {}

    def offers(self) -> Sequence[tuple[str, int]]:
        return []

    def history(self, asset: str, step: int, since: int | None) -> pd.DataFrame:
        return bars.empty()

    def notes(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        pass

    def spots(self, assets: Sequence[str], now: float) -> Spots:
        if isinstance(self.says, Exception):
            raise self.says
        prices = {asset: Spot(price, at, 0.0) for asset, (price, at) in self.says.items()}
        return Spots(prices, {asset: "stale" for asset in assets if asset not in prices})


def feed(live: Live, one: Recorder, first: int, count: int, price: float = 100.0) -> None:
    """Ticks of BTC every 20 seconds, the price rising by one each."""
    for n in range(count):
        live.says = {"BTC": (price + n, first + n * 20)}
        one.look(first + n * 20)


def test_finished_minutes_are_open_high_low_close_of_what_was_seen(tmp_path: Path) -> None:
    live = Live()
    one = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    one._shipped_at = START
    feed(live, one, START, 7)
    table = one.minutes("BTC", START + 125.0)
    assert table["time"].tolist() == [START]
    assert table[["open", "high", "low", "close"]].to_numpy().tolist() == [[100, 102, 100, 102]]
    assert one.minutes("BTC", START + 124.0).empty  # a price of that minute may still come
    assert one.minutes("BTC", START + 185.0)["time"].tolist() == [START, START + 60]


def test_it_asks_when_it_is_due_and_tells_refusals_and_trouble(tmp_path: Path) -> None:
    live = Live()
    one = Recorder(live, PriceStore(NOWHERE), tmp_path, 60.0, ["BTC", "ETH"])
    one._shipped_at = START
    live.says = {"BTC": (1.0, START)}
    first = one.look(START)
    assert first is not None
    assert (first.ticks, first.refused, first.problem) == (1, {"ETH": "stale"}, None)
    assert one.look(START + 53) is None
    repeated = one.look(START + 60)
    assert repeated is not None
    assert repeated.ticks == 0  # the same publication again is no news
    live.says = SourceError("no answer")
    down = one.look(START + 120)
    assert down is not None
    assert (down.ticks, down.problem) == (0, "no answer")


def test_a_killed_recorder_goes_on_from_its_files_torn_line_and_all(tmp_path: Path) -> None:
    live = Live()
    one = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    one._shipped_at = START
    feed(live, one, START, 6)
    (file,) = tmp_path.glob("ticks-*.jsonl")
    file.write_bytes(file.read_bytes() + b'\n["BTC",17859')
    two = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    two._shipped_at = START
    feed(live, two, START + 120, 3, price=106.0)
    three = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    assert three.minutes("BTC", START + 600)["close"].tolist() == [102, 105, 108]


def test_the_days_over_the_disks_cap_are_given_up_oldest_first_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DISK_CAP", 100)
    live = Live()
    one = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    one._shipped_at = START + 10 * 86_400
    for day in range(4):
        feed(live, one, START + day * 86_400, 2)
    last = one.look(START + 4 * 86_400)
    assert last is not None
    assert last.dropped_days == 2
    assert [file.name for file in sorted(tmp_path.glob("ticks-*"))] == [
        "ticks-2026-08-07.jsonl",
        "ticks-2026-08-08.jsonl",
    ]


def test_a_book_gets_what_was_seen_in_place_of_simulated_prices_and_never_mixed_with_them(tmp_path: Path) -> None:
    live = Live()
    one = Recorder(live, PriceStore(NOWHERE), tmp_path, 20.0, ["BTC"])
    one._shipped_at = START
    feed(live, one, START, 10)
    simulated = {Asset("BTC"): AssetPrices(7.0, START + 120, "simulated", True, False, {})}
    book = one.extend(PriceBook(START + 200.0, 0.0, simulated))
    held = book.assets[Asset("BTC")]
    assert (held.spot, held.spot_time, held.source, held.simulated) == (109.0, START + 180, "recorded", False)
    assert held.history["60"].times == [START, START + 60, START + 120]
    early = one.extend(PriceBook(START - 1.0, 0.0, simulated))
    assert early.assets == simulated
    newer = {Asset("BTC"): AssetPrices(7.0, START + 190, "pyth", False, False, {})}
    assert one.extend(PriceBook(START + 200.0, 0.0, newer)).assets == newer


@pytest.mark.slow
def test_minutes_wait_for_the_store_and_are_shipped_once(tmp_path: Path) -> None:
    ports = choose_ports(Settings(home=tmp_path))
    store = PriceStore(store_at(ports["s3"]), tmp_path / "cache")
    live = Live()
    one = Recorder(live, store, tmp_path / "recorder", 20.0, ["BTC"])
    live.says = {"BTC": (100.0, START)}
    down = one.look(START)
    assert down is not None
    assert down.problem is None  # nothing to ship yet
    feed(live, one, START + 20, 60, price=101.0)
    live.says = {}
    late = one.look(START + 1300)
    assert late is not None
    assert "does not answer" in str(late.problem)
    with seaweed(tmp_path, ports):
        assert one.ship(START + 1400) == 21
        assert one.ship(START + 1400) == 0
        again = Recorder(live, store, tmp_path / "recorder", 20.0, ["BTC"])
        assert again.ship(START + 1500) == 0
        (tmp_path / "recorder" / "shipped.json").unlink()  # killed after the write, before it was noted
        generation = len(store_at(ports["s3"]).list("prices/index/"))
        repeated = Recorder(live, store, tmp_path / "recorder", 20.0, ["BTC"])
        assert repeated.ship(START + 1500) == 0
        assert len(store_at(ports["s3"]).list("prices/index/")) == generation
        feed(live, again, START + 1800, 6, price=200.0)
        assert again.ship(START + 2000) == 2
        (series,) = store.series()
        assert (series.source, series.rows, series.simulated) == ("recorded", 23, False)
        assert series.notes[0] == "9 bars of 60 s missing inside sessions"
        held = store.book(START + 2000.0, ["BTC"]).assets[Asset("BTC")]
        assert (held.spot, held.source) == (205.0, "recorded")
        unaware = PriceBook(START + 2000.0, 0.0, {})  # of a reader that looked at the store before
        assert again.extend(unaware).assets[Asset("BTC")].spot == 205.0
        assert again.ship(START + 2000 + 3 * 86_400) == 0
        assert list((tmp_path / "recorder").glob("ticks-*")) == []


def test_it_is_off_unless_it_is_switched_on_and_has_something_to_listen_to(tmp_path: Path) -> None:
    def made(prices: Prices) -> Recorder | None:
        return recorder(Settings(home=tmp_path, prices=prices), PriceStore(NOWHERE))

    assert made(Prices()) is None
    assert made(Prices(record=True)) is None
    assert made(Prices(pyth=True)) is None
    one = made(Prices(record=True, pyth=True))
    assert one is not None
    assert isinstance(one._live, LiveSource)
    one._live.close()
