"""Unloads what nothing needs any more: releases that left the routes, once no worker can have a call on them.

What stays: everything the routes name, the previous stable among it, so that a rollback loads nothing; the candidate
of a rollout from its start on; and what some caller's round began with, where a subnet compares answers. Anything else
that Triton holds for one of the ledger's slots goes when it was not needed for `KEEP_S` seconds and every worker says
that it drained the routes now in force.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path

import structlog

from infra.ports import endpoints, need
from infra.settings import Settings
from infra.sidecar import Duty
from infra.triton import Triton
from serving.types import ReleaseId
from serving.workers.acks import Ack, folder_of, held_by, recent

log = structlog.get_logger()
KEEP_S = 200.0
"""Longer than any route's deadline, for callers' sake where no worker is heard; and time for a first one's adoption."""
EVERY_S = 5.0


def unloading(settings: Settings) -> Duty:
    """The sidecar's duty."""
    return Duty("unloading", Unloader(settings).run, lambda: EVERY_S, longest_pause=60.0)


class Unloader:
    """Remembers since when each loaded release was not needed; a new one remembers nothing, and waits anew."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._now = now
        self._since: dict[str, float] = {}

    def run(self) -> None:
        """Look once, and unload what is due. Raises UserError when the ledger or Triton does not answer."""
        needed, slots, generation = self._needed()
        with closing(Triton(need(endpoints(self._settings).triton_grpc, "Triton"))) as triton:
            for release in self.due(triton.loaded(), needed, slots, generation, recent(self._folder)):
                triton.unload(release)
                log.info("release unloaded", release=release, generation=generation)

    def due(
        self, loaded: Iterable[str], needed: set[ReleaseId], slots: set[str], generation: int, acks: Sequence[Ack]
    ) -> list[str]:
        """Which of the loaded releases may go now; `generation` is that of the routes in which `needed` stands."""
        now = self._now()
        idle = {name for name in loaded if name.rpartition("-")[0] in slots} - needed - held_by(acks)
        self._since = {name: self._since.get(name, now) for name in idle}
        if any(ack.drained < generation for ack in acks):
            return []
        return sorted(name for name, since in self._since.items() if now - since >= KEEP_S)

    @property
    def _folder(self) -> Path:
        return folder_of(self._settings.paths.run)

    def _needed(self) -> tuple[set[ReleaseId], set[str], int]:
        """Releases that must stay, the slots that they are for, and the generation of the routes that say so."""
        from infra.ledger import open_ledger

        with closing(open_ledger(self._settings)) as ledger:
            table = ledger.route_table()
            candidates = {ledger.slot(slot).candidate for slot in table.slots}
        needed = {*table.releases(), *(name for name in candidates if name is not None)}
        return needed, {str(slot) for slot in table.slots}, table.generation
