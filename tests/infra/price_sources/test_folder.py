"""Files that operators bring: names, columns, time zones, and the files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.price_sources import SourceError
from infra.price_sources.folder import Folder, read_file

NOON = 1_785_931_200  # 2026-08-05 12:00 UTC
ROWS = "1,2,0.5,1.5\n"


def csv(path: Path, *times: object, header: str = "time,open,high,low,close") -> Path:
    path.write_text(f"{header}\n" + "".join(f"{time},{ROWS}" for time in times))
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BTC_60.csv", ("BTC", 60)),
        ("btc-1m.csv", ("BTC", 60)),
        ("AAPLX_1h.csv", ("AAPLX", 3600)),
        ("ETH_300s_2026.csv", ("ETH", 300)),
        ("SOL.csv", ("SOL", 60)),
    ],
)
def test_a_file_says_what_it_holds_by_its_name_or_by_its_spacing(
    tmp_path: Path, name: str, expected: tuple[str, int]
) -> None:
    csv(tmp_path / name, NOON, NOON + 60, NOON + 120, NOON + 600)
    source = Folder(tmp_path)
    assert source.offers() == [expected]
    assert source.history(*expected)["time"].tolist() == [NOON, NOON + 60, NOON + 120, NOON + 600]
    assert source.history(*expected, since=NOON + 100)["close"].tolist() == [1.5, 1.5]
    assert source.notes() == []


@pytest.mark.parametrize(
    "times",
    [
        (str(NOON), str(NOON + 60)),
        (str(NOON * 1000), str((NOON + 60) * 1000)),
        (f"{NOON * 10**6}", f"{(NOON + 60) * 10**6}"),
        ("2026-08-05T12:00:00Z", "2026-08-05T12:01:00Z"),
        ("2026-08-05 08:00:00-04:00", "2026-08-05 14:01:00+0200"),
    ],
)
def test_times_with_a_meaning_of_their_own(tmp_path: Path, times: tuple[str, str]) -> None:
    csv(tmp_path / "BTC_60.csv", *times)
    assert Folder(tmp_path).history("BTC", 60)["time"].tolist() == [NOON, NOON + 60]


def test_times_without_an_offset_are_refused_unless_their_zone_is_configured(tmp_path: Path) -> None:
    file = csv(tmp_path / "BTC_60.csv", "2026-08-05 08:00", "2026-08-05 08:01", header="Date,Open,High,Low,Close")
    with pytest.raises(SourceError, match=r"BTC_60\.csv: times without an offset; add one, or set"):
        read_file(file)
    assert Folder(tmp_path, "America/New_York").history("BTC", 60)["time"].tolist() == [NOON, NOON + 60]
    with pytest.raises(SourceError, match="'New York' is no time zone"):
        Folder(tmp_path, "New York").offers()


def test_the_hour_that_comes_twice_is_told_apart_by_order_and_the_hour_that_never_was_is_refused(
    tmp_path: Path,
) -> None:
    autumn = ["2025-11-02 00:30", "2025-11-02 01:30", "2025-11-02 01:30", "2025-11-02 02:30"]
    csv(tmp_path / "AAPLX_30m.csv", *autumn)
    times = Folder(tmp_path, "America/New_York").history("AAPLX", 1800)["time"]
    assert times.diff().dropna().tolist() == [3600, 3600, 3600]
    spring = csv(tmp_path / "spring_60.csv", "2026-03-08 02:30")
    with pytest.raises(SourceError, match=r"spring_60\.csv: not times of America/New_York"):
        read_file(spring, "America/New_York")


def test_several_assets_and_steps_in_one_file_and_one_series_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(
        f"ticker,step,t,o,h,l,c\nbtc,60,{NOON},{ROWS}ETH,3600,{NOON},{ROWS}btc,60,{NOON + 60},{ROWS}"
    )
    csv(tmp_path / "BTC_60.csv", NOON + 120)
    table = pd.DataFrame({"open": [1.0], "high": [2.0], "low": [0.5], "close": [1.5]})
    table.index = pd.DatetimeIndex(["2026-08-05T12:03Z"], name="when")
    table.to_parquet(tmp_path / "BTC_1m.parquet")
    source = Folder(tmp_path)
    assert source.offers() == [("BTC", 60), ("ETH", 3600)]
    assert sorted(source.history("BTC", 60)["time"]) == [NOON, NOON + 60, NOON + 120, NOON + 180]


def test_files_that_cannot_be_used_are_told_one_line_each_and_the_others_go_on(tmp_path: Path) -> None:
    csv(tmp_path / "BTC_60.csv", NOON)
    (tmp_path / "a-empty.csv").touch()
    csv(tmp_path / "b-norows.csv")
    (tmp_path / "c-garbled.csv").write_bytes(b"\xff\xfe\x00garbled\x00\x80" * 50)
    (tmp_path / "d-garbled.parquet").write_bytes(b"PAR1 nothing PAR1")
    (tmp_path / "e-other.csv").write_text("a,b\n1,2\n")
    csv(tmp_path / "f-words.csv", "yesterday", "today")
    csv(tmp_path / "g-mixed.csv", "2026-08-05T12:00Z", "2026-08-05 12:01")
    csv(tmp_path / "not an asset.csv", NOON, NOON + 60)
    csv(tmp_path / "ONE.csv", NOON)
    (tmp_path / "notes.txt").write_text("not a price file")
    source = Folder(tmp_path)
    assert source.offers() == [("BTC", 60)]
    told = dict(line.split(": ", 1) for line in source.notes())
    assert all("\n" not in line for line in source.notes())
    assert {name: words[:24] for name, words in told.items()} == {
        "ONE.csv": "one row does not say its",
        "a-empty.csv": "empty",
        "b-norows.csv": "no rows",
        "c-garbled.csv": "cannot be read as csv: '",
        "d-garbled.parquet": "cannot be read as parque",
        "e-other.csv": "no column time, open, hi",
        "f-words.csv": "no readable time in 'tim",
        "g-mixed.csv": "some times have an offse",
        "not an asset.csv": "'not an asset' is no ass",
    }


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        Folder(tmp_path / "nowhere").offers()


@given(st.binary(max_size=400))
def test_no_bytes_break_it(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for name in ("BTC_60.csv", "BTC_60.parquet"):
        (folder / name).write_bytes(data)
        try:
            made = read_file(folder / name)
        except SourceError as error:
            told = str(error)
        else:
            told = f"{name}: read"
            assert all(set(table.columns) >= {"time", "open", "high", "low", "close"} for table in made.values())
        assert told.startswith(name)
        assert "\n" not in told
