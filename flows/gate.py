"""The gate: may a release go live? Checks in order, each with its evidence, and one verdict over all.

integrity, parity, load, validity, latency, score, worth. Candidate and champion answer the same held-out requests in a
throw-away Triton; the subnet's own formula scores them. The report goes to MLflow first and to the ledger last, so
a gate that was cut short has left no report and is simply run again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from flows import checks, contest, plots
from flows.contest import ScoreReport
from flows.progress import Progress, quiet
from flows.replays import Asked, Replay, ask, make_replays, simulated_replays
from flows.split import Split, make_split, when
from flows.steps import Steps, in_turn
from flows.trial import Trial
from flows.verdicts import NAMES, Check, skipped, summary, whole
from infra.ledger import Ledger, LedgerError, ReleaseEntry, open_ledger
from infra.ledger.entries import Verdict
from infra.objects import object_store
from infra.prices import PriceStore, price_store
from infra.settings import Settings
from infra.tracking import Tracker, tracker
from infra.triton import throwaway
from serving.subnets.synth.rules import ASSETS

SIMULATED_STARTS = 4
"""Replays of each asset that has simulated prices only."""
PARITY = "the release runs the trained model's own code; there is no exported graph to compare it with"
WORTH = "rank and price of the subnet are not known here yet"


class GateResult(msgspec.Struct, frozen=True):
    """What the gate said of a release, and on what."""

    slot: str
    release: str
    champion: str | None
    verdict: Verdict
    summary: str
    checks: list[Check]
    score: ScoreReport | None
    split: dict[str, Any]
    seconds: float
    number: int = 0
    """Of the report in the ledger."""
    run_id: str | None = None
    plot: bytes = b""

    def as_dict(self) -> dict[str, Any]:
        """The report, JSON-able."""
        return {
            "slot": self.slot, "release": self.release, "champion": self.champion, "verdict": self.verdict,
            "summary": self.summary, "checks": [check.as_dict() for check in self.checks],
            "score": msgspec.to_builtins(self.score), "split": self.split, "seconds": round(self.seconds, 2),
        }  # fmt: skip


def gate(
    settings: Settings,
    slot: str,
    release: str | None = None,
    *,
    limit: int | None = None,
    actor: str = "gate",
    steps: Steps = in_turn,
    progress: Progress = quiet,
) -> GateResult:
    """Put a release (by default the slot's newest without a report) through every check, and store the report.

    All held-out starts are replayed, or `limit` of them, spread evenly. Raises LedgerError with exit code 3 when no
    release waits for its gate, and the part's own error when S3, MLflow or the throw-away Triton does not work: then
    there is no report.
    """
    began = time.perf_counter()
    with closing(open_ledger(settings)) as ledger:
        candidate = _candidate(ledger, slot, release)
        stable = ledger.slot(slot).stable
        champion = ledger.release(stable) if stable is not None else None
        following = steps("reach MLflow", lambda: tracker(settings), retries=2)
        store = price_store(settings)
        split = make_split(store, slot)
        replays = steps("replay held-out requests", lambda: make_replays(store, split, limit=limit))
        with _workspace(settings, slot) as folder:
            work = _Work(settings, candidate, champion, store, split, replays, folder, steps, progress)
            found, score = work.run()
        result = GateResult(
            slot, candidate.id, champion.id if champion else None, whole(found), summary(found), found, score,
            describe(split, replays), time.perf_counter() - began, plot=_plot(slot, candidate, champion, score),
        )  # fmt: skip
        run_id = steps("log to MLflow", lambda: _log(following, candidate, result), retries=2)
        entry = steps("write to the ledger", lambda: _record(ledger, candidate, champion, result, actor))
        return msgspec.structs.replace(result, number=entry, run_id=run_id)


def describe(split: Split, replays: Sequence[Replay]) -> dict[str, Any]:
    """The split in numbers, for a report."""
    return {
        "train_sessions": len(split.train), "held_out_sessions": len(split.held_out), "cut": split.cut,
        "cut_utc": when(split.cut), "first_start_utc": when(replays[0].start) if replays else None,
        "last_start_utc": when(replays[-1].start) if replays else None, "assets": list(split.assets),
        "known_before_start_s": split.grid.lag,
    }  # fmt: skip


@dataclass(frozen=True)
class _Work:
    """The checks of one gate, in order; what cannot be made any more is skipped, with the reason."""

    settings: Settings
    candidate: ReleaseEntry
    champion: ReleaseEntry | None
    store: PriceStore
    split: Split
    replays: Sequence[Replay]
    folder: Path
    steps: Steps
    progress: Progress
    done: list[Check] = field(default_factory=list)

    def run(self) -> tuple[list[Check], ScoreReport | None]:
        """Every check of `NAMES`, and the score's evidence when it came to that."""
        score = self._run()
        made = {check.name: check for check in self.done}
        cause = next((c.name for c in self.done if c.verdict in {"fail", "inconclusive"}), None)
        missing = f"not reached, because of {cause}" if cause else "not reached"
        return [made.get(name) or skipped(name, missing) for name in NAMES], score

    def _run(self) -> ScoreReport | None:
        self.done.extend([skipped("parity", PARITY), skipped("worth", WORTH)])
        models = self.folder / "models"
        check, bundles = self.steps(
            "integrity",
            lambda: checks.integrity(
                object_store(self.settings), self.candidate, self.champion, models, self.settings.paths.models
            ),
            retries=1,
        )
        self.done.append(check)
        if bundles is None:
            return None
        with throwaway(self.settings.venv_triton, models, self.folder / "triton") as triton:
            check, warmed = self.steps("load and warm-up", lambda: checks.load(triton, bundles))
            self.done.append(check)
            if warmed is None:
                return None
            trial = Trial(triton, checks.DEADLINE_S)
            asked = requests(self.store, self.split, self.replays)
            valid = self.steps("validity", lambda: checks.validity(trial, self.candidate.id, asked, self.progress))
            self.done.extend([valid, self.steps("latency", lambda: checks.latency(warmed))])
            return self._score(trial)

    def _score(self, trial: Trial) -> ScoreReport | None:
        champion = self.champion
        if champion is None:
            self.done.append(skipped("score", "the slot's first release: there is no champion to be better than"))
            return None
        held = self.steps(
            "score", lambda: contest.hold(trial, self.candidate.id, champion.id, self.replays, self.progress)
        )
        check, report = contest.judge(self.split.slot, held, self._simulated(trial, champion))
        self.done.append(check)
        return report

    def _simulated(self, trial: Trial, champion: ReleaseEntry) -> contest.Contest | None:
        replays = simulated_replays(self.store, self.split, a_asset=SIMULATED_STARTS)
        if not replays:
            return None
        return self.steps(
            "score on simulated prices",
            lambda: contest.hold(
                trial, self.candidate.id, champion.id, replays, self.progress, field=(), what="simulated replay"
            ),
        )


def requests(store: PriceStore, split: Split, replays: Sequence[Replay]) -> list[Asked]:
    """Requests on every asset of the subnet at the first and the last held-out start."""
    starts = sorted({replay.start for replay in replays})
    asked = []
    for start in dict.fromkeys(starts[:1] + starts[-1:]):
        book = store.book(start - split.grid.lag, list(ASSETS))
        asked += [ask(split.slot, asset, start, book) for asset in ASSETS if asset in book.assets]
    return asked


@contextmanager
def _workspace(settings: Settings, slot: str) -> Iterator[Path]:
    """A folder below home, gone afterwards; one that a killed gate left is removed by the next."""
    root = settings.paths.run / "gate"
    for left in root.glob(f"{slot}.*"):
        if not Path(f"/proc/{left.suffix[1:]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{slot}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _candidate(ledger: Ledger, slot: str, name: str | None) -> ReleaseEntry:
    if name is not None:
        entry = ledger.release(name)
        if entry.slot != slot:
            raise LedgerError(f"{entry.id} is a release of slot {entry.slot}, not of {slot}", exit_code=2)
        return entry
    newest = ledger.newest_ungated(slot)
    if newest is None:
        raise LedgerError(
            f"slot {slot} has no release that waits for its gate; train one, or name one with --release", exit_code=3
        )
    return newest


def _record(
    ledger: Ledger, candidate: ReleaseEntry, champion: ReleaseEntry | None, result: GateResult, actor: str
) -> int:
    entry = ledger.record_gate(
        release_sha256=candidate.sha256,
        champion_sha256=champion.sha256 if champion else None,
        verdict=result.verdict,
        checks={check.name: check.verdict for check in result.checks},
        report=result.as_dict(),
        actor=actor,
    )
    return entry.number


def _log(following: Tracker, candidate: ReleaseEntry, result: GateResult) -> str:
    """Add the report to the run that trained the release; one that came from elsewhere gets a run of its own."""
    from infra.tracking import RELEASE_TAG, SHA_TAG

    slot, score = result.slot, result.score
    run_id = following.find_run(slot, candidate.sha256)
    tags = {SHA_TAG: candidate.sha256, RELEASE_TAG: candidate.id, "headframe.kind": "gate"}
    with following.run(slot, f"gate {candidate.id}", tags, run_id=run_id) as run:
        run.tags({"headframe.gate": result.verdict, "headframe.gate.champion": str(result.champion)})
        run.document("gate/report.json", result.as_dict())
        if score is not None:
            figures = {"candidate": score.candidate, "champion": score.champion, "change_pct": score.change_pct}
            figures |= {"ci95_low": score.ci95[0], "ci95_high": score.ci95[1], "replays": score.replays}
            run.metrics({f"gate.{name}": float(value) for name, value in figures.items() if value is not None})
        if result.plot:
            run.image("gate/score.png", result.plot)
        return run.id


def _plot(slot: str, candidate: ReleaseEntry, champion: ReleaseEntry | None, score: ScoreReport | None) -> bytes:
    if score is None or score.change_pct is None or champion is None:
        return b""
    rows = [(str(candidate.id), score.change_pct, *score.ci95)]
    rows += [(b.name, b.change_pct, *b.ci95) for b in score.baselines if b.change_pct is not None]
    title = f"{slot}: {score.replays} replays, {score.disjoint} disjoint, {score.terms} of {score.terms_full} terms"
    return plots.standings(f"{title}, champion {champion.id}", rows)
