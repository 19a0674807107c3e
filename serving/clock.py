"""Wall time for signatures, and the subnet's time, which may be recorded time in profile ``local``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from serving.types import UnixSeconds


class RecordedTime(msgspec.Struct, frozen=True):
    """``clock.json``: the subnet's time was ``at`` (unix s) when the wall clock said ``set_at`` (unix s)."""

    at: float
    set_at: float
    rate: float = 1.0
    """Recorded seconds per wall second; 0 holds the subnet's time still."""


class ClockError(ValueError):
    """The clock file is unreadable, or recorded time is not allowed in this profile."""


@dataclass(frozen=True)
class Clock:
    """Reads ``clock.json`` at every look, so that a change reaches every process at once.

    Signatures and nonces use `wall`. A subnet's start times, prices and truth use `subnet`.
    """

    path: Path | None = None

    def wall(self) -> UnixSeconds:
        """Seconds since the epoch by this machine's clock."""
        return UnixSeconds(time.time())

    def recorded(self) -> RecordedTime | None:
        """The recorded time in force, or None when the subnet's time is wall time."""
        if self.path is None:
            return None
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=RecordedTime)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ClockError(f"{self.path}: not a clock file ({error}); delete it or set it again") from None

    def subnet(self) -> UnixSeconds:
        """The subnet's time, in seconds since the epoch."""
        recorded = self.recorded()
        wall = self.wall()
        if recorded is None:
            return wall
        return UnixSeconds(recorded.at + (wall - recorded.set_at) * recorded.rate)

    def set(self, at: float, rate: float = 1.0) -> RecordedTime:
        """Set the subnet's time to `at` (unix s), atomically; it then runs at `rate`."""
        if self.path is None:
            raise ClockError("this profile has no recorded time; only 'local' and tests do")
        recorded = RecordedTime(at=float(at), set_at=time.time(), rate=rate)
        replace_file(self.path, msgspec.json.encode(recorded))
        return recorded


def replace_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old bytes or the new ones, never a mixture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
