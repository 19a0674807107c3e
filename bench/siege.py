"""The whole stack under attack while the validator twin asks it: valid p99 and loss, without the attack and under it.

Run: ``.venv/bin/python -m bench.siege``. Starts a stack of its own in ``var/siege``, real Triton and all, and lets the
twin ask both slots in both dialects at a steady rate; its own rules say which answers are valid. Stretches without and
with an attack take turns; the table has medians over the rounds. The attacks are those of `bench.flood`: junk from
another address at ten times the twin's rate, 500 slow senders, and a metagraph outage (the sidecar stopped, its
table of neurons deleted, garbled, and past its age limit). To reach: valid p99 below twice, nothing lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.flooding.waging import Attack, Attacks
from bench.soak import PER_S, SIMULATIONS, stack, steadily
from infra.ports import endpoints, need
from infra.prices import price_store
from infra.settings import Settings, load_settings
from infra.stack.processes import marked
from serving.clock import Clock
from serving.errors import UserError
from serving.state import NeuronTable, write_state
from serving.twin import Options, Target, World, book_file, run_twin
from serving.wire.keys import dev_hotkey

HOME = Path("var/siege")
ROUNDS = 3
TARGET = 2.0
console = Console(highlight=False)


class Stretch(NamedTuple):
    """What the twin saw for a while."""

    ms: list[float]
    """Of each valid answer."""
    lost: Counter[str]
    """Every other request, by what became of it."""

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return float(np.percentile(self.ms, 99)) if self.ms else float("inf")


class Siege:
    """A running stack, its validators and its attackers."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        self._settings, self._seconds = settings, seconds
        url = need(endpoints(settings).gateway, "the gateway")
        self._target = Target(url, dev_hotkey(settings.gateway.hotkey_uri))
        self._clock = Clock(settings.paths.clock)
        self._world = World(self._clock, book_file(settings.paths.prices), price_store(settings).truth)
        self._table = msgspec.json.decode(settings.paths.neurons.read_bytes(), type=NeuronTable)
        port = int(url.rpartition(":")[2])
        self.attacks = Attacks(port, 10 * PER_S, settings.paths.neurons, self._write_neurons)

    async def stretch(self, seconds: float | None = None) -> Stretch:
        """The twin asks for a while; returns when all is answered or lost."""
        rounds = steadily(self._clock, list(self._settings.slots), seconds or self._seconds)
        options = Options(simulations=SIMULATIONS, concurrency=4 * PER_S, score=False)
        rows = (await run_twin(self._target, rounds, self._world, options)).prompts
        lost = Counter(str(row.error or row.verdict) for row in rows if row.verdict != "CORRECT")
        return Stretch([row.ms for row in rows if row.verdict == "CORRECT" and row.ms is not None], lost)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Nobody brings the table of neurons any more, and what lies there goes bad."""
        sidecar = marked(self._settings.home).get("sidecar", [])
        for process in sidecar:
            process.suspend()
        try:
            async with self.attacks.outage():
                yield
        finally:
            for process in sidecar:
                process.resume()

    def _write_neurons(self, age_s: float) -> None:
        table = msgspec.structs.replace(self._table, written_at=time.time() - age_s)
        write_state(self._settings.paths.neurons, table)


async def run(settings: Settings, seconds: float, rounds: int) -> int:
    """Measure all, print the table; 1 when a p99 is not below twice or an attack cost an answer."""
    siege = Siege(settings, seconds)
    await siege.stretch(5.0)  # burn-in
    kinds: dict[str, Attack] = {
        "junk, ten for one": siege.attacks.junk,
        "500 slow senders": siege.attacks.slow,
        "no neuron table": siege.outage,
    }
    table = Table("attack", "asked", "p99, ms", "under it", "times (rounds)", "lost", "under it", box=None)
    bad = False
    for name, attack in kinds.items():
        calm, harried = [], []
        for number in range(rounds):
            console.print(f"{name}: round {number + 1} of {rounds}", style="dim")
            calm.append(await siege.stretch())
            async with attack():
                harried.append(await siege.stretch())
        times = [b.p99 / a.p99 for a, b in zip(calm, harried, strict=True)]
        lost, lost_under = (sum((one.lost for one in each), Counter[str]()) for each in (calm, harried))
        asked = sum(len(one.ms) + one.lost.total() for one in (*calm, *harried))
        bad |= statistics.median(times) >= TARGET or lost_under.total() > lost.total()
        table.add_row(
            name, str(asked), *(f"{statistics.median(one.p99 for one in each):.0f}" for each in (calm, harried)),
            f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})",
            str(lost.total()), str(lost_under.total()),
        )  # fmt: skip
        for reason, count in (lost + lost_under).items():
            console.print(f"{name}: {count} x {reason}", style="red", markup=False)
    console.print(table)
    for kind, told in siege.attacks.told.items():
        console.print(f"{kind} was told: {dict(told)}")
    console.print(f"{rounds} rounds of {seconds:.0f} s each way, {PER_S} valid requests a second; losses are sums")
    return int(bad)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        description="The twin's answers while the stack is attacked.", epilog="Example: python -m bench.siege"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    os.environ.setdefault("HEADFRAME_HOME", str(HOME))
    settings = load_settings()
    try:
        with stack(settings):
            return asyncio.run(run(settings, given.seconds, given.rounds))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
