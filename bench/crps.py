"""CRPS total of one 24 h Synth answer: ours against properscoring, term by term as the validator calls it.

Run: ``.venv/bin/python -m bench.crps``. Interleaved rounds, CPU seconds of the scoring alone, medians; the two totals
must agree to 1e-12 relative.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.rivals import python_of
from serving.subnets.synth.rules import LOW, PROMPTS
from serving.subnets.synth.scoring import prompt_score

ROUNDS, OURS_EACH = 5, 50
PROMPT = PROMPTS[LOW]

RIVAL = """
import json, sys, time
import numpy as np, properscoring

paths, real = (np.load(sys.argv[1])[name] for name in ("paths", "real"))
intervals, increment = json.loads(sys.argv[2]), int(sys.argv[3])
began, total = time.process_time(), 0.0
for name, seconds in intervals:
    step = seconds // increment
    ours, theirs = paths[:, ::step], real[::step]
    if name.endswith("_abs"):
        forecasts, truth, scale = ours[:, 1:], theirs[1:], 1e4 / real[-1]
    else:
        forecasts, truth, scale = np.diff(ours, axis=1) / ours[:, :-1], np.diff(theirs) / theirs[:-1], 1e4
    for t in range(len(truth)):
        total += scale * properscoring.crps_ensemble(truth[t], forecasts[:, t])
print(json.dumps([time.process_time() - began, float(total)]))
"""


def answer() -> tuple[np.ndarray, np.ndarray]:
    """A day's answer (1000, 289) and what came true (289,), from a seeded random walk."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((1_001, PROMPT.points - 1)) * 0.0015, axis=1)
    prices = np.round(60_000 * np.exp(np.concatenate([np.zeros((1_001, 1)), walk], axis=1)), 3)
    return prices[1:], prices[0]


def ours(paths: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """CPU seconds of one total, and the total."""
    began = time.process_time()
    for _ in range(OURS_EACH):
        total = prompt_score(paths, real, PROMPT).total
    return (time.process_time() - began) / OURS_EACH, total


def main() -> int:
    """Measure, print the table; 1 when the totals disagree."""
    paths, real = answer()
    rival = python_of("properscoring")
    rows = []
    ours(paths, real)  # burn-in
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "answer.npz"
        np.savez(data, paths=paths, real=real)
        intervals = json.dumps(PROMPT.intervals)
        for _ in range(ROUNDS):
            command = [str(rival), "-W", "ignore", "-c", RIVAL, str(data), intervals, str(PROMPT.increment)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            theirs, total = json.loads(done.stdout)
            mine, own = ours(paths, real)
            rows.append((mine, theirs, abs(own - total) / total))
    table = Table("round", "headframe, ms CPU", "properscoring, ms CPU", "times less", "difference", box=None)
    for number, (mine, theirs, apart) in enumerate(rows, 1):
        table.add_row(str(number), f"{mine * 1e3:.2f}", f"{theirs * 1e3:.0f}", f"{theirs / mine:.0f}", f"{apart:.1e}")
    mine, theirs = (statistics.median(row[i] for row in rows) for i in (0, 1))
    table.add_row("median", f"{mine * 1e3:.2f}", f"{theirs * 1e3:.0f}", f"{theirs / mine:.0f}", "", style="bold")
    Console().print(table)
    return 0 if max(apart for _, _, apart in rows) < 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
