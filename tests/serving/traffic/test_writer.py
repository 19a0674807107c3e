"""The traffic record survives kills at any byte, and stays below its cap."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.traffic.records import TensorBytes
from serving.traffic.segments import Segment, is_live, segments
from serving.traffic.writer import TrafficWriter, read_records
from tests.serving.callers import btauth
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.gateways import Box, write_routes
from tests.serving.records import handles, record


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path)
    written = [record(number) for number in range(5)]
    assert all(writer.append(each) for each in written)
    assert list(read_records(tmp_path)) == written  # before any close or sync
    writer.close()
    assert list(read_records(tmp_path)) == written
    assert list(read_records(tmp_path, since=1003.0)) == written[3:]
    assert list(read_records(tmp_path / "nowhere")) == []


def test_segments_rotate_by_size_and_by_time(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path / "size", segment_bytes=1000)
    for number in range(20):
        writer.append(record(number))
    writer.close()
    assert len(segments(tmp_path / "size")) > 3
    assert [each.request_id for each in read_records(tmp_path / "size")] == [f"id-{number}" for number in range(20)]
    writer = TrafficWriter(tmp_path / "time", segment_s=0.0)
    for number in range(3):
        writer.append(record(number))
    writer.close()
    assert len(segments(tmp_path / "time")) == 3


def test_an_old_segment_is_closed_though_no_record_comes(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path, segment_s=0.0, sync_s=0.005)
    writer.append(record(1))
    (path,) = segments(tmp_path)
    _until(lambda: not is_live(path))
    writer.append(record(2))
    writer.close()
    assert list(read_records(tmp_path)) == [record(1), record(2)]
    assert len(segments(tmp_path)) == 2


def test_records_are_synced_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("serving.traffic.segments.os.fdatasync", synced.append)
    writer = TrafficWriter(tmp_path, sync_s=0.005)
    writer.append(record(1))
    _until(lambda: len(synced) == 1)
    writer.append(record(2))
    _until(lambda: len(synced) == 2)
    writer.close()


def test_a_full_disk_begins_a_new_segment_and_then_counts_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TrafficWriter(tmp_path)
    writer.append(record(1))
    real, full = os.write, [True]

    def half(fd: int, data: bytes) -> int:
        return real(fd, data[: len(data) // 2]) if full.pop() else real(fd, data)

    full[:] = [False, False, True]  # the record is torn, then a new segment takes it
    monkeypatch.setattr("serving.traffic.segments.os.write", half)
    assert writer.append(record(2))
    monkeypatch.setattr("serving.traffic.segments.os.write", lambda fd, data: 0)
    assert not writer.append(record(3))
    assert writer.lost == 1
    monkeypatch.setattr("serving.traffic.segments.os.write", real)
    assert writer.append(record(4))
    writer.close()
    assert [each.request_id for each in read_records(tmp_path)] == ["id-1", "id-2", "id-4"]


def test_a_disk_that_takes_nothing_leaves_no_files_and_no_handles(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path, sync_s=3600.0)
    assert writer.append(record(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # the kernel itself refuses to write
        before = handles(tmp_path)
        assert [writer.append(record(number)) for number in range(2, 102)] == [False] * 100
        assert handles(tmp_path) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert writer.lost == 100
    assert writer.append(record(102))  # by itself, as soon as it can
    writer.close()
    assert [each.request_id for each in read_records(tmp_path)] == ["id-1", "id-102"]
    assert len(list(tmp_path.iterdir())) == 2


def test_two_threads_may_close_the_same_retired_segments(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path, sync_s=3600.0)

    class Contested(list[Segment]):
        def pop(self, *at: Any) -> Segment:
            if self:
                super().clear()  # the other thread was faster, since somebody looked
            return super().pop(*at)

    writer._retired = Contested([Segment(tmp_path / "0000000000001-1-000001.seg")])
    writer._close_retired()
    writer.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_serving_goes_on_while_the_disk_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    write_routes(tmp_path, stable="tiny-a")
    box = Box(tmp_path, FakeTriton(tiny_a=doubled))
    with monkeypatch.context() as patched:
        patched.setattr("serving.traffic.segments.os.write", refuse)
        assert (await box.ask(btauth("/Double", {"x": [1.0]}))).status == 200
        box.gateway.keep()
        assert box.count("headframe_traffic_lost") == 1
    assert (await box.ask(btauth("/Double", {"x": [2.0]}))).status == 200
    box.close()
    assert [each.request for each in read_records(tmp_path / "traffic")] == [b"[2.0]"]


def test_without_bodies_only_digest_rows_are_written(tmp_path: Path) -> None:
    writer = TrafficWriter(tmp_path, bodies=False)
    writer.append(record(1))
    writer.close()
    assert list(read_records(tmp_path)) == [record(1, request=b"", tensors={})]


def test_a_record_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "a.seg")
    segment.append(msgspec.msgpack.encode({"request_id": 5}))
    segment.append(msgspec.msgpack.encode(record(1)))
    segment.close()
    assert [each.request_id for each in read_records(tmp_path)] == ["id-1"]


def test_records_of_the_first_version_are_read(tmp_path: Path) -> None:
    first = {
        "request_id": "a-1", "at": 1.5, "subnet_at": 1.25, "dialect": "btauth", "caller": "5G", "slot": "s",
        "synapse": "S", "role": "stable", "release": None, "status": 429, "code": "budget", "reason": None,
        "request": b"{}", "seed": 2**63 - 1, "inputs": {"price": 1.0},
        "tensors": {"X": {"dtype": "FP32", "shape": [1], "data": b"1234"}}, "answer_digest": None, "answer_bytes": 7,
        "deadline_s": 4.0, "timings_ms": {"total": 1.0},
    }  # fmt: skip
    segment = Segment(tmp_path / "a.seg")
    segment.append(msgspec.msgpack.encode(first))
    segment.close()
    (found,) = read_records(tmp_path)
    assert {name: getattr(found, name) for name in first if name != "tensors"} == {
        name: value for name, value in first.items() if name != "tensors"
    }
    assert found.tensors == {"X": TensorBytes("FP32", [1], b"1234")}
    assert (found.receiver, found.netuid, found.authenticated, found.given, found.answer_crc) == (
        "",
        0,
        False,
        b"",
        None,
    )


def _until(reached: Callable[[], bool], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


_WRITER = """
import sys
from pathlib import Path
from serving.traffic.records import TrafficRecord
from serving.traffic.writer import TrafficWriter
writer = TrafficWriter(Path(sys.argv[1]), segment_bytes=50_000, sync_s=3600)
number = 0
while True:
    writer.append(TrafficRecord(
        request_id=str(number), at=1.0, subnet_at=0.0, dialect="legacy", caller="5G", slot="s", synapse="S",
        role="stable", release="r", status=200, code="ok", request=b"x" * 300,
    ))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.slow
def test_a_sigkill_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    for _ in range(1000):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    said = 1000 + sum(line.endswith("\n") for line in process.stdout)
    process.wait()
    process.stdout.close()
    found = [int(each.request_id) for each in read_records(tmp_path)]
    assert found == list(range(len(found)))
    assert said <= len(found) <= said + 1
    assert not any(is_live(path) for path in segments(tmp_path))
