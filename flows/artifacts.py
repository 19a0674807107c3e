"""What a person reads in the Prefect page: one markdown document a flow, with its table and its plot."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from flows.contest import ScoreReport
from flows.gate import GateResult
from flows.ingest import IngestReport
from flows.outcomes import OutcomesReport
from flows.retrain import RetrainResult
from flows.rollout import Tick

MARKS = {"pass": "✓ pass", "fail": "✗ fail", "inconclusive": "? inconclusive", "skipped": "– skipped"}


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; a bar in a cell would end it, so it is escaped."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs no server."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def picture(name: str, png: bytes) -> str:
    """A PNG inside markdown."""
    return f"![{name}]({data_uri(png)})" if png else ""


def of_ingest(report: IngestReport) -> str:
    """What is stored, and what each source gave."""
    series = [
        [s.asset, s.source, s.step, s.rows, _kind(s.simulated, s.proxy), s.sha256[:12], "; ".join(s.notes)]
        for s in report.series
    ]
    sources = [
        [s.source, s.series, s.rows_new, s.rows_changed, "yes" if s.failed else "no", "; ".join(s.notes[:3])]
        for s in report.sources
    ]
    return "\n\n".join(
        (
            "# Ingest",
            table(("source", "series", "new rows", "changed", "trouble", "notes"), sources),
            table(("asset", "source", "step, s", "rows", "prices", "sha256", "notes"), series),
        )
    )


def of_retrain(result: RetrainResult) -> str:
    """The release, its inner validation, and its plots."""
    inner = result.inner
    facts = [
        ("release", result.release), ("model", f"{result.model}, sigma x {result.sigma_scale:g}"),
        ("trained on what was known before", f"{result.cut_utc} UTC"), ("data digest", result.data_digest[:16]),
        ("MLflow run", f"[{result.run_id[:12]}]({result.run_url})"), ("seconds", f"{result.seconds:.1f}"),
        ("known before", "yes" if result.existing else "no"),
    ]  # fmt: skip
    scores = [(name.removeprefix("inner.crps."), f"{value:.2f}") for name, value in inner.items() if "crps." in name]
    validation = (
        f"Inner validation on {inner.get('inner.replays', 0):.0f} replays of training sessions: "
        f"{inner.get('inner.crps', 0):.2f} against {inner.get('inner.reference', 0):.2f} of the reference miner "
        f"({inner.get('inner.change_pct', 0):+.2f} %). The held-out sessions were not looked at."
    )
    notes = [(asset, note) for asset, note in sorted(result.notes.items())]
    return "\n\n".join(
        (
            f"# Retrain {result.slot}",
            table(("", ""), facts),
            validation,
            table(("asset and interval", "mean CRPS, bp"), scores),
            *(picture(name, png) for name, png in result.plots.items()),
            table(("asset", "where its numbers come from"), notes),
        )
    )


def of_gate(result: GateResult) -> str:
    """The verdict, every check, the standings and the slices."""
    checks = [(check.name, MARKS[check.verdict], check.reason) for check in result.checks]
    parts = [
        f"# Gate {result.slot}: {result.verdict}",
        f"Candidate `{result.release}` against champion `{result.champion or 'none'}`. {result.summary}.",
        table(("check", "verdict", "reason"), checks),
    ]
    if result.score is not None:
        parts += [picture("score", result.plot), _standings(result, result.score)]
    return "\n\n".join(parts)


def _standings(result: GateResult, score: ScoreReport) -> str:
    rows = [(result.release, _number(score.candidate), _percent(score.change_pct), _interval(score.ci95))]
    rows += [(b.name, _number(b.score), _percent(b.change_pct), _interval(b.ci95)) for b in score.baselines]
    rows += [(f"{result.champion} (champion)", _number(score.champion), "0", "")]
    slices = [
        (s.name, s.replays, s.disjoint, _number(s.candidate), _number(s.champion), _percent(s.change_pct),
         _interval(s.ci95))
        for s in score.slices
    ]  # fmt: skip
    return "\n\n".join(
        (
            table(("who", "mean CRPS, bp", "change", "95 % interval"), rows),
            f"{score.replays} replays, {score.disjoint} disjoint windows, {score.terms} of {score.terms_full} terms, "
            f"{score.paths} paths, blocks of {score.block} starts.",
            table(("slice", "replays", "disjoint", "candidate", "champion", "change", "95 % interval"), slices),
        )
    )


def of_tick(tick: Tick) -> str:
    """What a tick of the rollout did, and on what."""
    facts: list[tuple[str, Any]] = [
        ("stage", f"{tick.before} → {tick.after}" if tick.moved else tick.after), ("candidate", tick.release or "none"),
        ("stable", tick.stable or "none"), ("why", tick.reason),
    ]  # fmt: skip
    parts = [f"# Rollout {tick.slot}", table(("", ""), facts)]
    if tick.finding is not None:
        rows = [
            (name, t.good, t.invalid, t.errors, f"{t.median_ms:.0f}")
            for name, t in (("candidate", tick.finding.candidate), ("stable", tick.finding.stable))
        ]
        parts.append(table(("answers of", "good", "invalid", "failed", "median, ms"), rows))
    return "\n\n".join(parts)


def of_outcomes(report: OutcomesReport) -> str:
    """What was scored, what was not and why, and the mean scores."""
    counts = [
        ("scored now", report.scored), ("scored before", report.known), ("prices not known yet", report.waiting),
        ("no stored price", report.without_prices), ("release not loaded", report.not_loaded),
        ("body dropped from the record", report.without_body), ("another answer than the one sent", report.mismatches),
    ]  # fmt: skip
    rows = [
        (r["slot"], r["asset"], r["release"], r["role"], r["answers"], f"{r['score']:.2f}", r["terms"],
         _kind(r["simulated"], r["proxy"]))
        for r in report.table
    ]  # fmt: skip
    head = ("slot", "asset", "release", "role", "answers", "mean CRPS, bp", "terms", "prices")
    return "\n\n".join(("# Outcomes", table(("answers", ""), counts), table(head, rows)))


def _kind(simulated: bool, proxy: bool) -> str:
    return "simulated" if simulated else "real, proxy" if proxy else "real"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f} %"


def _interval(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    return "–" if low is None or high is None else f"[{low:+.2f}, {high:+.2f}]"
