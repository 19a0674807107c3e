"""The soak as a picture: memory by part, and latency over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw(
    path: Path, memory: Mapping[str, Sequence[tuple[float, float]]], latency: Sequence[tuple[float, float]]
) -> None:
    """`memory`: (s, MB) by part; `latency`: (s, ms) of each request."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for part, samples in sorted(memory.items(), key=lambda each: -each[1][-1][1]):
        upper.plot([s / 60 for s, _ in samples], [mb for _, mb in samples], label=part, linewidth=1)
    upper.set_ylabel("memory, MB")
    upper.set_yscale("log")
    upper.legend(fontsize="x-small", ncols=4)
    lower.plot([s / 60 for s, _ in latency], [ms for _, ms in latency], ".", markersize=1.5)
    lower.set_ylabel("latency, ms")
    lower.set_yscale("log")
    lower.set_xlabel("minutes")
    figure.savefig(path, dpi=120)
