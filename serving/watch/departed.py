"""What workers counted that are gone: added up in one set of files, however many they were.

Each worker leaves some two megabytes behind; where they die every few seconds, that fills a disk within days.
"""

from __future__ import annotations

import contextlib
import struct
import threading
from contextlib import closing
from pathlib import Path

from serving.watch.solid import SolidDict

TOGETHER = "0"
"""Stands for the pid in the names of the added files: no process of ours has it."""
READING = threading.Lock()
"""Held by whoever reads all files or adds some up: in between a count would be there twice, or not at all."""


def depart(folder: Path, pid: int) -> None:
    """Add a dead worker's counts to the others', and remove its files; levels of what it held go with it.

    A file that cannot be read, or that the disk has no room to add, stays as it is.
    """
    with READING:
        for path in sorted(folder.glob(f"*_{pid}.db")):
            with contextlib.suppress(OSError, RuntimeError, ValueError, struct.error):  # the latter: not such a file
                if not path.name.startswith("gauge_live"):
                    _add(path, path.with_name(f"{path.stem.removesuffix(str(pid))}{TOGETHER}.db"))
                path.unlink()


def _add(path: Path, total: Path) -> None:
    """Add one file's values to another's; of a ``mostrecent`` gauge the newer one stays. Raises OSError."""
    newest = path.name.startswith("gauge_mostrecent")
    gone = list(SolidDict.read_all_values_from_file(str(path)))  # type: ignore[no-untyped-call]
    with closing(SolidDict(str(total))) as held:
        if not total.exists():
            raise OSError(f"no room for {total.name}")
        for key, value, at, _ in gone:
            before, before_at = held.read_value(key)  # type: ignore[no-untyped-call]
            if not newest:
                held.write_value(key, before + value, at)  # type: ignore[no-untyped-call]
            elif at >= before_at:
                held.write_value(key, value, at)  # type: ignore[no-untyped-call]
