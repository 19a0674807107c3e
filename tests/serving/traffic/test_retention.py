"""The traffic record on disk: what goes first, what never goes, and what is counted however often this dies."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.traffic.retention import MARKS_KEEP_S, Keeper, Mark, mark_of, read_mark, read_totals
from serving.traffic.segments import MAGIC_ROWS, Segment, is_live, segments
from serving.traffic.writer import has_body, read_records
from tests.dying import dies_after
from tests.serving.records import record, write_segment

DAY = 86_400.0
NOW = 1_000_000_000.0
BODY = {"request": b"x" * 1000}


def segment(folder: Path, number: int, *, age: float, count: int = 3, shipped: bool = False) -> Path:
    """A closed segment whose last record is `age` s old at `NOW`."""
    path = write_segment(folder, f"{number:013d}-1-000001", [record(number * 100 + n, **BODY) for n in range(count)])
    os.utime(path, (NOW - age, NOW - age))
    if shipped:
        mark(path, count, age)
    return path


def mark(path: Path, count: int, age: float) -> None:
    made = Mark(key=f"k/{path.stem}", rows=count, sha256="", first=0.0, last=NOW - age, at=NOW - age)
    mark_of(path).write_bytes(msgspec.json.encode(made))
    os.utime(mark_of(path), (NOW - age, NOW - age))


def keeper(folder: Path, cap: int, **options: Any) -> Keeper:
    return Keeper(folder, cap_bytes=cap, keep_s=10 * DAY, now=lambda: NOW, **options)


def test_shipped_segments_leave_when_their_time_is_over_and_unshipped_ones_never(tmp_path: Path) -> None:
    old, new = segment(tmp_path, 1, age=11 * DAY, shipped=True), segment(tmp_path, 2, age=9 * DAY, shipped=True)
    waiting = segment(tmp_path, 3, age=99 * DAY)
    kept = keeper(tmp_path, 10**9).hold()
    assert segments(tmp_path) == [new, waiting]
    assert read_mark(old) is not None
    assert (kept.unshipped, kept.lag_s, kept.over, kept.bodies_dropped) == (1, 99 * DAY, 0, 0)
    assert kept.bytes == new.stat().st_size + waiting.stat().st_size
    assert kept.shipped_rows == 6


def test_above_the_cap_shipped_segments_go_before_any_body(tmp_path: Path) -> None:
    waiting = [segment(tmp_path, number, age=5 * DAY) for number in (1, 2)]
    shipped = [segment(tmp_path, number, age=1 * DAY, shipped=True) for number in (3, 4)]
    size = waiting[0].stat().st_size
    assert keeper(tmp_path, 3 * size).hold().bytes == 3 * size
    assert segments(tmp_path) == [*waiting, shipped[1]]  # the oldest of the shipped went
    kept = keeper(tmp_path, 2 * size).hold()
    assert segments(tmp_path) == waiting
    assert (kept.bodies_dropped, all(map(has_body, read_records(tmp_path)))) == (0, True)


def test_then_the_oldest_bodies_go_and_every_digest_row_stays(tmp_path: Path) -> None:
    paths = [segment(tmp_path, number, age=(9 - number) * DAY) for number in range(4)]
    before, size = list(read_records(tmp_path)), paths[0].stat().st_size
    kept = keeper(tmp_path, 3 * size).hold()
    assert kept.bodies_dropped == 6  # one segment alone would still be above: its rows stay
    assert kept.bytes == sum(path.stat().st_size for path in paths) <= 3 * size
    after = list(read_records(tmp_path))
    assert [has_body(each) for each in after] == [False] * 6 + [True] * 6
    assert after == [msgspec.structs.replace(r, request=b"", tensors={}) for r in before[:6]] + before[6:]
    assert paths[0].stat().st_mtime == NOW - 9 * DAY  # readers skip by it
    assert keeper(tmp_path, 3 * size).hold().bodies_dropped == 6  # counted once, by another life too


def test_rows_above_the_cap_stay_and_are_told(tmp_path: Path) -> None:
    segment(tmp_path, 1, age=DAY)
    live = Segment(tmp_path / "0000000000002-1-000001.seg")
    live.append(msgspec.msgpack.encode(record(500, **BODY)))
    kept = keeper(tmp_path, 0).hold()
    assert kept.over == kept.bytes == sum(path.stat().st_size for path in segments(tmp_path)) > 0
    found = list(read_records(tmp_path))
    assert [each.request_id for each in found] == ["id-100", "id-101", "id-102", "id-500"]
    assert [has_body(each) for each in found] == [False, False, False, True]  # a live segment is its writer's
    assert is_live(live.path)
    live.close()


def test_where_nothing_is_shipped_time_alone_removes_rows_and_they_are_counted(tmp_path: Path) -> None:
    segment(tmp_path, 1, age=11 * DAY)
    young = segment(tmp_path, 2, age=9 * DAY)
    kept = keeper(tmp_path, 10**9, ship=False).hold()
    assert segments(tmp_path) == [young]
    assert (kept.rows_expired, kept.unshipped, kept.lag_s) == (3, 0, 0.0)
    assert keeper(tmp_path, 0, ship=False).hold().bodies_dropped == 3
    assert segments(tmp_path) == [young]


def test_a_record_of_a_later_version_keeps_its_place(tmp_path: Path) -> None:
    written = Segment(tmp_path / "0000000000001-1-000001.seg")
    strange = msgspec.msgpack.encode({"request_id": 5})
    for payload in (strange, msgspec.msgpack.encode(record(1, **BODY))):
        written.append(payload)
    written.close()
    assert keeper(tmp_path, 0).hold().bodies_dropped == 1
    data = written.path.read_bytes()
    assert data.startswith(MAGIC_ROWS)
    assert strange in data


def test_leftovers_and_old_marks_are_swept(tmp_path: Path) -> None:
    gone = segment(tmp_path, 1, age=MARKS_KEEP_S + 1, shipped=True)
    fresh = segment(tmp_path, 2, age=DAY, shipped=True)
    for name, age in ((".a.seg.new", 2 * 3600.0), (".b.tmp", 2 * 3600.0), (".c.seg.new", 60.0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (NOW - age, NOW - age))
    fresh.unlink()
    keeper(tmp_path, 10**9).hold()
    assert read_mark(gone) is None
    assert read_mark(fresh) is not None
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".c.seg.new"]


@pytest.mark.parametrize("ship", [True, False])
def test_whenever_it_dies_every_row_is_there_and_every_loss_is_counted_once(tmp_path: Path, ship: bool) -> None:
    for survived in range(400):
        folder = tmp_path / str(survived)
        folder.mkdir()
        segment(folder, 1, age=11 * DAY)
        segment(folder, 2, age=5 * DAY)
        shipped = segment(folder, 3, age=2 * DAY, shipped=True)
        subject = keeper(folder, 0, ship=ship)
        with dies_after(survived) as fate:
            subject.hold()
        kept = keeper(folder, 0, ship=ship).hold()
        there = sorted(each.request_id for each in read_records(folder))
        expired = [] if ship else ["id-100", "id-101", "id-102"]
        assert there == sorted({f"id-{n}" for n in (100, 101, 102, 200, 201, 202)} - set(expired))
        assert kept.rows_expired == len(expired)
        assert kept.bodies_dropped == len(there)
        assert read_totals(folder).pending is None
        assert read_mark(shipped) is not None
        if not fate.died:
            return
    raise AssertionError("it never came to its end")


def test_notes_that_hold_no_text_are_as_none(tmp_path: Path) -> None:
    path = segment(tmp_path, 1, age=DAY)
    mark_of(path).write_bytes(b'{"key":"\xff"}')
    (tmp_path / "kept.json").write_bytes(b'{"pending":{"segment":"\xff"}}')
    kept = Keeper(tmp_path, cap_bytes=10**9, keep_s=2 * DAY, now=lambda: NOW).hold()
    assert (kept.unshipped, kept.bodies_dropped) == (1, 0)


def test_a_segment_that_cannot_be_read_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = segment(tmp_path, 1, age=DAY), segment(tmp_path, 2, age=DAY)
    read = Path.read_bytes

    def damaged(path: Path) -> bytes:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", damaged)
    keeper = Keeper(tmp_path, cap_bytes=0, keep_s=2 * DAY, now=lambda: NOW)
    with pytest.raises(OSError, match="Input/output"):
        keeper.hold()
    assert read(good).startswith(MAGIC_ROWS)
    monkeypatch.undo()
    assert keeper.hold().bodies_dropped == 6
