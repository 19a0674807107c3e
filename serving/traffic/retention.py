"""How much of the traffic record stays on this disk, what goes first when there is too much, and what went.

The order: shipped segments past their time, then shipped ones oldest first, then the bodies of the others oldest
first. Digest rows that were not shipped are never given up: when they alone are above the cap, it is passed, and
`Kept.over` says by how much.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.clock import replace_file
from serving.traffic.segments import MAGIC_ROWS, SUFFIX, frame, frames, is_live, segments
from serving.traffic.writer import decode_record, has_body, without_body

MARK = ".shipped"
TOTALS = "kept.json"
MARKS_KEEP_S = 30 * 86_400.0
"""How long a mark outlives its segment; it says where the rows are now."""
_LEFTOVER_S = 3600.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What every other segment would meet too."""


class Mark(msgspec.Struct, frozen=True):
    """``<segment>.shipped``: where a segment went. It stays when the segment is removed."""

    key: str
    """Of the object; empty for a segment without rows."""
    rows: int
    sha256: str
    """`infra.traffic.rows.digest` of the rows."""
    first: float
    """Arrival of the first and the last row, wall time, unix s."""
    last: float
    at: float
    """When it was shipped, unix s."""
    damaged_bytes: int = 0
    """Bytes behind a torn or damaged frame; a killed writer leaves less than one frame."""


class _Pending(msgspec.Struct, frozen=True):
    """What is about to go, written down before it goes, so that it is counted once whenever this process dies."""

    segment: str
    bodies: int = 0
    rows: int = 0


class Totals(msgspec.Struct):
    """``kept.json``: what this home has given up since its first start."""

    bodies_dropped: int = 0
    """Records that lost their request and tensors to the cap before they were shipped."""
    rows_expired: int = 0
    """Records past their time that were removed unshipped, which happens only where shipping is off."""
    pending: _Pending | None = None


class Kept(msgspec.Struct, frozen=True):
    """What one look at the record found, and what is left of it."""

    bytes: int = 0
    """Of all segments on disk afterwards."""
    over: int = 0
    """Bytes above the cap that nothing more can be dropped from: live segments, and rows that were not shipped."""
    unshipped: int = 0
    """Closed segments that are not in the object store."""
    lag_s: float = 0.0
    """Age of the oldest of them, seconds since its last record."""
    shipped_rows: int = 0
    """Rows of every segment that has a mark here."""
    damaged_bytes: int = 0
    bodies_dropped: int = 0
    rows_expired: int = 0


@dataclass
class _Held:
    path: Path
    size: int
    written: float
    shipped: bool
    live: bool


