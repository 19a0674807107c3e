"""The record of a home, whether its segments are still here or in the object store alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra import objects
from infra.objects import ObjectStoreError
from infra.settings import S3, Settings
from infra.traffic.reading import read_shipped, records, removed, shipped_keys, shipped_records
from infra.traffic.shipping import ship
from serving.traffic.retention import Keeper
from serving.traffic.segments import segments
from tests.infra.traffic.store import MemoryStore
from tests.serving.records import record, write_segment

BEGAN = 1_750_000_000
DAY = 86_400


def home(folder: Path, store: MemoryStore) -> Settings:
    """Four shipped segments, a day apart, one row each that arrived as the segment was begun."""
    settings = Settings(home=folder, s3=S3(endpoint="http://memory"))
    for number in range(4):
        at = BEGAN + number * DAY
        write_segment(settings.paths.traffic, f"{at * 1000}-1-000001", [record(number, at=float(at))])
    ship(settings.paths.traffic, store)
    return settings


def ids(settings: Settings, since: float = 0.0) -> list[str]:
    return [each.request_id for each in records(settings, since)]


def test_shipped_and_removed_records_are_read_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    settings = home(tmp_path, store)
    paths = segments(settings.paths.traffic)
    monkeypatch.setattr(objects, "object_store", lambda settings: store)
    gets = store.calls
    assert ids(settings) == ["id-0", "id-1", "id-2", "id-3"]
    assert store.calls == gets  # all is here: the store is not asked
    Keeper(settings.paths.traffic, cap_bytes=paths[0].stat().st_size, keep_s=1e12).hold()
    assert segments(settings.paths.traffic) == paths[3:]
    assert list(removed(settings.paths.traffic)) == [path.stem for path in paths[:3]]
    assert ids(settings) == ["id-3", "id-0", "id-1", "id-2"]
    assert ids(settings, since=BEGAN + 2 * DAY) == ["id-3", "id-2"]
    assert store.calls == gets + 4


def test_the_store_is_missed_only_when_it_is_needed(tmp_path: Path) -> None:
    settings = home(tmp_path, MemoryStore())
    down = settings.model_copy(update={"s3": S3(endpoint="http://127.0.0.1:1")})
    segments(settings.paths.traffic)[0].unlink()
    assert ids(down, since=BEGAN + 1) == ["id-1", "id-2", "id-3"]
    with pytest.raises(ObjectStoreError, match="does not answer"):
        ids(down)


def test_keys_of_a_span_of_time(tmp_path: Path) -> None:
    store = MemoryStore()
    home(tmp_path, store)
    store.objects["traffic/notes.txt"] = b""
    every = sorted(key for key in store.objects if key.endswith(".parquet"))
    assert shipped_keys(store) == every
    assert shipped_keys(store, BEGAN + DAY, BEGAN + 2 * DAY - 601) == every[1:2]
    assert shipped_keys(store, BEGAN + DAY + 1800, BEGAN + 2 * DAY + 1) == every[1:3]  # it may have been open till then
    assert shipped_keys(store, BEGAN + DAY, BEGAN + 2 * DAY - 599) == every[1:3]  # a request before then ended in it
    assert shipped_keys(store, BEGAN + 9 * DAY, BEGAN + 9 * DAY) == []


def test_a_request_that_ended_in_a_later_segment_is_in_the_span_in_which_it_arrived(tmp_path: Path) -> None:
    store, midnight = MemoryStore(), BEGAN // DAY * DAY + DAY
    rows = [record(1, at=midnight - 5.0), record(2, at=midnight + 0.05)]
    write_segment(tmp_path, f"{midnight * 1000 + 40}-1-000001", rows)  # begun when the first of them was answered
    ship(tmp_path, store)
    assert list(shipped_records(store, midnight - DAY, midnight)) == rows[:1]
    assert list(shipped_records(store, midnight, midnight + DAY)) == rows[1:]
    assert list(read_shipped(store, midnight - DAY, midnight)["request_id"]) == ["id-1"]


def test_shipped_records_come_newest_first(tmp_path: Path) -> None:
    store = MemoryStore()
    for number in range(2):
        at = BEGAN + number * DAY
        rows = [record(number * 10 + n, at=at + float(n)) for n in (0, 2, 1)]  # in the order in which they ended
        write_segment(tmp_path, f"{at * 1000}-1-000001", rows)
    ship(tmp_path, store)
    assert [each.request_id for each in shipped_records(store)] == ["id-12", "id-11", "id-10", "id-2", "id-1", "id-0"]
