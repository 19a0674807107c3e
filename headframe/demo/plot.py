"""The demo's one picture: what each gate measured, and what the answers would have earned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COLOUR = {"pass": "#047857", "fail": "#b91c1c", "inconclusive": "#b45309"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG: a panel for each slot's paired comparison, and one for the twin's incentive."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    slots = report["slots"]
    figure = Figure(figsize=(6.0 * (len(slots) + 1), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(slots) + 1)
    for panel, (name, one) in zip(axes, slots.items(), strict=False):
        _comparison(panel, name, one["gate"])
    _incentive(axes[-1], report["twin"])
    figure.savefig(path, dpi=110)


def _comparison(panel: Any, slot: str, gate: Mapping[str, Any]) -> None:
    score = gate["score"]
    rows = [("candidate", score["change_pct"], score["ci95"], _COLOUR[gate["verdict"]])]
    rows += [(row["name"], row["change_pct"], row["ci95"], "#6b7280") for row in score["baselines"] or []]
    rows = [row for row in rows if row[1] is not None]
    for height, (_, change, (low, high), colour) in enumerate(reversed(rows)):
        panel.plot([low, high], [height, height], color=colour, linewidth=2.5, solid_capstyle="round")
        panel.plot([change], [height], "o", color=colour, markersize=7)
        panel.annotate(f"{change:+.1f} %", (change, height), xytext=(0, 8), textcoords="offset points", ha="center")
    panel.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)])
    panel.axvline(0, color="#111827", linewidth=1)
    panel.margins(x=0.12, y=0.15)
    panel.set_xlabel("change of the score against the live model, % (left is better), 95 % interval")
    panel.set_title(
        f"{slot}: {gate['verdict']}\n{score['replays']} replays, {score['disjoint']} disjoint, "
        f"{score['terms']} of {score['terms_full']} terms",
        fontsize=10,
    )


def _incentive(panel: Any, twin: Mapping[str, Any]) -> None:
    rows = sorted(twin["incentive"].items(), key=lambda item: item[1])
    colours = ["#1d4ed8" if name == "headframe" else "#9ca3af" for name, _ in rows]
    panel.barh([name for name, _ in rows], [100 * share for _, share in rows], color=colours)
    panel.set_xlabel("share of the incentive, %")
    panel.set_title(
        f"twin: {twin['requests']} requests, {twin['invalid']} invalid, {twin['errors']} errors\n", fontsize=10
    )
