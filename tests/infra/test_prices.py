"""The price store on a real SeaweedFS: written once, merged, labelled, and read when the store is down."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from infra import bars
from infra.objects import ObjectStore, ObjectStoreError
from infra.ports import choose_ports
from infra.price_sources import ASSETS
from infra.price_sources.packaged import Packaged
from infra.price_sources.simulated import WINDOW, Simulated, walk
from infra.prices import PriceStore, WriteReport
from infra.settings import S3, Settings
from serving.errors import UserError
from serving.types import Asset as A
from tests.servers import seaweed, store_at

pytestmark = pytest.mark.slow

OPEN = 1_785_936_600  # 2026-08-05 09:30 New York
MIDNIGHT = 1_785_888_000  # 2026-08-05 00:00 UTC


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def packaged(store: PriceStore, step: int) -> WriteReport:
    source = Packaged()
    return store.write(
        source.history("AAPLX", step), source="packaged", asset="AAPLX", step=step,
        simulated=False, proxy=True, hours=source.hours,
    )  # fmt: skip


def real(
    store: PriceStore, table: pd.DataFrame, source: str = "pyth", asset: str = "BTC", step: int = 60
) -> WriteReport:
    return store.write(table, source=source, asset=asset, step=step, simulated=False, proxy=False)


@pytest.fixture
def store(objects: ObjectStore, tmp_path: Path) -> PriceStore:
    return PriceStore(objects, tmp_path / "cache")


def test_what_was_written_is_read_by_another_and_writing_it_again_makes_no_object(
    store: PriceStore, objects: ObjectStore, tmp_path: Path
) -> None:
    first = packaged(store, 3600)
    assert (first.rows_in, first.rows_new, first.rows_changed, first.dropped) == (3478, 3478, 0, {})
    assert first.series.notes[0] == "14 bars of 3600 s missing inside sessions"
    keys = objects.list("prices/")
    assert len(keys) == first.objects == 4  # three years and an index
    again = packaged(PriceStore(objects, tmp_path / "other"), 3600)
    assert (again.rows_new, again.objects, again.series) == (0, 0, first.series)
    assert objects.list("prices/") == keys
    other = PriceStore(objects, None)
    assert other.series() == [first.series]
    assert bars.digest(other.bars("AAPLX", 3600)) == bars.digest(store.bars("AAPLX", 3600))
    assert (first.series.simulated, first.series.proxy) == (False, True)


def test_the_digest_is_of_the_bars_and_not_of_how_they_came(store: PriceStore, objects: ObjectStore) -> None:
    table = bars.make(MIDNIGHT + 60 * np.arange(200), 100.0 + np.arange(200))
    whole = real(store, table, source="whole").series.sha256
    for part in (table.iloc[150:], table.iloc[:20], table.sample(frac=1.0, random_state=1)):
        report = real(store, part, source="parts")
    assert report.series.sha256 == whole
    assert (report.rows_new, report.series.rows) == (130, 200)


def test_what_is_dropped_or_odd_is_in_the_report_and_in_the_notes(store: PriceStore) -> None:
    table = bars.make(MIDNIGHT + 60 * np.array([0, 1, 1, 3, 2, 9]), [100.0, 100.0, 100.0, -1.0, 100.0, 100.0])
    report = real(store, table)
    assert report.dropped == {"duplicate": 1, "no positive price": 1}
    assert report.odd == {}
    assert report.series.notes == [
        "6 bars of 60 s missing inside sessions",
        "most in one session: 6 from 2026-08-05T00:03Z",
        "dropped at the last write: 1 duplicate, 1 no positive price",
    ]
    later = real(store, bars.make([MIDNIGHT], [101.0]))
    assert (later.rows_new, later.rows_changed) == (0, 1)
    assert store.bars("BTC", 60)["close"].tolist() == [101.0, 100.0, 100.0, 100.0]


def test_nothing_usable_and_no_name_are_one_line(store: PriceStore, objects: ObjectStore) -> None:
    with pytest.raises(UserError, match=r"no usable bar of BTC/pyth/60 in 1 rows \(1 no positive price\)"):
        real(store, bars.make([MIDNIGHT], [0.0]))
    with pytest.raises(UserError, match="no usable bar of BTC/pyth/60 in 0 rows"):
        real(store, bars.empty())
    with pytest.raises(UserError, match="no series can be called"):
        real(store, bars.make([MIDNIGHT], [1.0]), asset="../x")
    with pytest.raises(UserError, match="no prices of 'DOGE'"):
        store.points("DOGE", 60)
    assert objects.list("prices/") == []


def test_two_writers_at_once_lose_nothing(objects: ObjectStore) -> None:
    def write(n: int) -> None:
        real(PriceStore(objects, None), bars.make(MIDNIGHT + 60 * (10 * n + np.arange(10)), [1.0] * 10))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(PriceStore(objects, None).bars("BTC", 60)) == 40


def test_a_listing_that_lags_hides_no_generation(store: PriceStore, s3_server: str, objects: ObjectStore) -> None:
    real(store, bars.make([MIDNIGHT], [1.0]))
    stale = objects.list("prices/index/")

    class Lagging(ObjectStore):
        def list(self, prefix: str) -> list[str]:
            return stale

    real(store, bars.make([MIDNIGHT + 60], [1.0]))
    s3 = S3()
    lagging = Lagging(s3_server, s3.bucket, s3.access_key, s3.secret_key, s3.region)
    assert len(PriceStore(lagging, None).bars("BTC", 60)) == 2


def test_old_generations_and_their_parts_are_swept(store: PriceStore, objects: ObjectStore) -> None:
    for n in range(12):
        real(store, bars.make([MIDNIGHT + 60 * n], [1.0 + n]))
    assert [key[-13:-5] for key in objects.list("prices/index/")] == [f"{n:08d}" for n in range(5, 13)]
    assert len(objects.list("prices/bars/")) == 8
    assert len(PriceStore(objects, None).bars("BTC", 60)) == 12


def test_the_real_one_wins_over_a_proxy_and_both_over_the_simulated_one(store: PriceStore) -> None:
    simulated = Simulated()
    store.write(simulated.history("AAPLX", 60), source="simulated", asset="AAPLX", step=60, simulated=True, proxy=False)
    assert store.book(OPEN, ["AAPLX"]).assets[A("AAPLX")].simulated
    packaged(store, 60)
    held = store.book(OPEN + 600, ["AAPLX"]).assets[A("AAPLX")]
    assert (held.source, held.simulated, held.proxy) == ("packaged", False, True)
    times = OPEN - 3600 + 60 * np.arange(120)
    real(store, bars.make(times, np.full(120, 300.0)), asset="AAPLX")
    held = store.book(OPEN + 600, ["AAPLX"]).assets[A("AAPLX")]
    assert (held.source, held.simulated, held.proxy, held.spot) == ("pyth", False, False, 300.0)
    assert len(held.history["60"].times) == 70
    assert held.history["3600"].times == [OPEN - 1800]  # the one whole hour of minutes


def test_sources_of_one_kind_complete_each_other_and_the_foremost_holds(store: PriceStore) -> None:
    real(store, bars.make(MIDNIGHT + 60 * np.arange(5), [1.0] * 5), source="recorded")
    real(store, bars.make(MIDNIGHT + 60 * np.arange(3, 8), [2.0] * 5), source="pyth")
    assert store.bars("BTC", 60)["close"].tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    assert store.book(MIDNIGHT + 600, ["BTC"]).assets[A("BTC")].source == "pyth+recorded"


def test_hours_come_from_minutes_where_there_are_no_hours(store: PriceStore) -> None:
    real(store, bars.make(MIDNIGHT + 60 * np.arange(150), 1.0 + np.arange(150)))
    found = store.points("BTC", 3600)
    assert found.times == [MIDNIGHT, MIDNIGHT + 3600, MIDNIGHT + 7200]
    assert found.prices == [1.0, 61.0, 120.0]


def test_the_truth_is_minutes_where_there_are_and_hours_elsewhere(store: PriceStore) -> None:
    packaged(store, 60)
    packaged(store, 3600)
    minutes, hours = store.bars("AAPLX", 60), store.bars("AAPLX", 3600)
    start = at("2026-08-04T09:30-04:00")
    both = store.truth("AAPLX", start, 300, 86_400)
    assert both.shape == (289,)
    assert both[0] == minutes.loc[minutes["time"] == start, "close"].item()
    assert both[78] == hours["close"][hours["time"] == at("2026-08-04T15:30-04:00")].item()  # 16:00, by the hour only
    assert np.isfinite(both).sum() == 78 + 1 + 1
    hourly = store.truth("AAPLX", start, 300, 86_400, steps=(3600,))
    assert hourly[0] == hours.loc[hours["time"] == start, "open"].item()
    assert np.isfinite(hourly).sum() == 9
    assert_array_equal(store.truth("AAPLX", start + 1, 60, 3600), np.full(61, np.nan))
    full = store.truth("AAPLX", start + 600, 60, 3600)
    assert np.isfinite(full).all()
    assert sum((last - first) // 3600 for first, last in store.sessions("AAPLX", 60)) == 24
    assert len(store.sessions("AAPLX", 3600)) == 501


def test_a_book_knows_what_was_known_and_no_more(store: PriceStore) -> None:
    packaged(store, 60)
    packaged(store, 3600)
    start = at("2026-08-05T10:30-04:00")
    held = store.book(start).assets[A("AAPLX")]
    hours = store.bars("AAPLX", 3600)
    assert (held.spot_time, held.spot) == (start, hours["open"][hours["time"] == start].item())
    assert held.history["60"].times[-1] == start - 60
    assert held.history["3600"].times[-1] == start
    assert [len(held.history[step].times) for step in ("60", "3600")] == [512, 512]
    before = store.book(start - 60).assets[A("AAPLX")]
    minutes = store.bars("AAPLX", 60)
    assert (before.spot_time, before.spot) == (start - 120, minutes["close"][minutes["time"] == start - 120].item())
    after = store.book(at("2027-01-01T00:00+00:00")).assets[A("AAPLX")]
    assert after.spot_time == at("2026-08-06T10:05-04:00")
    assert "AAPLX" not in store.book(at("2024-01-01T00:00+00:00"), ["AAPLX"]).assets


def test_simulated_assets_are_computed_for_any_time_and_labelled(store: PriceStore) -> None:
    packaged(store, 60)
    now = at("2027-03-04T05:06:07+00:00")
    book = store.book(now)
    assert sorted(book.assets) == sorted(ASSETS)
    assert [name for name, one in book.assets.items() if not one.simulated] == ["AAPLX"]
    held = book.assets[A("ETH")]
    assert (held.source, held.simulated, held.proxy) == ("simulated", True, False)
    assert held.spot_time == at("2027-03-04T05:05+00:00")
    for points in held.history.values():
        assert len(points.times) == 512
        assert points.prices == walk("ETH", np.array(points.times)).tolist()
    assert_array_equal(store.truth("ETH", now - 7, 60, 3600), walk("ETH", now - 7 + 60 * np.arange(61)))
    assert np.isnan(store.truth("ETH", now, 60, 3600)).all()  # off the minute, as with real prices
    assert store.points("ETH", 60).times == list(range(WINDOW[0], WINDOW[1], 60))
    stored = store.write(
        Simulated().history("ETH", 60), source="simulated", asset="ETH", step=60, simulated=True, proxy=False
    )
    assert stored.series.rows == len(store.points("ETH", 60).times)
    assert store.book(now).assets[A("ETH")] == held


def test_without_simulation_only_real_assets_have_prices(objects: ObjectStore) -> None:
    store = PriceStore(objects, None, simulate=False)
    packaged(store, 60)
    store.write(Simulated().history("BTC", 60), source="simulated", asset="BTC", step=60, simulated=True, proxy=False)
    with pytest.raises(UserError, match="no prices of 'BTC'"):
        store.truth("BTC", MIDNIGHT, 60, 3600)


def test_a_store_that_is_down_is_read_from_the_copy_and_says_how_old_it_is(tmp_path: Path) -> None:
    ports = choose_ports(Settings(home=tmp_path))
    cache = tmp_path / "cache"
    with seaweed(tmp_path, ports):
        store = PriceStore(store_at(ports["s3"]), cache)
        expected = packaged(store, 60).series
        assert store.bars("AAPLX", 60).shape[0] == 1596
        fresh = PriceStore(store_at(ports["s3"]), cache)
        assert fresh.series() == [expected]
        fresh.bars("AAPLX", 60)
        assert fresh.offline_for is None
    down = PriceStore(store_at(ports["s3"]), cache)
    assert len(down.bars("AAPLX", 60)) == 1596
    assert down.offline_for is not None
    assert down.series()[0].sha256 == expected.sha256
    assert "the object store does not answer: this is the copy of" in down.series()[0].notes[-1]
    assert down.book(OPEN + 600).assets[A("AAPLX")].source == "packaged"
    with pytest.raises(ObjectStoreError, match="does not answer"):
        real(down, bars.make([MIDNIGHT], [1.0]))
    with pytest.raises(ObjectStoreError, match="does not answer"):
        PriceStore(store_at(ports["s3"]), tmp_path / "nothing").series()
    with seaweed(tmp_path, ports):
        assert down.series() == [expected]
        assert [one.offline_for for one in (down,)] == [None]
        assert packaged(down, 60).objects == 0


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_named(
    store: PriceStore, objects: ObjectStore, tmp_path: Path
) -> None:
    real(store, bars.make([MIDNIGHT], [1.0]))
    PriceStore(objects, tmp_path / "cache").bars("BTC", 60)
    (copy,) = (tmp_path / "cache" / "parts").iterdir()
    copy.write_bytes(copy.read_bytes()[:-20])
    assert len(PriceStore(objects, tmp_path / "cache").bars("BTC", 60)) == 1
    (key,) = objects.list("prices/bars/")
    objects.put(key, b"garbled")
    with pytest.raises(UserError, match=r"prices/bars/BTC/pyth/60/2026-08-.* is damaged"):
        PriceStore(objects, None).bars("BTC", 60)
