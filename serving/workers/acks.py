"""What each worker says of itself, in a small file that it replaces at every change and once a second.

``<run>/workers/<pid>.json`` says which routes are in force there and which are drained, so that a release is unloaded
only when no worker needs it any more; that the worker takes connections; and, by its beat, that it is not hung.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from serving.clock import replace_file
from serving.state import RouteTable
from serving.types import ReleaseId

SILENT_S = 30.0
"""A worker that has not written for so long is dead or hung."""


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that takes connections, or finishes the ones it has."""

    pid: int
    begun: int
    """When the process began, in clock ticks since boot: a pid alone may be another's by now."""
    parent: int
    """Pid of the gateway's process that started it."""
    beat: float
    """When this was written, by the machine's monotonic clock."""
    routes: int
    """Generation of the routes in force; 0 before there were any."""
    drained: int
    """Newest generation for which no call was in flight on a release that it does not name."""
    held: tuple[ReleaseId, ...] = ()
    """Releases that some caller's round began with, whatever the routes say."""
    paused: bool = False
    leaving: bool = False
    """It takes no new connections."""


class Desk:
    """Writes one worker's file."""

    EVERY_S = 1.0

    def __init__(self, folder: Path, *, parent: int) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._last = Ack(pid=os.getpid(), begun=begun(os.getpid()) or 0, parent=parent, beat=0.0, routes=0, drained=0)

    def say(
        self, table: RouteTable | None, in_flight: Mapping[ReleaseId, int], held: Iterable[ReleaseId] = (), *,
        paused: bool, leaving: bool = False,
    ) -> None:  # fmt: skip
        """Write what is so now, if it is news or the last word is a second old. Raises OSError on a full disk."""
        last, now = self._last, time.monotonic()
        routes = table.generation if table is not None else 0
        drained = routes if table is not None and is_drained(table, in_flight) else last.drained
        said = msgspec.structs.replace(
            last, routes=routes, drained=drained, held=tuple(sorted(held)), paused=paused, leaving=leaving
        )
        if said == last and now - last.beat < self.EVERY_S:
            return
        said = msgspec.structs.replace(said, beat=now)
        replace_file(self._path, msgspec.json.encode(said))
        self._last = said

    def close(self) -> None:
        """This worker is done."""
        self._path.unlink(missing_ok=True)


def is_drained(table: RouteTable, in_flight: Mapping[ReleaseId, int]) -> bool:
    """Whether every call in flight is on a release that `table` names."""
    return all(not calls or release in table.releases() for release, calls in in_flight.items())


def folder_of(run: Path) -> Path:
    """Where the workers of a gateway with this run folder write."""
    return run / "workers"


def living(folder: Path) -> list[Ack]:
    """What every live worker last said; files of dead ones are removed."""
    found = []
    for ack in _read(folder):
        if alive(ack):
            found.append(ack)
        else:
            with contextlib.suppress(OSError):
                (folder / f"{ack.pid}.json").unlink()
    return found


def _read(folder: Path) -> Iterator[Ack]:
    for path in sorted(folder.glob("[0-9]*.json")):
        with contextlib.suppress(OSError, ValueError):  # just removed, or another version's
            yield msgspec.json.decode(path.read_bytes(), type=Ack)


def recent(folder: Path, now: float | None = None) -> list[Ack]:
    """What every worker said that has said something within `SILENT_S` seconds. `now` is monotonic seconds.

    For a reader that may not see the workers' processes, such as one in another container.
    """
    said = list(_read(folder))
    now = time.monotonic() if now is None else now  # after reading: a beat from the future is from before a reboot
    return [ack for ack in said if 0 <= now - ack.beat < SILENT_S]


def held_by(acks: Iterable[Ack]) -> set[ReleaseId]:
    """Releases that some caller's round began with, and that must stay loaded until it is over."""
    return {release for ack in acks for release in ack.held}


def alive(ack: Ack) -> bool:
    """Whether that very process is still there."""
    return begun(ack.pid) == ack.begun


def begun(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None when there is none of that pid, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *rest = stat.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else int(rest[18])
