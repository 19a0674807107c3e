"""The traffic record: one `TrafficRecord` for each request that was accepted, kept through the kill of any process."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from serving.clock import replace_file
from serving.records import TrafficRecord
from serving.segments import MAGIC_ROWS, SUFFIX, Segment, frame, frames, is_live, segments

_decoder = msgspec.msgpack.Decoder(TrafficRecord)


class TrafficWriter:
    """Appends records to segment files of this process's own, synced once a second by a thread.

    A segment is closed after `segment_bytes` or `segment_s` seconds, and the next one begun.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = 16_000_000, segment_s: float = 600.0, sync_s: float = 1.0
    ) -> None:
        self.folder = folder
        self.lost = 0
        """Records that could not be written, because the disk was full or read-only."""
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._opened = 0.0
        self._count = 0
        self._dirty = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_synced, args=(sync_s,), name="traffic-sync", daemon=True)
        self._thread.start()

    def append(self, record: TrafficRecord) -> bool:
        """Write a record; False, and counted in `lost`, when the disk refused it twice."""
        payload = self._encoder.encode(record)
        with self._lock:
            for _ in range(2):  # a segment with a torn tail is left behind, and a new one begun
                try:
                    self._current().append(payload)
                except OSError:
                    self._close()
                else:
                    self._dirty = True
                    return True
            self.lost += 1
            return False

    def close(self) -> None:
        """Sync and close; the writer is done."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._close()

    def _current(self) -> Segment:
        segment = self._segment
        if segment is not None and (
            segment.size >= self._segment_bytes or time.monotonic() - self._opened >= self._segment_s
        ):
            self._close()
            segment = None
        if segment is None:
            self._count += 1
            name = f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{self._count:06d}{SUFFIX}"
            segment = self._segment = Segment(self.folder / name)
            self._opened = time.monotonic()
        return segment

    def _close(self) -> None:
        if self._segment is not None:
            with contextlib.suppress(OSError):
                self._segment.close()
        self._segment = None
        self._dirty = False

    def _keep_synced(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            with self._lock:
                segment, dirty = self._segment, self._dirty
                self._dirty = False
            if segment is not None and dirty:
                with contextlib.suppress(OSError):  # closed meanwhile: closing syncs too
                    segment.sync()


def read_records(folder: Path, since: float = 0.0) -> Iterator[TrafficRecord]:
    """Records that arrived at or after `since` (wall time, unix s), segment by segment, oldest segment first.

    A torn tail ends its segment and no more; a record that does not decode is passed over.
    """
    for path in segments(folder):
        try:
            if path.stat().st_mtime < since:
                continue
            data = path.read_bytes()
        except FileNotFoundError:  # replaced or removed meanwhile
            continue
        for payload in frames(data):
            try:
                record = _decoder.decode(payload)
            except msgspec.DecodeError:
                continue
            if record.at >= since:
                yield record


class Kept(msgspec.Struct, frozen=True):
    """What `keep_below` found and did."""

    bytes: int
    """On disk afterwards."""
    bodies_dropped: int
    """Records whose request and tensors were dropped in this pass; their digests stay."""


def keep_below(folder: Path, cap_bytes: int) -> Kept:
    """Hold the record below `cap_bytes`: the oldest bodies go first, digest rows stay, and what went is counted.

    Live segments are not touched. One process of a box calls it.
    """
    paths = segments(folder)
    sizes = {path: path.stat().st_size for path in paths if path.exists()}
    total, dropped = sum(sizes.values()), 0
    for path in paths:
        if total <= cap_bytes:
            break
        if path not in sizes or is_live(path):
            continue
        before = sizes[path]
        dropped += _drop_bodies(path)
        total += path.stat().st_size - before
    return Kept(bytes=total, bodies_dropped=dropped)


def _drop_bodies(path: Path) -> int:
    """Rewrite a closed segment without requests and tensors; the number of records that lost theirs."""
    with path.open("rb") as file:
        if file.read(len(MAGIC_ROWS)) == MAGIC_ROWS:
            return 0
    kept, dropped = [MAGIC_ROWS], 0
    for payload in frames(path.read_bytes()):
        try:
            record = _decoder.decode(payload)
        except msgspec.DecodeError:
            continue
        dropped += bool(record.request or record.tensors)
        kept.append(frame(msgspec.msgpack.encode(msgspec.structs.replace(record, request=b"", tensors={}))))
    times = path.stat()
    replace_file(path, b"".join(kept))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # read_records skips by time
    return dropped
