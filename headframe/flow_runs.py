"""The flows as the verbs run them: under the stack's Prefect when it answers, as plain functions otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.runner import run

if TYPE_CHECKING:
    from flows.gate import GateResult
    from flows.ingest import IngestReport
    from flows.outcomes import OutcomesReport
    from flows.retrain import RetrainResult
    from infra.settings import Settings
    from triton_models.synth_paths.train import Model

REFERENCE: Model = "gaussian"
"""The reference miner's own model: what a slot starts with where nothing better has been shown."""


@dataclass(frozen=True)
class FlowRuns:
    """Flow runs in the name of `actor`."""

    settings: Settings
    actor: str

    def ingest(self) -> IngestReport:
        """Ask every price source."""
        from flows.ingest import ingest

        return run(self.settings, "ingest", lambda: ingest(self.settings), {})

    def retrain(self, slot: str, model: Model) -> RetrainResult:
        """Train a release."""
        from flows.retrain import retrain

        said = {"slot": slot, "model": model, "actor": self.actor}
        return run(self.settings, "retrain", lambda: retrain(self.settings, slot, model, actor=self.actor), said)

    def gate(self, slot: str, release: str | None = None) -> GateResult:
        """Put a release, by default the newest without a report, through the gate."""
        from flows.gate import gate

        said = {"slot": slot, "release": release, "actor": self.actor}
        return run(self.settings, "gate", lambda: gate(self.settings, slot, release, actor=self.actor), said)

    def outcomes(self) -> OutcomesReport:
        """Score what has come true."""
        from flows.outcomes import outcomes

        return run(self.settings, "outcomes", lambda: outcomes(self.settings), {})

    def adopt_reference(self, slot: str) -> str:
        """Train the reference miner's model, gate it, and adopt it as the slot's first release; its id."""
        from flows import rollout

        made = self.retrain(slot, REFERENCE)
        self.gate(slot, made.release)
        rollout.adopt(self.settings, slot, made.release, actor=self.actor)
        return made.release


def empty_slots(settings: Settings) -> list[str]:
    """Configured slots that no release is stable in, and for which a model can be trained here.

    The others (It's AI's, Poker44's) refuse every request until somebody publishes a release for them.
    """
    from flows.split import GRIDS
    from infra.ledger import open_ledger

    with closing(open_ledger(settings)) as ledger:
        return [slot for slot in settings.all_slots if slot in GRIDS and ledger.slot(slot).stable is None]


def fill_empty_slots(settings: Settings, told: Callable[[str], None]) -> list[str]:
    """Give every empty slot the reference miner's model; the slots that got one. For profile ``local`` only:
    elsewhere a first release is a person's decision.
    """
    empty = empty_slots(settings)
    if not empty:
        return []
    flows = FlowRuns(settings, "first start")
    told("ingesting prices")
    flows.ingest()
    for slot in empty:
        told(f"{slot}: the reference miner's model")
        flows.adopt_reference(slot)
    return empty
