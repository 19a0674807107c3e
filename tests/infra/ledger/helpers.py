"""Releases and reports for tests, with made-up hashes."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from infra.ledger import Ledger, Outcome, ReleaseEntry
from serving.types import ReleaseId, Sha256, SlotName

GOOD: dict[str, Outcome] = {
    "integrity": "pass", "parity": "skipped", "load": "pass", "validity": "pass", "latency": "pass", "score": "pass",
    "worth": "skipped",
}  # fmt: skip
FIRST: dict[str, Outcome] = {**GOOD, "score": "skipped"}


def sha(name: str) -> Sha256:
    return Sha256(hashlib.sha256(name.encode()).hexdigest())


def add(ledger: Ledger, name: str, slot: str = "synth-high", **more: Any) -> ReleaseEntry:
    """A release whose hash is made from its name."""
    digest = sha(f"{slot} {name}")
    return ledger.record_release(
        sha256=digest, id=ReleaseId(f"{slot}-{digest[:12]}"), slot=SlotName(slot), family="synth_paths",
        data_digest=sha("data"), actor="test", **more,
    )  # fmt: skip


def report(
    ledger: Ledger,
    entry: ReleaseEntry,
    champion: ReleaseEntry | None,
    verdict: Literal["pass", "fail", "inconclusive"] | None = None,
    checks: dict[str, Outcome] | None = None,
) -> None:
    """A gate report: by default the one that lets the release on."""
    if verdict is None:
        verdict = "inconclusive" if champion is None else "pass"
    if checks is None:
        checks = FIRST if champion is None else GOOD
    ledger.record_gate(
        release_sha256=entry.sha256, champion_sha256=champion.sha256 if champion else None, verdict=verdict,
        checks=checks, report={"verdict": verdict}, actor="test",
    )  # fmt: skip
