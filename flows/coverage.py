"""A picture of what is stored: each series over time, by kind."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime

from infra.prices import Series

COLOURS = {"real": "#1d6b4f", "proxy": "#26323d", "simulated": "#9fb0bd"}


def kind(series: Series) -> str:
    """``real``, ``proxy`` or ``simulated``."""
    return "simulated" if series.simulated else "proxy" if series.proxy else "real"


def coverage(series: Sequence[Series]) -> bytes:
    """Each series as a line from its first bar to its last, coloured by kind, with its number of bars; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = sorted(series, key=lambda one: (kind(one), one.asset, one.step))
    figure = Figure(figsize=(8.0, 1.4 + 0.24 * max(1, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for y, one in enumerate(rows):
        ends = [datetime.fromtimestamp(at, UTC) for at in (one.first, one.last + one.step)]
        axes.plot(ends, [y, y], color=COLOURS[kind(one)], linewidth=5, solid_capstyle="butt", marker="|")  # type: ignore[arg-type]
        axes.annotate(f"{one.rows:,}", (ends[1], y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [f"{one.asset} {one.source} {one.step} s" for one in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("stored price series: first to last bar, and the number of bars", loc="left", fontsize=10)
    keys = [Line2D([], [], color=colour, linewidth=5, label=name) for name, colour in COLOURS.items()]
    axes.legend(handles=keys, fontsize=8, frameon=False, loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
