"""Every closed segment becomes one object, whoever dies or fails at which call."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from infra.objects import ObjectStore, ObjectStoreError
from infra.traffic import rows
from infra.traffic.reading import read_shipped, shipped_records
from infra.traffic.shipping import ShippingError, expire, key_of, segment_of, ship, ship_and_tell, waiting
from serving.traffic.metrics import read_shipping
from serving.traffic.retention import Keeper, mark_of, read_mark
from serving.traffic.segments import Segment, segments
from serving.traffic.writer import TrafficWriter, has_body, read_records
from tests.dying import dies_after
from tests.infra.traffic.store import MemoryStore
from tests.serving.records import record, write_segment

BEGAN = 1_750_000_000_000
"""Milliseconds: 2025-06-15 15:06:40 UTC."""


def home(folder: Path, count: int = 3) -> list[str]:
    """Closed segments of two rows each; the ids of all rows."""
    for number in range(count):
        write_segment(folder, f"{BEGAN + number}-7-{number:06d}", [record(number * 10), record(number * 10 + 1)])
    return [f"id-{number * 10 + n}" for number in range(count) for n in (0, 1)]


def shipped_ids(store: ObjectStore) -> list[str]:
    return sorted((each.request_id for each in shipped_records(store)), key=lambda name: int(name[3:]))


def test_a_segment_becomes_one_object_named_by_day_segment_and_rows(tmp_path: Path) -> None:
    ids, store = home(tmp_path), MemoryStore()
    (first, *_) = marks = ship(tmp_path, store, now=lambda: 5.0)
    name = f"{BEGAN}-7-000000"
    assert first.key == f"traffic/date=2025-06-15/{name}-{first.sha256[:12]}.parquet"
    assert segment_of(first.key) == name
    assert (first.rows, first.first, first.last, first.at) == (2, 1000.0, 1001.0, 5.0)
    assert read_mark(segments(tmp_path)[0]) == first
    assert store.puts == [mark.key for mark in marks]
    assert shipped_ids(store) == ids
    assert ship(tmp_path, store) == []
    assert len(store.objects) == 3


def test_live_segments_stay_and_a_damaged_one_ships_what_is_whole(tmp_path: Path) -> None:
    live = Segment(tmp_path / f"{BEGAN}-1-000001.seg")
    live.append(msgspec.msgpack.encode(record(1)))
    torn = write_segment(tmp_path, f"{BEGAN}-2-000001", [record(2), record(3)])
    torn.write_bytes(torn.read_bytes()[:-5])
    nothing = write_segment(tmp_path, f"{BEGAN}-3-000001", [record(4)])
    nothing.write_bytes(nothing.read_bytes()[:25])
    store = MemoryStore()
    assert [path.name for path in waiting(tmp_path)] == [torn.name, nothing.name]
    (mark, empty) = ship(tmp_path, store)
    assert (mark.rows, empty.rows, empty.key, len(store.objects)) == (1, 0, "", 1)
    assert mark.damaged_bytes > 0
    assert rows.decode(store.objects[mark.key], "x")[0].damaged_bytes == mark.damaged_bytes
    assert read_mark(live.path) is None
    live.close()
    assert [mark.rows for mark in ship(tmp_path, store)] == [1]
    assert shipped_ids(store) == ["id-1", "id-2"]


def test_a_segment_of_a_later_version_stays_and_holds_up_no_other(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "0000000000001-1-000001.seg")
    segment.append(msgspec.msgpack.encode({"request_id": 5}))
    segment.close()
    ids, store = home(tmp_path), MemoryStore()
    with pytest.raises(ShippingError, match=r"0000000000001-1-000001\.seg holds records that this version cannot read"):
        ship(tmp_path, store)
    assert shipped_ids(store) == ids
    assert waiting(tmp_path) == [segment.path]


def test_a_segment_that_the_disk_does_not_give_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = write_segment(tmp_path, "0000000000001-1-000001", [record(1)])
    good = write_segment(tmp_path, "0000000000002-1-000001", [record(2)])
    store, read = MemoryStore(), Path.read_bytes

    def damaged(path: Path) -> bytes:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", damaged)
    with pytest.raises(ShippingError, match=r"0000000000001-1-000001\.seg cannot be read \(Input/output error\)"):
        ship(tmp_path, store)
    assert read_mark(good) is not None
    assert waiting(tmp_path) == [bad]


@pytest.mark.slow
def test_it_may_die_before_any_call(tmp_path: Path) -> None:
    for survived in range(300):
        folder, store = tmp_path / str(survived), MemoryStore()
        folder.mkdir()
        ids = home(folder)
        with dies_after(survived) as fate:
            ship_and_tell(folder, lambda store=store: store)  # type: ignore[misc]
        ship(folder, store)
        assert shipped_ids(store) == ids
        assert len(store.puts) == len(store.objects) == 3
        assert waiting(folder) == []
        if not fate.died:
            assert survived > 10
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("late", [False, True])
def test_any_call_of_the_store_may_fail_or_lose_its_reply(tmp_path: Path, late: bool) -> None:
    for failing in range(20):
        folder, store = tmp_path / str(failing), MemoryStore(fails=failing, late=late)
        folder.mkdir()
        ids = home(folder)
        try:
            ship_and_tell(folder, lambda store=store: store)  # type: ignore[misc]
        except ObjectStoreError:
            assert read_shipping(folder).failures == 1
            assert read_shipping(folder).error == "the object store does not answer"
            failed = True
        else:
            failed = False
        store.fails = None
        ship_and_tell(folder, lambda store=store: store)  # type: ignore[misc]
        assert read_shipping(folder).error is None
        assert shipped_ids(store) == ids
        assert len(store.puts) == len(store.objects) == 3
        if not failed:
            assert failing == 3
            return
    raise AssertionError("it never came to its end")


def test_bodies_that_go_between_the_put_and_the_mark_make_no_second_object(tmp_path: Path) -> None:
    ids, store = home(tmp_path, 1), MemoryStore()
    (mark,) = ship(tmp_path, store)
    (path,) = segments(tmp_path)
    mark_of(path).unlink()  # as if it had died before
    assert Keeper(tmp_path, cap_bytes=0, keep_s=1.0).hold().bodies_dropped == 2
    (again,) = ship(tmp_path, store)
    assert again.key == mark.key
    assert store.puts == [mark.key]
    assert shipped_ids(store) == ids
    assert all(has_body(each) for each in shipped_records(store))


def test_rows_without_bodies_are_shipped(tmp_path: Path) -> None:
    ids, store = home(tmp_path, 1), MemoryStore()
    Keeper(tmp_path, cap_bytes=0, keep_s=1.0).hold()
    ship(tmp_path, store)
    assert shipped_ids(store) == ids
    assert not any(has_body(each) for each in shipped_records(store))


def test_an_object_of_other_rows_under_the_key_is_told(tmp_path: Path) -> None:
    home(tmp_path, 1)
    store, (path,) = MemoryStore(), segments(tmp_path)
    key = key_of(path.stem, rows.digest(read_records(tmp_path)))
    store.objects[key] = rows.encode([record(99)], path.stem)
    with pytest.raises(ShippingError, match="holds other rows"):
        ship(tmp_path, store)
    assert read_mark(path) is None


def test_expiry_deletes_whole_days_and_nothing_else(tmp_path: Path) -> None:
    store, day = MemoryStore(), 86_400_000
    for number in range(4):
        write_segment(tmp_path, f"{BEGAN + number * day}-1-000001", [record(number)])
    store.objects["traffic/readme.txt"] = store.objects["outcomes/date=2020-01-01/a"] = b""
    ship(tmp_path, store)
    assert expire(store, 2, now=lambda: BEGAN / 1e3 + 3 * 86_400.0) == 1
    assert shipped_ids(store) == ["id-1", "id-2", "id-3"]
    assert len(store.objects) == 5


def test_a_frame_of_what_was_shipped(tmp_path: Path) -> None:
    writer, store = TrafficWriter(tmp_path, segment_bytes=600), MemoryStore()
    now = time.time()
    for number in range(6):
        fresh = record(number, timings_ms={"total": 2.5}, inputs={"price": 1.5})
        writer.append(msgspec.structs.replace(fresh, at=now + number))
    writer.close()
    ship(tmp_path, store)
    assert len(store.objects) > 1
    frame = read_shipped(store, since=now + 1, until=now + 4)
    assert list(frame["request_id"]) == ["id-1", "id-2", "id-3"]
    assert str(frame["at"].dtype) == "datetime64[ns, UTC]"
    assert frame["timings_ms"][0] == {"total": 2.5}
    assert bytes(frame["request"][0]) == b"inputs 1"
    assert len(read_shipped(store)) == 6
    assert list(read_shipped(store, since=now + 1e6).columns) == rows.schema().names


_SHIPPER = """
import sys, time
from pathlib import Path
from infra.traffic.shipping import ship
from tests.servers import store_at
print("up", flush=True)
while True:
    ship(Path(sys.argv[1]), store_at(int(sys.argv[2])))
