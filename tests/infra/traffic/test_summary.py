"""The record in one look: every row counted once, wherever it is, and never more than so many bytes looked at."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from infra.traffic.reconcile import BOOKS, Books
from infra.traffic.shipping import ship, ship_and_tell
from infra.traffic.summary import Summary, summary
from serving.traffic.segments import Segment
from tests.infra.traffic.store import MemoryStore
from tests.serving.records import record, write_segment


def closed(folder: Path, name: str, rows: int) -> Path:
    return write_segment(folder, name, [record(number) for number in range(rows)])


def test_a_home_without_a_record(tmp_path: Path) -> None:
    assert summary(tmp_path / "none", None) == Summary()


def test_each_row_counts_once_shipped_or_not_and_removed_or_not(tmp_path: Path) -> None:
    gone, kept = closed(tmp_path, "1-1-1", 3), closed(tmp_path, "2-1-2", 4)
    ship(tmp_path, MemoryStore())
    gone.unlink()
    waits = closed(tmp_path, "3-1-3", 5)
    live = Segment(tmp_path / "4-1-4.seg")
    live.append(b"a row")
    found = summary(tmp_path, None)
    assert (found.records, found.shipped, found.waiting, found.uncounted_bytes) == (13, 7, 1, 0)
    assert found.newest == max(path.stat().st_mtime for path in (kept, waits, live.path))
    live.close()
    for path in (kept, waits, live.path):
        path.unlink()
    found = summary(tmp_path, None)
    assert (found.records, found.newest) == (7, 1003.0)  # the last row that a mark tells of


def test_no_more_than_so_many_bytes_are_looked_into(tmp_path: Path) -> None:
    old, new = closed(tmp_path, "1-1-1", 50), closed(tmp_path, "2-1-2", 3)
    size = new.stat().st_size
    found = summary(tmp_path, None, counted_bytes=size)
    assert (found.records, found.uncounted_bytes, found.waiting) == (3, old.stat().st_size, 2)
    assert summary(tmp_path, None, counted_bytes=size - 1).records == 0


def test_what_shipping_stopped_at(tmp_path: Path) -> None:
    def away() -> MemoryStore:
        raise OSError("the store is away")

    closed(tmp_path, "1-1-1", 1)
    with pytest.raises(OSError, match="away"):
        ship_and_tell(tmp_path, away)
    assert summary(tmp_path, None).shipping_error == "the store is away"


@pytest.mark.parametrize(("missing", "uncounted", "balanced"), [(0, 0, True), (1, 0, False), (0, 2, False)])
def test_the_last_books(tmp_path: Path, missing: int, uncounted: int, balanced: bool) -> None:
    books = Books(since=1.0, requests=5, rows=5, beside=0, lost=0, missing=missing, uncounted=uncounted, at=2.0)
    (tmp_path / BOOKS).write_bytes(msgspec.json.encode(books))
    found = summary(tmp_path, None)
    assert (found.balanced, found.books) == (balanced, books)
    (tmp_path / BOOKS).write_bytes(b"{")
    assert summary(tmp_path, None).balanced is None


def test_a_gateway_that_does_not_answer_is_no_fault_of_the_record(tmp_path: Path) -> None:
    assert summary(tmp_path, "http://127.0.0.1:1/metrics").lost is None
