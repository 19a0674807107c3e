"""Ingest into a real SeaweedFS: what is stored, what is told, and that a rerun finishes what was cut off."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from flows.coverage import coverage
from flows.ingest import ingest
from flows.steps import in_turn
from infra.objects import ObjectStore, ObjectStoreError
from infra.ports import choose_ports
from infra.price_sources.pyth import SYMBOLS, Pyth
from infra.prices import Series, price_store
from infra.settings import S3, Prices, Settings
from serving.errors import UserError
from tests.pyth_server import pyth_server
from tests.servers import seaweed

T = TypeVar("T")


def test_the_plain_function_needs_no_prefect() -> None:
    code = "import sys, flows.ingest, flows.coverage; assert not {'prefect', 'mlflow', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_source_and_no_address_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no price source is configured"):
        ingest(Settings(home=tmp_path, profile="test", bind="127.0.0.1", prices=Prices(packaged=False)))
    with pytest.raises(UserError, match="S3 has no address"):
        ingest(Settings(home=tmp_path))


def test_a_picture_of_what_is_stored() -> None:
    series = [
        Series("packaged", "AAPLX", 60, 1596, "0" * 64, False, True, 1_785_504_600, 1_786_025_100, []),
        Series("simulated", "BTC", 60, 11520, "1" * 64, True, False, 1_785_369_600, 1_786_060_740, []),
    ]
    for shown in (series, []):
        png = coverage(shown)
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", png[16:24])
        assert width >= 800
        assert height >= 150


@pytest.mark.slow
def test_packaged_and_simulated_prices_labelled_and_never_twice(
    objects: ObjectStore, s3_server: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, s3=S3(endpoint=s3_server))
    said: list[tuple[str, int, int]] = []
    report = ingest(settings, progress=lambda *line: said.append(line))
    assert not report.failed
    labels = {(one.asset, one.source, one.step): (one.simulated, one.proxy, one.rows) for one in report.series}
    assert len(labels) == 2 + 11 * 2
    assert labels["AAPLX", "packaged", 60] == (False, True, 1596)
    assert labels["AAPLX", "packaged", 3600] == (False, True, 3478)
    assert labels["BTC", "simulated", 60] == (True, False, 11520)
    assert ("AAPLX", "simulated", 60) not in labels
    assert all(len(one.sha256) == 64 for one in report.series)
    assert said[0] == ("packaged: AAPLX by 3600 s", 0, 2)
    assert said[-1] == ("simulated", 22, 22)
    keys = objects.list("prices/")
    again = ingest(settings)
    assert [one.objects for one in again.sources] == [0, 0]
    assert again.series == report.series
    assert objects.list("prices/") == keys
    assert len(price_store(settings).book(1_785_940_000.0).assets) == 12


@pytest.mark.slow
def test_the_folder_and_pyth_in_trouble_are_told_and_stop_nobody(
    s3_server: str, objects: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "garbled.csv").write_bytes(b"\x00\xff")
    (folder / "SOL_60.csv").write_text("time,open,high,low,close\n1785931200,1,2,0.5,1.5\n1785931260,-1,2,0.5,1.5\n")
    (folder / "XRP_60.csv").write_text("time,open,high,low,close\n1785931200,0,0,0,0\n")
    with pyth_server() as world:
        settings = Settings(
            home=tmp_path, profile="test", s3=S3(endpoint=s3_server),
            prices=Prices(packaged=False, folder=folder, pyth=True, pyth_history_url=world.url),
        )  # fmt: skip
        world.errmsg = "Invalid symbol"
        report = ingest(settings)
    assert report.failed
    assert [(one.asset, one.source, one.rows) for one in report.series] == [("SOL", "folder", 1)]
    by_name = {one.source: one for one in report.sources}
    assert by_name["folder"].notes == [
        "SOL/folder/60: 1 rows no positive price",
        "no usable bar of XRP/folder/60 in 1 rows (1 no positive price)",
        next(line for line in by_name["folder"].notes if line.startswith("garbled.csv: ")),
    ]
    assert len(by_name["pyth"].notes) == len(SYMBOLS) * 2
    assert by_name["pyth"].notes[0].endswith("no candles of Crypto.BTC/USD: Invalid symbol")


@pytest.mark.slow
def test_pyth_is_asked_for_what_is_new(
    s3_server: str, objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_785_931_200
    clock = [now]
    monkeypatch.setitem(Pyth.__init__.__kwdefaults__ or {}, "clock", lambda: clock[0])
    monkeypatch.setattr("infra.price_sources.pyth.SYMBOLS", {"BTC": SYMBOLS["BTC"]})
    with pyth_server() as world:
        known = world.candles.setdefault((SYMBOLS["BTC"], "1"), {})
        known.update({now - 60 * n: (2.0, 2.0, 2.0, 2.0) for n in range(1, 1000)})
        settings = Settings(
            home=tmp_path, profile="test", s3=S3(endpoint=s3_server),
            prices=Prices(packaged=False, pyth=True, pyth_history_url=world.url, pyth_history_days=1.0),
        )  # fmt: skip
        assert ingest(settings).sources[0].rows_new == 999
        world.requests.clear()
        known.update({now: (3.0, 3.0, 3.0, 3.0), now - 60: (2.0, 2.5, 2.0, 2.5)})
        clock[0] = now + 60
        second = ingest(settings).sources[0]
        assert (second.rows_new, second.rows_changed) == (1, 1)
        minutes = next(query for _, query in world.requests if query["resolution"] == ["1"])
        assert int(minutes["from"][0]) == now - 60 * 11


@pytest.mark.slow
def test_a_store_that_dies_in_the_middle_fails_plainly_and_a_rerun_finishes_without_doing_it_twice(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    ports = choose_ports(settings)
    server = seaweed(tmp_path, ports)
    server.__enter__()

    def dying(name: str, work: Callable[[], T], *, retries: int = 0) -> T:
        if name == "ingest simulated":
            server.__exit__(None, None, None)
        return in_turn(name, work, retries=retries)

    with pytest.raises(ObjectStoreError, match="does not answer"):
        ingest(settings, steps=dying)
    assert price_store(settings).book(1_785_940_000.0).assets  # read from the copy meanwhile
    with seaweed(tmp_path, ports):
        report = ingest(settings)
        assert {one.source: one.objects for one in report.sources} == {"packaged": 0, "simulated": 22 + 33}
        assert ingest(settings).sources[1].objects == 0
