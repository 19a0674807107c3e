"""Memory of every part over time, and whether it stays flat."""

from __future__ import annotations

import csv
import statistics
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

from infra.stack.processes import marked

EVERY_S = 10.0
CLIENT = "soak"
"""This process: the callers, the flips and the books. Shown beside the stack's parts."""
FLAT_SHARE, FLAT_MB = 0.05, 15.0
"""A part grew when the second half of the run added more than this share of it and more than this many megabytes."""


class Memory(threading.Thread):
    """Samples the proportional set size of each part's processes, until stopped."""

    def __init__(self, home: Path) -> None:
        super().__init__(name="memory", daemon=True)
        self.samples: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """By part: seconds since the start, megabytes."""
        self._home = home
        self._enough = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        while True:
            for part, processes in (marked(self._home) | {CLIENT: [psutil.Process()]}).items():
                size = 0.0
                for process in processes:
                    with suppress(psutil.Error):
                        size += process.memory_full_info().pss / 1e6
                self.samples[part].append((time.monotonic() - began, size))
            if self._enough.wait(EVERY_S):
                return

    def stop(self) -> None:
        """No more samples."""
        self._enough.set()
        self.join()

    def write(self, path: Path) -> None:
        """Every sample as a row of a CSV file: part, seconds, megabytes."""
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("part", "s", "mb"))
            table.writerows(
                (part, round(s, 1), round(mb, 2)) for part, own in sorted(self.samples.items()) for s, mb in own
            )

    def table(self) -> dict[str, dict[str, float | bool]]:
        """By part: first and last sample (MB), slope of the second half (MB an hour), and whether it is flat."""
        found: dict[str, dict[str, float | bool]] = {}
        for part, samples in sorted(self.samples.items()):
            half = samples[len(samples) // 2 :]
            slope = statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 2 else 0.0
            grown = slope * (half[-1][0] - half[0][0])
            found[part] = {
                "first_mb": round(samples[0][1], 1), "last_mb": round(samples[-1][1], 1),
                "mb_per_hour": round(slope * 3600, 1), "second_half_mb": round(grown, 1),
                "flat": grown <= max(FLAT_MB, FLAT_SHARE * samples[-1][1]),
            }  # fmt: skip
        return found
