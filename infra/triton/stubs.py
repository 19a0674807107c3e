"""The worker processes (stubs) of Triton's Python backend: a dead one is missed, and its release loaded anew.

Triton 2.51 does not start a killed stub again, and goes on calling the release ready: every request that meets the
dead instance fails after a second, for good.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from infra.triton.client import Triton
from serving.types import ReleaseId

LINGER = 60.0
"""Seconds after a reload in which a stub of the old instances may still be answering; Triton forgets some of them."""


class Stubs:
    """Watches the stubs of the releases of one Triton on this box.

    Args:
        models: Triton's model repository.
        processes: Triton's processes as they are now; called only when something has changed.
    """

    def __init__(self, models: Path, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        self._models, self._processes = models, processes
        self._watched: dict[ReleaseId, list[psutil.Process]] = {}
        self._old: dict[psutil.Process, float] = {}

    def lost(self) -> tuple[int, ...]:
        """Watched stubs that are dead: a few system calls."""
        return tuple(p.pid for stubs in self._watched.values() for p in stubs if not _alive(p))

    def tend(self, triton: Triton, releases: Iterable[ReleaseId]) -> list[ReleaseId]:
        """Load those of the ready `releases` anew that lost a stub, and say which; raises TritonError.

        Instances that live answer on while the new ones start.
        """
        releases = list(releases)
        self._watched = {release: stubs for release, stubs in self._watched.items() if release in releases}
        self._end_old_ones()
        return [release for release in releases if self._tend(triton, release)]

    def _tend(self, triton: Triton, release: ReleaseId) -> bool:
        watched = self._watched.get(release)
        if watched is not None and all(_alive(stub) for stub in watched):
            return False
        model = self._models / release / "1" / "model.py"
        if not model.exists():  # another backend, without stubs
            self._watched[release] = []
            return False
        found, wanted = self._stubs(release), triton.instances(release)
        fresh = [stub for stub in found if stub not in (watched or ())]
        if len(fresh) >= wanted:  # first seen, or somebody else loaded it anew
            self._watched[release] = fresh
            return False
        os.utime(model)  # Triton reloads only what looks newer
        triton.load(release)
        self._old |= dict.fromkeys(found, time.monotonic() + LINGER)
        self._watched[release] = self._stubs(release)
        return True

    def _stubs(self, release: ReleaseId) -> list[psutil.Process]:
        place = str(self._models / release) + os.sep
        found = []
        for process in self._processes():
            try:
                if process not in self._old and any(word.startswith(place) for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _end_old_ones(self) -> None:
        for stub, due in list(self._old.items()):
            if not _alive(stub) or time.monotonic() >= due:
                if _alive(stub):
                    stub.kill()
                del self._old[stub]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