"""
_WRITER = """
import sys
from pathlib import Path
from serving.traffic.writer import TrafficWriter
from tests.serving.records import record
writer = TrafficWriter(Path(sys.argv[1]), segment_bytes=3000)
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 100_000):
    writer.append(record(number))
    print(number, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_writers_and_shippers_are_killed_and_the_totals_reconcile(tmp_path: Path, objects: ObjectStore) -> None:
    port, root = objects.endpoint.rpartition(":")[2], Path(__file__).parents[3]
    said: list[int] = []
    for life in range(6):
        shipper = subprocess.Popen(
            [sys.executable, "-c", _SHIPPER, str(tmp_path), port], stdout=subprocess.PIPE, text=True, cwd=root
        )
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(life * 100_000)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1, cwd=root,
        )  # fmt: skip
        assert shipper.stdout is not None
        assert writer.stdout is not None
        assert writer.stdin is not None
        shipper.stdout.readline()
        for _ in range(200 + 37 * life):  # a death at another moment each time
            said.append(int(writer.stdout.readline()))
            writer.stdin.write("\n")
        for process in (writer, shipper):
            process.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
        for process in (writer, shipper):
            process.wait()
        writer.stdout.close()
        shipper.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            writer.stdin.close()
    ship(tmp_path, objects)
    local = [each.request_id for each in read_records(tmp_path)]
    shipped = [each.request_id for each in shipped_records(objects)]
    assert len(shipped) == len(set(shipped))  # no row twice
    assert sorted(shipped) == sorted(local)
    assert {f"id-{number}" for number in said} <= set(shipped)  # none lost
    assert len(shipped) - len(said) <= 6  # and none that was not begun
    assert len(objects.list("traffic/")) == len([path for path in segments(tmp_path) if read_mark(path).rows])  # type: ignore[union-attr]
