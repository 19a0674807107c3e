"""Append-only segment files of checked frames, which survive the kill of their writer at any byte.

A segment is a magic line, then frames: length (u32), CRC-32 of the payload (u32), payload; little endian. Whoever
writes a segment holds an flock on it, so that anybody can tell a live segment from one whose writer is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"headframe-traffic-1\n"
MAGIC_ROWS = b"headframe-rows----1\n"
"""Begins a segment whose records have lost their bodies; as long as `MAGIC`."""
SUFFIX = ".seg"
MAX_FRAME = 64 * 1024 * 1024
_HEAD = struct.Struct("<II")


def frame(payload: bytes) -> bytes:
    """One frame around `payload`, which is not empty: a run of zeros on a damaged disk must not read as frames."""
    if not 0 < len(payload) <= MAX_FRAME:
        raise OSError(errno.EMSGSIZE, f"a frame of {len(payload)} bytes")
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def frames(data: bytes) -> Iterator[bytes]:
    """Payloads of a segment's bytes up to the first frame that is torn or damaged."""
    if not data.startswith((MAGIC, MAGIC_ROWS)):
        return
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        if not 0 < length <= MAX_FRAME:
            return
        payload = data[start : start + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            return
        yield payload
        at = start + length


def count(path: Path) -> int:
    """Whole frames of a segment by their lengths alone, unchecked: quick, whatever they hold. Raises OSError."""
    found, at = 0, len(MAGIC)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) not in {MAGIC, MAGIC_ROWS}:
            return 0
        while len(head := os.pread(file.fileno(), _HEAD.size, at)) == _HEAD.size:
            length, _ = _HEAD.unpack(head)
            at += _HEAD.size + length
            if not 0 < length <= MAX_FRAME or at > size:
                break
            found += 1
    return found


class Segment:
    """One segment being written: unbuffered, locked, and only ever appended to. Every method raises OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        """Bytes of whole frames, the magic line included."""
        self._known = False
        hidden = path.with_name(f".{path.name}.new")  # nobody sees it before it is locked
        self._fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            self._write(MAGIC)
            os.rename(hidden, path)
        except OSError:
            os.close(self._fd)
            hidden.unlink(missing_ok=True)
            raise

    @property
    def is_empty(self) -> bool:
        """Whether it holds no frame."""
        return self.size <= len(MAGIC)

    def append(self, payload: bytes) -> None:
        """Hand a frame to the kernel; once this returns, no kill of this process loses it."""
        self._write(frame(payload))

    def sync(self) -> None:
        """Push what was appended to the disk, and the folder's entry with it the first time."""
        os.fdatasync(self._fd)
        if not self._known:
            sync_folder(self.path.parent)
            self._known = True

    def close(self) -> None:
        """Sync, release the lock, and leave the segment to its readers; remove it if it holds no frame."""
        try:
            if self.is_empty:
                self.path.unlink(missing_ok=True)
            else:
                self.sync()
        finally:
            os.close(self._fd)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            written = os.write(self._fd, data)
        finally:
            if written != len(data):
                with contextlib.suppress(OSError):  # where it fails, the readers stop at the torn frame
                    os.ftruncate(self._fd, self.size)
        if written != len(data):
            raise OSError(errno.ENOSPC, f"short write to {self.path.name}: the disk is full")
        self.size += written


def sync_folder(folder: Path) -> None:
    """Push a folder's entries to the disk, so that a new or renamed file outlives a power cut. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_live(path: Path) -> bool:
    """Whether some process still writes this segment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def segments(folder: Path) -> list[Path]:
    """Segments of a folder, oldest first: their names begin with the time they were opened, in milliseconds."""
    return sorted(folder.glob(f"*{SUFFIX}"))