class Keeper:
    """Holds the traffic record of one home to its size and time; one process of a box has one.

    `cap_bytes` counts segments alone; `keep_s` is how long shipped segments stay. With `ship` off, `keep_s` holds for
    all. Bodies of live segments are not touched.
    """

    def __init__(
        self, folder: Path, *, cap_bytes: int, keep_s: float, ship: bool = True, now: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self._cap, self._keep_s, self._ship, self._now = cap_bytes, keep_s, ship, now
        self._totals = read_totals(folder)
        self._marks: dict[str, Mark] = {}

    def hold(self) -> Kept:
        """Drop what must go. Raises OSError when the disk does not let it."""
        self._settle()
        held, now = self._look(), self._now()
        total = sum(each.size for each in held)
        for each in list(held):
            if each.written < now - self._keep_s and (each.shipped or not (self._ship or each.live)):
                total -= self._remove(each)
                held.remove(each)
        for each in [each for each in held if each.shipped]:
            if total > self._cap:
                total -= self._remove(each)
                held.remove(each)
        trouble: OSError | None = None
        for each in held:
            if total > self._cap and not each.live and not each.shipped:
                try:
                    total -= self._drop_bodies(each)
                except OSError as error:
                    if error.errno in _NO_ROOM:
                        raise
                    trouble = trouble or error  # one that cannot be read holds up no other
        self._sweep(now)
        if trouble is not None:
            raise trouble
        waiting = [each.written for each in held if not each.shipped and not each.live] if self._ship else []
        return Kept(
            bytes=total, over=max(0, total - self._cap), unshipped=len(waiting),
            lag_s=max(0.0, now - min(waiting, default=now)),
            shipped_rows=sum(mark.rows for mark in self._marks.values()),
            damaged_bytes=sum(mark.damaged_bytes for mark in self._marks.values()),
            bodies_dropped=self._totals.bodies_dropped, rows_expired=self._totals.rows_expired,
        )  # fmt: skip

    def _look(self) -> list[_Held]:
        """Segments as they are, and every mark; marks never change, and are read once."""
        names = {path.stem for path in self.folder.glob(f"*{MARK}")}
        fresh = {name: read_mark(self.folder / f"{name}{SUFFIX}") for name in names - self._marks.keys()}
        self._marks = {name: mark for name, mark in (self._marks | fresh).items() if mark and name in names}
        held = []
        for path in segments(self.folder):
            with contextlib.suppress(FileNotFoundError):
                stat, shipped = path.stat(), path.stem in self._marks
                held.append(_Held(path, stat.st_size, stat.st_mtime, shipped, not shipped and is_live(path)))
        return held

    def _remove(self, each: _Held) -> int:
        if not each.shipped:
            self._intend(_Pending(each.path.name, rows=sum(1 for _ in frames(each.path.read_bytes()))))
        each.path.unlink(missing_ok=True)
        self._settle()
        return each.size

    def _drop_bodies(self, each: _Held) -> int:
        """Rewrite a closed segment without requests and tensors; the bytes that this won."""
        with each.path.open("rb") as file:
            if file.read(len(MAGIC_ROWS)) == MAGIC_ROWS:
                return 0
        rows, dropped = rows_only(frames(each.path.read_bytes()))
        self._intend(_Pending(each.path.name, bodies=dropped))
        _replace_as_old(each.path, rows)
        self._settle()
        return each.size - len(rows)

    def _intend(self, pending: _Pending) -> None:
        self._totals.pending = pending
        self._write()

    def _settle(self) -> None:
        """Count what was about to go, if it went."""
        pending = self._totals.pending
        if pending is None:
            return
        try:
            with (self.folder / pending.segment).open("rb") as file:
                went = bool(pending.bodies) and file.read(len(MAGIC_ROWS)) == MAGIC_ROWS
        except FileNotFoundError:
            went = True
        self._totals.pending = None
        if went:
            self._totals.bodies_dropped += pending.bodies
            self._totals.rows_expired += pending.rows
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: room is made first, and the count written with the next
            replace_file(self.folder / TOTALS, msgspec.json.encode(self._totals))

    def _sweep(self, now: float) -> None:
        """Remove old marks, and what processes left behind that were killed while they wrote."""
        for path in self.folder.glob(f"*{MARK}"):
            if not path.with_suffix(SUFFIX).exists():
                _remove_older(path, now - MARKS_KEEP_S)
        for path in self.folder.glob(".*"):
            if path.suffix in {".new", ".tmp"}:
                _remove_older(path, now - _LEFTOVER_S)


def rows_only(payloads: Iterable[bytes]) -> tuple[bytes, int]:
    """A segment of the same records without bodies, and how many had one; what does not decode stays as it is."""
    kept, dropped = [MAGIC_ROWS], 0
    for payload in payloads:
        try:
            record = decode_record(payload)
        except ValueError:
            kept.append(frame(payload))
            continue
        dropped += has_body(record)
        kept.append(frame(msgspec.msgpack.encode(without_body(record))))
    return b"".join(kept), dropped


def read_totals(folder: Path) -> Totals:
    """What a home has given up so far."""
    try:
        return msgspec.json.decode((folder / TOTALS).read_bytes(), type=Totals)
    except (OSError, ValueError):
        return Totals()


def mark_of(segment: Path) -> Path:
    """Where a segment's mark lies."""
    return segment.with_suffix(MARK)


def read_mark(segment: Path) -> Mark | None:
    """A segment's mark; None when it was not shipped, or the mark cannot be read, so that it is shipped again."""
    try:
        return msgspec.json.decode(mark_of(segment).read_bytes(), type=Mark)
    except (OSError, ValueError):
        return None


def _replace_as_old(path: Path, data: bytes) -> None:
    """Replace a file, on the disk before the old one goes, and with its times, since readers skip by them."""
    times, temporary = path.stat(), path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(temporary, path)


def _remove_older(path: Path, limit: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_mtime < limit:
            path.unlink()
