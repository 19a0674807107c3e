"""A fuzz run against a real gateway of two workers: bytes and structure, a million requests by default.

Run: ``.venv/bin/python -m bench.fuzz --seed 7 --requests 1000000``. Exit code 1 when a reply was malformed, a 200 was
not earned by a good signature, anything but a 503 by rule came back as our own fault, a worker died, or memory or open
files grew. The bytes of the first violation of each sort are kept below ``var/fuzz``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.fuzzing.client import Client
from bench.stand import Stand

SAMPLE_S = 2.0
WARM_UP = 2000
"""Requests before open files are counted: workers open what they need at the first."""
GROWTH_MB = 4.0
"""Megabytes per 100,000 requests, over the second half of a run, above which memory counts as growing."""
NOISE_MB = 8.0
"""Growth in all that says nothing: allocators settle."""
UNRELEASED = ("itsai", "poker44")
"""Subnets whose routes are fuzzed without a release behind them."""


class Watch(threading.Thread):
    """Samples the gateway's memory."""

    def __init__(self, stand: Stand, client: Client) -> None:
        super().__init__(name="watch", daemon=True)
        self.samples: list[tuple[int, float]] = []
        """Requests sent, and megabytes of the processes' own."""
        self.mapped = 0.0
        """Megabytes of mapped files, at last."""
        self._stand, self._client = stand, client
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            own, self.mapped = (size / 1e6 for size in self._stand.memory())
            self.samples.append((self._client.sent, own))

    def stop(self) -> None:
        """No more samples."""
        self._done.set()
        self.join()

    def growth(self) -> tuple[float, float]:
        """Over the second half of the run: MB per 100,000 requests, and MB in all; zeros for a short run."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 10:
            return 0.0, 0.0
        slope = statistics.linear_regression(*zip(*half, strict=True)).slope
        return slope * 1e5, slope * (half[-1][0] - half[0][0])


def run(seed: int, requests: int, seconds: float) -> int:
    """One run; 0 when nothing was found."""
    console = Console()
    keep = Path("var/fuzz") / f"seed-{seed}"
    with Stand(slots=_known(UNRELEASED)) as stand:
        client = Client(stand.port, seed, requests, keep)
        uvloop.run(Client(stand.port, ~seed, WARM_UP, keep).run(lambda: False))
        files = _settled_files(stand)
        watch = Watch(stand, client)
        watch.start()
        began = time.monotonic()
        with Progress(
            TextColumn("fuzzing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task("", total=requests)

            def enough() -> bool:
                bar.update(task, completed=client.sent)
                return time.monotonic() - began > seconds

            uvloop.run(client.run(enough))
        took = time.monotonic() - began
        watch.stop()
        leaked = _settled_files(stand) - files
        restarts, codes = stand.restarts(), stand.refusals()
    _show(console, client, codes)
    slope, grown = watch.growth()
    console.print(f"{client.sent} requests in {took:.0f} s ({client.sent / took:.0f}/s), seed {seed}")
    if watch.samples:
        first, last = watch.samples[0][1], watch.samples[-1][1]
        console.print(f"memory {first:.0f} to {last:.0f} MB; second half {slope:+.2f} MB per 100,000 requests")
        console.print(f"mapped files, the replay store above all, {watch.mapped:.0f} MB at the end")
    console.print(f"open files {leaked:+d}, worker restarts {restarts}")
    found = [f"{count} x {what}" for what, count in client.seen.violations.most_common()]
    found += [f"{restarts} worker restarts"] * bool(restarts)
    found += [f"{leaked} files left open"] * (leaked > 4)
    found += [f"memory grew by {grown:.0f} MB"] * (slope > GROWTH_MB and grown > NOISE_MB)
    for line in found:
        console.print(line, style="red", markup=False)
    if found:
        console.print(f"seed {seed}; bytes of the first of each sort below {keep}")
    return bool(found)


def _known(subnets: tuple[str, ...]) -> tuple[str, ...]:
    from serving.subnets.registry import FACTORIES

    return tuple(name for name in subnets if name in FACTORIES)


def _settled_files(stand: Stand) -> int:
    """Open files once connections that were closed are gone."""
    counts = [stand.open_files()]
    while len(counts) < 40 and (len(counts) < 4 or counts[-1] < counts[-4]):
        time.sleep(0.25)
        counts.append(stand.open_files())
    return counts[-1]


def _show(console: Console, client: Client, codes: dict[tuple[str, str], int]) -> None:
    statuses = sorted({status for _, status in client.seen.statuses})
    table = Table("kind", "requests", *(str(status) if status else "none" for status in statuses), box=None)
    for kind, count in client.seen.requests.items():
        table.add_row(kind, str(count), *(str(client.seen.statuses[kind, status]) for status in statuses))
    console.print(table)
    refused = Table("status", "code", "times", box=None)
    for (status, code), count in sorted(codes.items()):
        refused.add_row(status, code, str(count))
    console.print(refused)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        description="Fuzz a gateway of two workers.", epilog="Example: python -m bench.fuzz --seed 7"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so long")
    given = parser.parse_args()
    return run(given.seed, given.requests, given.seconds)


if __name__ == "__main__":
    sys.exit(main())
