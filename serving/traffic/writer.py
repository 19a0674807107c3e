"""The traffic record: one `TrafficRecord` for each request that was accepted, kept through the kill of any process."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from serving.traffic.records import TrafficRecord
from serving.traffic.segments import SUFFIX, Segment, frames, segments

_decoder = msgspec.msgpack.Decoder(TrafficRecord)


class TrafficWriter:
    """Appends records to segment files of this process's own, synced once a second by a thread.

    A segment is closed after `segment_bytes` or `segment_s` seconds, and the next one begun with the next record.
    Without `bodies`, records are kept without requests and tensors: nothing of them can be answered again.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = 16_000_000, segment_s: float = 600.0, sync_s: float = 1.0,
        bodies: bool = True,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.lost = 0
        """Records that could not be written, because the disk was full or read-only."""
        self._bodies = bodies
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._opened = 0.0
        self._count = 0
        self._dirty = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_synced, args=(sync_s,), name="traffic-sync", daemon=True)
        self._thread.start()

    def append(self, record: TrafficRecord) -> bool:
        """Write a record; False, and counted in `lost`, when the disk refused it twice."""
        payload = self._encoder.encode(record if self._bodies else without_body(record))
        with self._lock:
            for _ in range(2):  # a segment that took no more is left behind, and a new one begun
                try:
                    self._current().append(payload)
                except OSError:
                    self._retire()
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
            self._retire()
            self._close_retired()

    def _current(self) -> Segment:
        if self._segment is not None and (self._segment.size >= self._segment_bytes or self._is_old()):
            self._retire()
        if self._segment is None:
            self._count += 1
            name = f"{time.time_ns() // 1_000_000:013d}-{os.getpid()}-{self._count:06d}{SUFFIX}"
            self._segment = Segment(self.folder / name)
            self._opened = time.monotonic()
        return self._segment

    def _is_old(self) -> bool:
        return time.monotonic() - self._opened >= self._segment_s

    def _retire(self) -> None:
        """Begin no more frames in the segment; the thread closes it, since that waits for the disk."""
        if self._segment is not None:
            self._retired.append(self._segment)
            if self._segment.is_empty:  # the disk is full: closing it is quick, and leaves no file
                self._close_retired()
        self._segment = None
        self._dirty = False

    def _close_retired(self) -> None:
        """Called by the thread without the lock, and so beside `append`: either may take the last one."""
        with contextlib.suppress(IndexError):
            while True:
                segment = self._retired.pop()
                with contextlib.suppress(OSError):
                    segment.close()

    def _keep_synced(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            with self._lock:
                if self._segment is not None and self._is_old():  # no record came to end it
                    self._retire()
                segment = self._segment if self._dirty else None
                self._dirty = False
            if segment is not None:
                with contextlib.suppress(OSError):
                    segment.sync()
            self._close_retired()


def without_body(record: TrafficRecord) -> TrafficRecord:
    """The digest row of a record: all but its request and tensors."""
    return msgspec.structs.replace(record, request=b"", given=b"", tensors={})


def has_body(record: TrafficRecord) -> bool:
    """Whether a record still holds its request or tensors."""
    return bool(record.request or record.tensors)


def decode_record(payload: bytes) -> TrafficRecord:
    """A record from its frame; raises ValueError."""
    return _decoder.decode(payload)


def read_segment(path: Path) -> list[TrafficRecord]:
    """Whole records of one segment, in the order written; one that does not decode is passed over. Raises OSError."""
    found = []
    for payload in frames(path.read_bytes()):
        with contextlib.suppress(ValueError):
            found.append(decode_record(payload))
    return found


def may_hold(path: Path, since: float) -> bool:
    """Whether a segment was written after `since`, unix s, give or take a file system's clock. Raises OSError."""
    return path.stat().st_mtime >= since - 1.0


def read_records(folder: Path, since: float = 0.0) -> Iterator[TrafficRecord]:
    """Records on this disk that arrived at or after `since` (wall time, unix s), oldest segment first.

    A torn tail ends its segment and no more. `infra.traffic.records` adds those that were shipped and removed.
    """
    for path in segments(folder):
        try:
            found = read_segment(path) if may_hold(path, since) else []
        except FileNotFoundError:  # removed meanwhile
            continue
        yield from (record for record in found if record.at >= since)
