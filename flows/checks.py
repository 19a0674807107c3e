"""The gate's checks besides the score: integrity, load, validity, latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.progress import Progress
from flows.replays import Asked
from flows.split import when
from flows.trial import Trial, side_by_side
from flows.verdicts import Check
from infra.ledger import ReleaseEntry
from infra.objects import ObjectStore
from infra.releases import Release, ReleaseError, fetch, signature_difference, verify
from infra.triton import Triton, TritonError, WarmReport, warm

ANSWERING = ("1/params.json", "1/model.py")
"""The files that decide what a release answers."""
DEADLINE_S = 60.0
"""The least time that a validator leaves for an answer."""
BUDGET_S = 15.0
"""What the model may take of it at any batch size; the rest is for the queue, the encoding and the network."""


@dataclass(frozen=True)
class Bundles:
    """The candidate and the champion on local disk, below the throw-away Triton's model folder."""

    candidate: Release
    champion: Release | None


def integrity(
    objects: ObjectStore, candidate: ReleaseEntry, champion: ReleaseEntry | None, models: Path, local: Path
) -> tuple[Check, Bundles | None]:
    """Fetch both releases and hash every file; the candidate must differ from the champion in what decides answers.

    A copy of the candidate in `local`, the live model folder, is hashed too. A store that is down raises.
    """
    try:
        if (local / candidate.id).is_dir():
            verify(local / candidate.id)
        ours = fetch(objects, candidate.id, models, sha256=candidate.sha256)
    except ReleaseError as error:
        return Check("integrity", "fail", str(error)), None
    evidence: dict[str, Any] = {"sha256": ours.sha256, "files": len(ours.manifest.files) + 1}
    if champion is None:
        reason = "every file has its hash; there is no champion to differ from"
        return Check("integrity", "pass", reason, evidence), Bundles(ours, None)
    try:
        theirs = fetch(objects, champion.id, models, sha256=champion.sha256)
    except ReleaseError as error:
        return Check("integrity", "inconclusive", f"the champion cannot be compared with: {error}", evidence), None
    evidence["champion_sha256"] = theirs.sha256
    fault = _too_alike(ours, theirs) or signature_difference(ours.manifest.signature, theirs.manifest.signature)
    if fault is not None:
        return Check("integrity", "fail", fault, evidence), None
    reason = "every file has its hash, and the candidate differs from the champion"
    return Check("integrity", "pass", reason, evidence), Bundles(ours, theirs)


def _too_alike(ours: Release, theirs: Release) -> str | None:
    """A comparison of a release with itself says nothing, under another name too."""
    if ours.sha256 == theirs.sha256:
        return f"{ours.id} is the champion itself"
    if all(ours.manifest.files.get(name) == theirs.manifest.files.get(name) for name in ANSWERING):
        return f"the candidate has the champion's own {' and '.join(ANSWERING)}: both would answer the same"
    return None


def load(triton: Triton, bundles: Bundles) -> tuple[Check, WarmReport | None]:
    """Load both, and warm the candidate at every batch size, its answers compared with those given alone."""
    began = time.perf_counter()
    try:
        triton.load(bundles.candidate.id)
        loaded = time.perf_counter() - began
        report = warm(triton, bundles.candidate, rounds=1)
    except TritonError as error:
        if not triton.ready():
            raise
        return Check("load", "fail", str(error)), None
    try:
        if bundles.champion is not None:
            triton.load(bundles.champion.id)
    except TritonError as error:
        return Check("load", "inconclusive", f"the champion does not load: {error}"), None
    evidence = {"load_s": round(loaded, 2), "first_ms": report.first_ms, "requests": report.requests}
    reason = f"loaded in {loaded:.1f} s and warm at batch sizes 1 to {report.batches[-1].size}"
    return Check("load", "pass", reason, evidence), report


def validity(trial: Trial, release_id: str, requests: Sequence[Asked], progress: Progress) -> Check:
    """The validator's own rules on answers to replayed requests, and the same answer when asked again."""
    if not requests:
        return Check("validity", "inconclusive", "no request could be replayed")
    answers = side_by_side(lambda asked: trial.answer(release_id, asked), requests, "validity", progress)
    faults = [(asked, a.fault) for asked, a in zip(requests, answers, strict=True) if a.fault is not None]
    assets = sorted({asked.asset for asked in requests})
    evidence = {"answers": len(answers), "assets": assets, "invalid": len(faults)}
    if faults:
        asked, fault = faults[0]
        reason = f"{len(faults)} of {len(answers)} answers are void; {asked.asset} at {when(asked.start)}: {fault}"
        return Check("validity", "fail", reason, evidence)
    again = trial.answer(release_id, requests[0])
    if again.fault is not None or again.paths.tobytes() != answers[0].paths.tobytes():
        return Check("validity", "fail", "the same request got two different answers", evidence)
    return Check("validity", "pass", f"{len(answers)} answers on {len(assets)} assets are valid", evidence)


def latency(report: WarmReport) -> Check:
    """The slowest request at every batch size, the first after the load too, against the budget."""
    by_size = {str(batch.size): round(max(batch.first_ms, batch.ms), 1) for batch in report.batches}
    worst = max([report.first_ms, *by_size.values()]) / 1000.0
    evidence = {"deadline_s": DEADLINE_S, "budget_s": BUDGET_S, "batch_ms": by_size, "first_ms": report.first_ms}
    told = f"worst {worst:.2f} s at batch sizes 1 to {report.batches[-1].size}, budget {BUDGET_S:.0f} s"
    said = f"{told} of a deadline of {DEADLINE_S:.0f} s"
    return Check("latency", "pass" if worst <= BUDGET_S else "fail", said, evidence)
