"""A state file as serving sees it: re-read when it changes, the last good copy kept, its age known."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from serving.clock import replace_file

LOOK_EVERY_S = 0.01
"""For files that every request looks at; a look is a system call, and some of them are looked at three times."""
T = TypeVar("T")
Stamp = tuple[int, int, int]


class StateFile(Generic[T]):
    """Reads one of the files of `serving.state`.

    A `get` looks at the file's inode, time and size, unless the last look was less than `look_every_s` ago; so a
    replaced file takes effect in every process within that time. When the file vanishes or is garbled, the last good
    copy stays in force and `faults` counts. A process that starts at such a moment takes the copy in `kept`, which
    the gateway's parent looks after.
    """

    def __init__(
        self, path: Path, kind: type[T], build: Callable[[T], Any] | None = None, *, kept: Path | None = None,
        look_every_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.path = path
        self.kept = kept
        self.faults = 0
        """How often a new file could not be read."""
        self.problem: str | None = None
        """What is wrong with the file now, in one line; None when it was read."""
        self._look_every_s = look_every_s
        self._look_at = 0.0
        self._decoder = msgspec.json.Decoder(kind)
        self._build = build
        self._stamp: Stamp | None = None
        self._value: T | None = None
        self._built: Any = None
        self._saved: T | None = None

    def get(self) -> T | None:
        """The newest good content, or None when there never was one."""
        now = time.monotonic()
        if now < self._look_at:
            return self._value
        self._look_at = now + self._look_every_s
        try:
            found = os.stat(self.path)
        except OSError:
            if self.problem != f"{self.path.name} is missing":
                self._fault("is missing")
                self._stamp = None
            return self._value
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._stamp = stamp
            self._read()
        return self._value

    def built(self) -> Any:
        """What `build` made of the newest good content; None when there never was one."""
        self.get()
        return self._built

    def age(self, now: float) -> float | None:
        """Seconds since the content in force was written (`written_at` against `now`, unix s)."""
        value = self.get()
        return None if value is None else now - float(getattr(value, "written_at", now))

    def keep(self) -> None:
        """Write the content in force to `kept`, if it is new; one process does it for all."""
        value = self.get()
        if value is not None and value is not self._saved and self.kept is not None and self.problem is None:
            replace_file(self.kept, msgspec.json.encode(value))
            self._saved = value

    def _read(self) -> None:
        try:
            self._take(self.path)
        except ValueError as error:  # msgspec's errors are ValueErrors
            self._fault(f"cannot be read ({type(error).__name__})")
        except OSError as error:  # such as a shortage of open files, which passes: the next look tries again
            self._stamp = None
            self._fault(f"cannot be read ({type(error).__name__})")
        else:
            self.problem = None

    def _take(self, path: Path) -> None:
        value = self._decoder.decode(path.read_bytes())
        self._built = self._build(value) if self._build else None
        self._value = value

    def _fault(self, what: str) -> None:
        self.faults += 1
        self.problem = f"{self.path.name} {what}"
        if self._value is None and self.kept is not None:
            with contextlib.suppress(OSError, ValueError):
                self._take(self.kept)
