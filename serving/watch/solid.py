"""Metrics files that a full disk cannot pull from under a worker, and that nobody sees before they are whole.

prometheus_client maps sparse files, and writing to a hole of one kills the process (SIGBUS) when the disk is full; its
reader fails at a file that is still empty.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

ROOM = 512 * 1024
"""Bytes for one kind of metric in one worker; several times what our bounded labels need."""


class SolidDict(MmapedDict):
    """A mapped file whose bytes are all on the disk before the first is used; in memory where there is no room.

    What a worker counts in memory is not seen by the private port: better than no worker.
    """

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if read_mode or _has_room(filename):
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
            return
        memory = os.memfd_create(Path(filename).name)
        try:
            super().__init__(f"/proc/self/fd/{memory}")  # type: ignore[no-untyped-call]
        finally:
            os.close(memory)  # it was opened a second time


def _has_room(filename: str) -> bool:
    """Whether the file is there and whole, made now if need be."""
    path, making = Path(filename), Path(f"{filename}.making")
    try:
        if not path.exists():
            with making.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, ROOM)
            making.rename(path)
    except OSError:
        with suppress(OSError):
            making.unlink()
        return False
    return True


def map_solidly() -> None:
    """Let prometheus_client map such files from now on; once a worker, before its metrics are made."""
    values.MmapedDict = SolidDict  # type: ignore[attr-defined]
