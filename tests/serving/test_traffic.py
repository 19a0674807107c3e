"""The traffic record survives kills at any byte, and stays below its cap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.records import TensorBytes, TrafficRecord
from serving.segments import MAGIC, Segment, frame, frames, is_live, segments
from serving.traffic import TrafficWriter, read_records


def record(number: int, **facts: Any) -> TrafficRecord:
    body = {
        "request": b"inputs %d" % number,
        "tensors": {"X": TensorBytes("FP32", [1, 2], bytes(8))},
        "answer_digest": "d" * 64,
        **facts,
    }
    return TrafficRecord(
        request_id=f"id-{number}", at=1000.0 + number, subnet_at=0.0, dialect="legacy", caller="5G", slot="s",
        synapse="S", role="stable", release="r", status=200, code="ok", **body,
    )  # fmt: skip


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


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
@settings(max_examples=200)
def test_a_torn_tail_costs_the_torn_record_alone(payloads: list[bytes], data: st.DataObject) -> None:
    whole = MAGIC + b"".join(map(frame, payloads))
    cut = data.draw(st.integers(0, len(whole)))
    found = list(frames(whole[:cut]))
    assert found == payloads[: len(found)]
    lengths = [len(MAGIC)]
    for payload in payloads:
        lengths.append(lengths[-1] + len(frame(payload)))
    assert len(found) == max(0, sum(length <= cut for length in lengths) - 1)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.data())
def test_a_flipped_byte_is_noticed(payloads: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(MAGIC + b"".join(map(frame, payloads)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found = list(frames(bytes(whole)))
    assert found == payloads[: len(found)]
    assert len(found) < len(payloads)


def test_a_segment_is_live_as_long_as_its_writer_is(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "a.seg")
    assert is_live(segment.path)
    segment.close()
    assert not is_live(segment.path)
    assert not is_live(tmp_path / "none.seg")


def test_a_full_disk_begins_a_new_segment_and_then_counts_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TrafficWriter(tmp_path)
    writer.append(record(1))
    real, full = os.write, [True]

    def half(fd: int, data: bytes) -> int:
        return real(fd, data[: len(data) // 2]) if full.pop() else real(fd, data)

    full[:] = [False, False, True]  # the record is torn, then a new segment takes it
    monkeypatch.setattr("serving.segments.os.write", half)
    assert writer.append(record(2))
    monkeypatch.setattr("serving.segments.os.write", lambda fd, data: 0)
    assert not writer.append(record(3))
    assert writer.lost == 1
    monkeypatch.setattr("serving.segments.os.write", real)
    assert writer.append(record(4))
    writer.close()
    assert [each.request_id for each in read_records(tmp_path)] == ["id-1", "id-2", "id-4"]


def test_a_record_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "a.seg")
    segment.append(msgspec.msgpack.encode({"request_id": 5}))
    segment.append(msgspec.msgpack.encode(record(1)))
    segment.close()
    assert [each.request_id for each in read_records(tmp_path)] == ["id-1"]


_WRITER = """
import sys
from pathlib import Path
from serving.records import TrafficRecord
from serving.traffic import TrafficWriter
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
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
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
