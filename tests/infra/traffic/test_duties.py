"""The sidecar's duties for the traffic record, against a real object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.objects import ObjectStore
from infra.settings import S3, Settings
from infra.sidecar import Duty
from infra.traffic.duties import traffic_duties
from infra.traffic.reading import read_shipped
from serving.errors import UserError
from serving.traffic.metrics import read_shipping
from serving.traffic.retention import Keeper
from serving.traffic.segments import segments
from serving.traffic.writer import TrafficWriter
from tests.serving.records import record


def settings(home: Path, endpoint: str, **traffic: object) -> Settings:
    return Settings.model_validate({"home": home, "s3": S3(endpoint=endpoint), "traffic": traffic})


def names(duties: list[Duty]) -> list[str]:
    return [duty.name for duty in duties]


def test_the_settings_say_which_there_are(tmp_path: Path) -> None:
    assert names(traffic_duties(settings(tmp_path, ""))) == ["traffic"]
    assert names(traffic_duties(settings(tmp_path, "", s3_keep_days=30))) == ["traffic", "traffic-expiry"]
    assert names(traffic_duties(settings(tmp_path, "", ship=False, s3_keep_days=30))) == []


def test_with_nothing_to_ship_no_store_is_needed(tmp_path: Path) -> None:
    (duty,) = traffic_duties(settings(tmp_path, ""))
    duty.once()
    assert (duty.record.failures, read_shipping(tmp_path / "traffic").failures) == (0, 0)


@pytest.mark.slow
def test_days_without_a_store_end_with_every_row_shipped_once(tmp_path: Path, objects: ObjectStore) -> None:
    folder = tmp_path / "traffic"
    (down,) = traffic_duties(settings(tmp_path, "http://127.0.0.1:1"))
    keeper, cap = Keeper(folder, cap_bytes=80_000, keep_s=1e9), 80_000
    written = 0
    for _ in range(8):  # each as long as a worker lives
        writer = TrafficWriter(folder, segment_bytes=8_000)
        for _ in range(20):
            writer.append(record(written, request=b"x" * 800))
            written += 1
        writer.close()
        with pytest.raises(UserError, match="does not answer"):
            down.run()
        assert keeper.hold().bytes <= cap
    kept = keeper.hold()
    assert kept.bodies_dropped > 0
    assert read_shipping(folder).failures == 8

    (up,) = traffic_duties(settings(tmp_path, objects.endpoint))
    up.run()
    frame = read_shipped(objects)
    assert sorted(frame["request_id"]) == sorted(f"id-{number}" for number in range(written))
    assert int((frame["request"].map(len) == 0).sum()) == kept.bodies_dropped
    assert read_shipping(folder).error is None
    assert len(objects.list("traffic/")) == len(segments(folder))
    done = keeper.hold()
    assert (done.unshipped, done.shipped_rows, done.bodies_dropped) == (0, written, kept.bodies_dropped)


@pytest.mark.slow
def test_shipped_days_expire(tmp_path: Path, objects: ObjectStore) -> None:
    objects.put("traffic/date=2020-01-01/1577836800000-1-000001-0123456789ab.parquet", b"")
    objects.put("outcomes/day=2020-01-01/x.parquet", b"")
    _, expiry = traffic_duties(settings(tmp_path, objects.endpoint, s3_keep_days=30))
    expiry.run()
    assert objects.list("") == ["outcomes/day=2020-01-01/x.parquet"]
