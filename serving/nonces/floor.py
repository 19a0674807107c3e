"""The floor of the replay store: a small synced file with a number that is above every accepted nonce.

It matters after a crash of the whole machine, when the pages of LMDB that were not yet on disk are gone: everything up
to the floor is refused then.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

LEAD_NS = 30_000_000_000
"""How far the floor is put ahead of now; must exceed every dialect's future bound."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Floor(msgspec.Struct, frozen=True):
    """``floor.json``."""

    boot: str
    """The boot of the machine that wrote it."""
    floor: int
    """Unix ns."""


def boot_id() -> str:
    """Names this boot of the machine; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def read_floor(folder: Path) -> Floor | None:
    """What stands on disk, None when nothing readable does."""
    try:
        return msgspec.json.decode((folder / "floor.json").read_bytes(), type=Floor)
    except (FileNotFoundError, ValueError):  # text that is no UTF-8 is a ValueError, and no DecodeError
        return None


def keep_floor(folder: Path, now_ns: int, *, accepted: int | None = None) -> int:
    """Put the floor on disk ahead of now, if it is not; what stands there afterwards. Raises OSError.

    `accepted`, where known, is a bound of every nonce accepted so far: it lets a floor come down again that a clock
    an hour ahead has put up, so that the next reboot does not cost that hour.
    """
    with _locked(folder):
        known = read_floor(folder)
        boot = boot_id()
        floor = known.floor if known is not None else 0
        if accepted is not None and floor > now_ns + 4 * LEAD_NS:
            floor = accepted
        elif known is not None and known.boot == boot and floor >= now_ns + LEAD_NS * 3 // 4:
            return floor
        floor = max(floor, now_ns + LEAD_NS)
        _write(folder, Floor(boot, floor))
        return floor


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "floor.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(folder: Path, floor: Floor) -> None:
    fresh = folder / "floor.json.new"
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(floor))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / "floor.json")
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
