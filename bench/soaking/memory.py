"""Memory of every part over time, and whether it stays flat."""

from __future__ import annotations

import csv
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from bench.soaking.growth import growth
from infra.stack.processes import marked

EVERY_S = 5.0
CLIENT = "soak"
"""This process: the callers, the flips and the books. Shown beside the stack's parts."""
ROAD = frozenset({"gateway", "triton"})
"""Parts that a validator's request passes through: they are not let off for breathing."""


def own_mb(pid: int) -> float:
    """What a process holds in memory of its own, and its share of what it holds with others; no pages of files.

    Those are the kernel's to drop, and their shares change with every other process that maps the same library.
    """
    found = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"Pss_Anon", "Pss_Shmem"}:
            found += int(value.split()[0])
    return found * 1024 / 1e6


class Memory(threading.Thread):
    """Samples the memory of each part's processes, until stopped."""

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
                    with suppress(OSError):  # it ended meanwhile
                        size += own_mb(process.pid)
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
        """By part: first and last sample, its `Growth` (MB), and whether it is flat."""
        found: dict[str, dict[str, float | bool]] = {}
        for part, samples in sorted(self.samples.items()):
            grown = growth(*np.array(samples).T)
            found[part] = {
                "first_mb": round(samples[0][1], 1), "last_mb": round(grown.last, 1),
                "floors_mb": round(grown.floors, 1), "line_mb": round(grown.line, 1),
                "breath_mb": round(grown.breath, 1), "given_back_mb": round(grown.given_back, 1),
                "flat": not grown.leaks(strict=part in ROAD),
            }  # fmt: skip
        return found
