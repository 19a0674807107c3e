"""A slot with a live release, as the ledger has it: what most flows start from."""

from __future__ import annotations

from contextlib import closing

from infra.ledger import moves, open_ledger
from infra.ledger.entries import Outcome
from infra.settings import Settings
from serving.types import ReleaseId, Sha256


def reference_is_live(settings: Settings, slot: str) -> ReleaseId:
    """Train the reference miner on the packaged bars and write it into the ledger as the slot's stable.

    Nothing is loaded into a Triton: the gate does not ask for that.
    """
    from flows.ingest import ingest
    from flows.retrain import retrain

    ingest(settings)
    made = retrain(settings, slot, model="gaussian")
    sha256, release = Sha256(made.sha256), ReleaseId(made.release)
    passed: dict[str, Outcome] = dict.fromkeys(("integrity", "load", "validity", "latency"), "pass")
    with closing(open_ledger(settings)) as ledger:
        ledger.record_gate(
            release_sha256=sha256, champion_sha256=None, verdict="inconclusive", checks=passed, report={}, actor="test"
        )
        ledger.move(slot, moves.adopt(release), kind="adopt", release=release, actor="test", reason="test")
    return release
