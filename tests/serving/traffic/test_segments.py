"""Segments: whole frames come back from any cut and any damage, and none is invented."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.traffic.segments import MAGIC, MAGIC_ROWS, MAX_FRAME, Segment, count, frame, frames, is_live, segments
from serving.traffic.writer import read_segment
from tests.serving.records import handles, record, write_segment


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


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.sampled_from((MAGIC, MAGIC_ROWS)), st.data())
def test_frames_are_counted_by_their_lengths(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], magic: bytes, data: st.DataObject
) -> None:
    whole = magic + b"".join(map(frame, payloads))
    path = tmp_path_factory.getbasetemp() / "counted.seg"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert count(path) == len(list(frames(path.read_bytes())))


def test_what_is_no_frame_ends_the_count(tmp_path: Path) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(MAGIC + frame(b"one") + bytes(100))
    assert count(path) == 1
    path.write_bytes(b"something else that is long enough")
    assert count(path) == 0


def test_a_segment_is_live_as_long_as_its_writer_is(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "a.seg")
    assert is_live(segment.path)
    segment.close()
    assert not is_live(segment.path)
    assert not is_live(tmp_path / "none.seg")


def test_every_cut_and_every_damaged_byte_of_a_segment(tmp_path: Path) -> None:
    written = [record(number) for number in range(4)]
    path = write_segment(tmp_path, "0-1-1", written)
    data, ends = path.read_bytes(), [len(MAGIC)]
    for payload in frames(data):
        ends.append(ends[-1] + len(frame(payload)))
    assert ends[-1] == len(data)
    for at in range(len(data)):
        whole = sum(end <= at for end in ends[1:])
        path.write_bytes(data[:at])
        assert read_segment(path) == written[:whole]
        for damage in (data[at] ^ 0xFF, data[at] ^ 1, 0 if data[at] else 7):
            path.write_bytes(data[:at] + bytes([damage]) + data[at + 1 :])
            assert read_segment(path) == (written[:whole] if at >= len(MAGIC) else [])


@given(st.binary(max_size=200))
def test_what_no_writer_wrote_is_no_frame(noise: bytes) -> None:
    assert list(frames(noise)) == []
    assert list(frames(MAGIC + bytes(4096))) == []  # what a file system leaves of blocks that never reached the disk


def test_frames_have_bounds() -> None:
    for payload in (b"", bytes(MAX_FRAME + 1)):
        with pytest.raises(OSError, match="a frame of") as refused:
            frame(payload)
        assert refused.value.errno == errno.EMSGSIZE


def test_a_short_write_leaves_whole_frames_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment, real = Segment(tmp_path / "a.seg"), os.write
    segment.append(b"first")
    monkeypatch.setattr("serving.traffic.segments.os.write", lambda fd, data: real(fd, data[:-1]))
    with pytest.raises(OSError, match="the disk is full"):
        segment.append(b"torn")
    monkeypatch.setattr("serving.traffic.segments.os.write", real)
    segment.append(b"last")
    segment.close()
    assert list(frames(segment.path.read_bytes())) == [b"first", b"last"]


def test_a_segment_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    before = handles(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("serving.traffic.segments.os.write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="no space"):
                Segment(tmp_path / "a.seg")
    assert list(tmp_path.iterdir()) == []
    assert handles(tmp_path) == before


def test_an_empty_segment_is_removed_when_it_closes(tmp_path: Path) -> None:
    Segment(tmp_path / "a.seg").close()
    assert segments(tmp_path) == []
