"""Plots as PNG bytes, drawn off screen."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
INK, ACCENT, PALE = "#26323d", "#b4531f", "#9fb0bd"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def standings(title: str, rows: Sequence[tuple[str, float, float | None, float | None]]) -> bytes:
    """Change against the champion by contestant: (name, percent, low, high), lower is better."""
    figure, axes = _figure(7.0, 1.2 + 0.42 * len(rows))
    for y, (_, change, low, high) in enumerate(reversed(rows)):
        colour = ACCENT if y == len(rows) - 1 else INK
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot([change], [y], "o", color=colour)
    axes.axvline(0.0, color=PALE, linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    # of the whole figure: beside long names the axes are too narrow for them
    figure.supxlabel(
        "change of the mean CRPS against the live champion, % (95 % interval); lower is better", fontsize=9
    )
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=10)
    return _png(figure)


def fan(title: str, minutes: Floats, paths: Floats, truth: Floats) -> bytes:
    """Quantiles of simulated paths (n, points) over time, and what came true (points,), NaN where unknown."""
    figure, axes = _figure(7.0, 3.4)
    for low, high, shade in ((0.01, 0.99, 0.15), (0.05, 0.95, 0.2), (0.25, 0.75, 0.3)):
        bottom, top = np.quantile(paths, [low, high], axis=0)
        axes.fill_between(minutes, bottom, top, color=INK, alpha=shade, linewidth=0, label=f"{high - low:.0%} of paths")
    known = np.isfinite(truth)
    axes.plot(minutes[known], truth[known], "o-", color=ACCENT, markersize=3, linewidth=1, label="real price")
    axes.set_xlabel("minutes after the start")
    axes.set_ylabel("price")
    axes.set_title(title, loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    return _png(figure)


def profile(title: str, hours: Floats, volatility: Floats) -> bytes:
    """The model's volatility over a day: hours after the start, and standard deviation in basis points a step."""
    figure, axes = _figure(7.0, 3.0)
    axes.step(hours, volatility, where="post", color=INK)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("hours after the start")
    axes.set_ylabel("basis points a step")
    axes.set_title(title, loc="left", fontsize=10)
    return _png(figure)


def bars(title: str, values: Mapping[str, float], label: str) -> bytes:
    """Horizontal bars, one a name."""
    figure, axes = _figure(7.0, 1.0 + 0.35 * max(1, len(values)))
    axes.barh(list(values), list(values.values()), color=INK)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", fontsize=10)
    return _png(figure)
