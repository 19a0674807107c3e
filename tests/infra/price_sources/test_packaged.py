"""The packaged bars: these very files, in UTC, without the bar that was cut off."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from infra.price_sources import SourceError
from infra.price_sources.packaged import Packaged


def test_hours_and_minutes_in_utc_without_the_cut_off_last_hour() -> None:
    hourly, minute = Packaged().history("AAPLX", 3600), Packaged().history("AAPLX", 60)
    assert (len(hourly), len(minute)) == (3478, 1596)
    assert hourly["time"].iloc[0] == 1_722_951_000  # 2024-08-06 09:30-04:00
    assert hourly["time"].iloc[-1] == 1_785_958_200  # 2026-08-05 15:30-04:00
    assert hourly["close"].iloc[0] == 204.89010620117188
    assert minute["time"].iloc[-1] == 1_786_025_100  # 2026-08-06 10:05-04:00
    assert Packaged().history("AAPLX", 60, since=1_786_025_100)["time"].tolist() == [1_786_025_100]


def test_another_release_of_the_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minute-prices.csv").write_text("datetime,open,high,low,close,volume\n")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(SourceError, match=r"minute-prices\.csv has sha256 .* install mintalib 0\.1\.13"):
        Packaged().history("AAPLX", 60)
    with pytest.raises(SourceError, match="sample-data"):
        Packaged().history("AAPLX", 3600)


def test_what_is_not_packaged_is_refused() -> None:
    with pytest.raises(SourceError, match="no BTC by 60 s"):
        Packaged().history("BTC", 60)
