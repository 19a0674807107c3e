"""Route flips through the real machinery: a rollout by its ticks one time, a rollback the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing

from flows import rollout
from flows.guards import Pace
from flows.retrain import retrain
from infra.ledger import open_ledger
from infra.ledger.entries import Outcome
from infra.settings import Settings

ACTOR = "soak"
PACE = Pace(shadow_answers=2, canary_answers=1, canary_bp=5_000)
"""A stage a second or two: it is the flip that is tried here, not the candidate."""
CHECKS: Mapping[str, Outcome] = dict.fromkeys(("integrity", "load", "validity", "latency", "score"), "pass")
_TICK_S = 0.3


def second_release(settings: Settings, slot: str) -> str:
    """Train and publish a release that differs from stable by one percent of sigma, with leave to go live; its id.

    The leave is a gate report in the soak's own ledger that says so itself: no gate would tell the two apart.
    """
    made = retrain(settings, slot, "gaussian", 1.01, actor=ACTOR)
    with closing(open_ledger(settings)) as ledger:
        stable = ledger.slot(slot).stable
        ledger.record_gate(
            release_sha256=ledger.release(made.release).sha256,
            champion_sha256=ledger.release(str(stable)).sha256,
            verdict="pass", checks=CHECKS, actor=ACTOR,
            report={"note": "made by the soak for its own flips; nothing was measured"},
        )  # fmt: skip
    return made.release


class Flips(threading.Thread):
    """Flips every slot each `every_s` seconds until stopped: to its second release, and back."""

    def __init__(self, settings: Settings, seconds: Mapping[str, str], every_s: float) -> None:
        """`seconds`: the second release of each slot."""
        super().__init__(name="flips", daemon=True)
        self.done = 0
        """Flips of stable, all slots together."""
        self.took: list[float] = []
        """Seconds of each rollback, from the call to its routes on disk."""
        self.problems: list[str] = []
        self._settings, self._seconds, self._every_s = settings, seconds, every_s
        self._enough = threading.Event()

    def run(self) -> None:
        """Never overtakes itself: after a rollout that takes longer than a turn the next flip follows at once."""
        forward, due = True, time.monotonic() + self._every_s
        while not self._enough.wait(max(0.0, due - time.monotonic())):
            due += self._every_s
            for slot, release in self._seconds.items():
                try:
                    self._forward(slot, release) if forward else self._back(slot)
                except Exception as error:  # told at the end, and the soak goes on
                    self.problems.append(f"{slot}: {type(error).__name__}: {error}")
            forward = not forward

    def stop(self) -> None:
        """Return when no flip is under way."""
        self._enough.set()
        self.join()

    def _forward(self, slot: str, release: str) -> None:
        rollout.start(self._settings, slot, release, actor=ACTOR, again=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            done = rollout.tick(self._settings, slot, pace=PACE, actor=ACTOR)
            if done.after == "settled":
                if done.stable != release:
                    raise RuntimeError(f"the rollout ended with {done.stable}: {done.reason}")
                self.done += 1
                return
            time.sleep(_TICK_S)
        rollout.abort(self._settings, slot, actor=ACTOR, reason="too slow")
        raise RuntimeError("the rollout was not through after 60 s")

    def _back(self, slot: str) -> None:
        began = time.monotonic()
        rollout.rollback(self._settings, slot, actor=ACTOR, reason="the soak's turn")
        self.took.append(time.monotonic() - began)
        self.done += 1
