"""The soak: twin traffic at a steady rate in both dialects against a stack of its own, with a route flip every 20 s.

Run: ``make soak`` (20 minutes), or ``SOAK_MINUTES=60 make soak``. Starts the stack of HEADFRAME_HOME (``var/soak``),
gives each slot a second release, and flips stable between the two through the ledger. At the end the books must
balance: requests, answers and traffic records agree, nobody answered that was not routed, and memory stayed flat.
Writes ``report.json``, ``memory.csv`` and ``report.png`` into the home; exit code 0 only when all of that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.soaking import plot
from bench.soaking.books import balance
from bench.soaking.flips import Flips, second_release
from bench.soaking.memory import CLIENT, Memory
from headframe.flow_runs import fill_empty_slots
from infra.ports import endpoints, need
from infra.prices import price_store
from infra.settings import Settings, load_settings
from infra.stack.lifecycle import down, up
from infra.stack.status import status
from serving.clock import Clock
from serving.errors import UserError
from serving.subnets.synth.rules import PROMPTS
from serving.twin import Ask, Options, PromptRow, Round, Target, World, book_file, run_twin
from serving.twin.schedule import next_start
from serving.types import SlotName
from serving.wire.keys import dev_hotkey

PER_S = 6
"""Requests a second, sent together at each full second, slots and assets taking turns."""
SIMULATIONS = 50
FLIP_S = 20.0
_MARK = "soak.mark"
console = Console(highlight=False)
said = Console(stderr=True, highlight=False)


async def steadily(clock: Clock, slots: list[str], seconds: float) -> AsyncIterator[Round]:
    """A round each second for so long."""
    asks = [(SlotName(slot), asset) for slot in slots for asset in PROMPTS[SlotName(slot)].assets]
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), 0
    for second in range(int(seconds)):
        await asyncio.sleep(max(0.0, began + second - loop.time()))
        if loop.time() > began + seconds:
            return
        start = next_start(clock.subnet())
        chosen = [asks[(sent + step) * 7 % len(asks)] for step in range(PER_S)]
        sent += PER_S
        yield Round(None, tuple(Ask(slot, asset, start + 60 * (second % 30)) for slot, asset in chosen))


def soak(settings: Settings, minutes: float) -> dict[str, Any]:
    """The whole run; the report."""
    seconds = {slot: second_release(settings, slot) for slot in settings.slots}
    clock = Clock(settings.paths.clock)
    target = Target(need(endpoints(settings).gateway, "the gateway"), dev_hotkey(settings.gateway.hotkey_uri))
    world = World(clock, book_file(settings.paths.prices), price_store(settings).truth)
    flips, memory = Flips(settings, seconds, FLIP_S), Memory(settings.home)
    latency: list[tuple[float, float]] = []
    restarts_before, since, began = _restarts(settings), time.time(), time.monotonic()
    bar = Progress(
        TextColumn("soaking"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[what]}"), console=said
    )
    task = bar.add_task("", total=minutes * 60, what="")
    faults = 0

    def on_row(row: PromptRow) -> None:
        nonlocal faults
        faults += row.verdict != "CORRECT"
        at = time.monotonic() - began
        latency.append((at, row.ms))
        what = f"{len(latency)} answers, {faults} bad, {flips.done} flips"
        bar.update(task, completed=at, what=what)

    options = Options(simulations=SIMULATIONS, concurrency=PER_S, live=True, score=False, on_row=on_row)
    rounds = steadily(clock, list(settings.slots), minutes * 60)
    memory.start()
    flips.start()
    with bar:
        seen = asyncio.run(run_twin(target, rounds, world, options))
    flips.stop()
    memory.stop()
    time.sleep(1.5)  # the record is synced each second
    memory.write(settings.home / "memory.csv")
    plot.draw(settings.home / "report.png", memory.samples, latency)
    restarts = {name: count - restarts_before.get(name, 0) for name, count in _restarts(settings).items()}
    return {
        "minutes": minutes,
        "books": balance(settings, seen.prompts, since),
        "flips": {"done": flips.done, "problems": flips.problems, "rollback_s": _spread(flips.took)},
        "latency_ms": _spread([ms for _, ms in latency]),
        "memory": memory.table(),
        "restarts": {name: count for name, count in restarts.items() if count},
    }


def wrong(report: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    books, found = report["books"], []
    if books["requests"] == 0 or books["valid"] != books["requests"]:
        found.append(f"{books['requests'] - books['valid']} of {books['requests']} requests failed: {books['faults']}")
    found += [f"{name}: {books[name]}" for name in ("records_lost", "records_twice", "misrouted") if books[name]]
    found += [f"flip: {problem}" for problem in report["flips"]["problems"]]
    found += ["no flip was made"] if not report["flips"]["done"] else []
    found += [f"restarted: {report['restarts']}"] if report["restarts"] else []
    for name, part in report["memory"].items():
        if not part["flat"] and name != CLIENT:
            grown = f"its floors by {part['floors_mb']} MB, a line through it by {part['line_mb']} MB"
            found.append(f"memory of {name} grew in the second half: {grown}")
    return found


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99, most = np.percentile(values, (50, 99, 100)).tolist()
    return {"p50": round(p50, 4), "p99": round(p99, 4), "max": round(most, 4)}


def _restarts(settings: Settings) -> dict[str, int]:
    parts = status(settings)["components"]
    return {name: int(part["restarts"] or 0) for name, part in parts.items()}


def show(report: dict[str, Any]) -> None:
    """The report for a person."""
    facts = Table("", "", box=None, show_header=False)
    books = report["books"]
    facts.add_row("requests, answered, valid", f"{books['requests']}, {books['answered']}, {books['valid']}")
    facts.add_row("records, lost, twice", f"{books['records']}, {books['records_lost']}, {books['records_twice']}")
    facts.add_row("misrouted", str(books["misrouted"]))
    facts.add_row("flips", str(report["flips"]["done"]))
    facts.add_row("latency, ms", ", ".join(f"{name} {value:.0f}" for name, value in report["latency_ms"].items()))
    console.print(facts)
    table = Table("memory, MB", "first", "last", "floors' rise", "line's rise", "breath", "given back", "", box=None)
    for name, part in report["memory"].items():
        verdict = "(not judged)" if name == CLIENT else "flat" if part["flat"] else "[red]grew[/]"
        table.add_row(name, *(str(value) for key, value in part.items() if key != "flat"), verdict)
    console.print(table)


@contextmanager
def stack(settings: Settings) -> Iterator[None]:
    """The stack of a fresh home, up, with a release in every slot; stopped at the end."""
    home = settings.home
    if home.exists() and any(home.iterdir()):
        if not (home / _MARK).exists():
            raise UserError(f"{home} is not empty and no soak made it: set HEADFRAME_HOME to an empty folder")
        down(settings, lambda part, what: None)
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARK).write_text("made by 'make soak', and emptied by its next run\n")
    try:
        with said.status("starting the stack") as line:
            up(settings, lambda part, what: line.update(f"starting the stack: {part} {what}"))
            fill_empty_slots(settings, line.update)
        yield
    finally:
        down(settings, lambda part, what: None)


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(
        description="Twin traffic with a route flip every 20 s.", epilog="Example: python -m bench.soak --minutes 20"
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    given = parser.parse_args()
    try:
        settings = load_settings()
        with stack(settings):
            report = soak(settings, given.minutes)
    except UserError as error:
        said.print(str(error), style="red", markup=False)
        return 1
    target = Path(settings.home) / "report.json"
    found = wrong(report)
    target.write_text(json.dumps({**report, "wrong": found}, indent=2) + "\n")
    show(report)
    for line in found:
        console.print(line, style="red", markup=False)
    console.print(f"report: {target}, plot: {target.with_suffix('.png')}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
