"""What the ledger hands out: frozen values, free of any database session."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serving.types import ReleaseId, Sha256, SlotName

Verdict = Literal["pass", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive", "skipped"]
"""What one check of the gate says."""
Stage = Literal["empty", "settled", "starting", "shadow", "canary"]
"""Where a slot's rollout stands: ``empty`` has no stable yet, ``settled`` has no rollout under way, ``starting``
is the written intent to load a candidate."""
Kind = Literal["adopt", "start", "shadow", "canary", "promote", "abort", "rollback"]


class ReleaseEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One release, as it was published."""

    sha256: Sha256
    """Of the manifest."""
    id: ReleaseId
    slot: SlotName
    family: str
    data_digest: str
    mlflow_run_id: str | None
    rebuild: dict[str, Any]
    actor: str
    at: float
    """Unix s, UTC."""


class GateEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One report of the gate on one release, against the champion of that moment."""

    number: int
    release_sha256: Sha256
    champion_sha256: Sha256 | None
    verdict: Verdict
    checks: dict[str, Outcome]
    report: dict[str, Any]
    report_sha256: Sha256
    actor: str
    at: float


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """Which releases of a slot are live, and how far a rollout got."""

    slot: SlotName
    stage: Stage = "empty"
    stable: ReleaseId | None = None
    candidate: ReleaseId | None = None
    """The release a rollout is about, from ``starting`` to ``canary``."""
    fallback: ReleaseId | None = None
    """The previous stable, kept loaded: rollback's target."""
    canary_bp: int = 0
    """Basis points of the traffic that the candidate answers."""
    since: float = 0.0
    """When this stage began, unix s."""
    generation: int = 0
    """Counts the changes of this slot."""
    token: int = 0
    """The fencing token: whoever takes the slot raises it, and every older holder is refused."""
    holder: str = ""
    """Who took the slot last."""

    @property
    def live(self) -> frozenset[ReleaseId]:
        """Every release that Triton must hold for this slot."""
        loading = self.candidate if self.stage in {"shadow", "canary"} else None
        return frozenset(r for r in (self.stable, loading, self.fallback) if r is not None)


class TransitionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a slot. Appended with the change itself, never altered."""

    number: int
    slot: SlotName
    kind: Kind
    before: Stage
    after: Stage
    release: ReleaseId
    """The release that the change is about."""
    stable: ReleaseId | None
    """Who is stable from here on."""
    actor: str
    reason: str
    token: int
    at: float
