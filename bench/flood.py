"""What an attack costs validators: their p50, p99 and loss under it, against the same load without it.

Run: ``.venv/bin/python -m bench.flood``. A gateway with two workers, its budgets as shipped, and a small model answer a
steady open-loop load of Synth prompts in both dialects, signed by the twin's own callers and sent from 127.0.0.1.
Rounds without and with the attack take turns; the table has medians over the rounds. The attacks: a junk flood from
another address at ten times the valid rate, 500 slow senders, and a neuron table that is deleted, garbled, and past
its age limit. To reach: valid p99 below twice, nothing lost. A control sends the same junk to another gateway on this
machine: what that costs is the attacker's own share of the processors.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections import Counter
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from bench.flooding.valid import Load, Seen
from bench.flooding.waging import Attack, Attacks
from bench.stand import Stand

ROUNDS = 5
CONTROL = "junk elsewhere (control)"
SHIPPED: dict[str, Any] = {"junk_per_s": 20.0, "junk_burst": 200, "neurons_max_age": 1.0}


def figures(seen: Seen) -> tuple[float, float, int]:
    """p50 and p99 in ms, and how many were lost."""
    p50, p99 = np.percentile(seen.ms, (50, 99)).tolist() if seen.ms else (float("nan"), float("nan"))
    return p50, p99, sum(seen.lost.values())


async def measure(load: Load, attack: Attack, per_s: float, seconds: float, rounds: int) -> list[list[Seen]]:
    """Rounds without and with the attack, taking turns: two lists."""
    found: list[list[Seen]] = [[], []]
    for _ in range(rounds):
        found[0].append(await load.run(per_s, seconds))
        async with attack():
            found[1].append(await load.run(per_s, seconds))
        await asyncio.sleep(0.5)
    return found


async def run(stand: Stand, other: Stand, per_s: float, seconds: float, rounds: int) -> int:
    """Measure all, print the table; 1 when a p99 is not below twice or something was lost, the control left out."""
    console, load, attacks = Console(width=max(120, Console().width)), Load(stand.port), _on(stand, per_s)
    await load.run(per_s, 2.0)  # burn-in
    table = Table(
        "attack", "valid/s", "p50, ms", "under it", "p99, ms", "under it", "times", "lost", "under it", box=None
    )
    bad = False
    kinds: dict[str, Attack] = {
        "junk, ten for one": attacks.junk,
        "500 slow senders": attacks.slow,
        "no neuron table": attacks.outage,
    }
    kinds[CONTROL] = _on(other, per_s).junk
    for name, attack in kinds.items():
        pairs = await measure(load, attack, per_s, seconds, rounds)
        without, under = ([figures(seen) for seen in each] for each in pairs)
        p50, p99, lost = _medians(without)
        p50_under, p99_under, lost_under = _medians(under)
        times = statistics.median(b[1] / a[1] for a, b in zip(without, under, strict=True))
        bad |= name != CONTROL and (times >= 2.0 or lost_under > lost)
        table.add_row(
            name, f"{per_s:.0f}", f"{p50:.1f}", f"{p50_under:.1f}", f"{p99:.1f}", f"{p99_under:.1f}", f"{times:.2f}",
            f"{lost}", f"{lost_under}",
        )  # fmt: skip
        reasons = sum((Counter(seen.lost) for each in pairs for seen in each), Counter())
        if reasons:
            console.print(f"{name}: lost {dict(reasons)}")
    console.print(table)
    for kind, told in attacks.told.items():
        console.print(f"{kind} was told: {dict(told)}")
    console.print(
        f"{rounds} rounds of {seconds:.0f} s each way, medians; losses are sums; worker restarts {stand.restarts()}"
    )
    await load.close()
    return int(bad)


def _on(stand: Stand, per_s: float) -> Attacks:
    return Attacks(stand.port, 10 * per_s, stand.home / "neurons.json", stand.write_neurons)


def _medians(rows: list[tuple[float, float, int]]) -> tuple[float, float, int]:
    return statistics.median(r[0] for r in rows), statistics.median(r[1] for r in rows), sum(r[2] for r in rows)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description="Valid traffic under attack.", epilog="Example: python -m bench.flood")
    parser.add_argument("--per-s", type=float, default=60.0, help="valid requests a second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with Stand(**SHIPPED) as stand, Stand(**SHIPPED) as other:
        return uvloop.run(run(stand, other, given.per_s, given.seconds, given.rounds))


if __name__ == "__main__":
    sys.exit(main())
