"""The verb `twin`: ask our own gateway as the subnet's validators do, and score the answers as they would."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from headframe.output import EXIT_BAD, EXIT_USAGE, console, print_json, progress_console
from serving.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings
    from serving.clock import Clock
    from serving.twin import Options, PromptRow, Report, Round, Target, World
    from serving.twin.schedule import Assets

_AT_ONCE = 24
"""Requests when neither a schedule nor a number was given."""


class Dialects(StrEnum):
    """How the twin speaks."""

    both = "both"
    legacy = "legacy"
    btauth = "btauth"


_SPOKEN: dict[Dialects, tuple[Literal["legacy", "btauth"], ...]] = {
    Dialects.both: ("legacy", "btauth"),
    Dialects.legacy: ("legacy",),
    Dialects.btauth: ("btauth",),
}


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(epilog="Example: headframe twin --requests 48 --slot synth-high --out twin.json")(twin)


def twin(
    *,
    requests: Annotated[
        int | None, typer.Option("--requests", "--prompts", min=1, help="Stop after so many requests.")
    ] = None,
    slot: Annotated[list[str] | None, typer.Option(help="Ask this slot only; may be repeated.")] = None,
    assets: Annotated[str, typer.Option(help="Ask for these assets only, such as AAPLX,BTC.")] = "",
    dialect: Annotated[Dialects, typer.Option(help="How to sign and speak.")] = Dialects.both,
    live: Annotated[
        bool, typer.Option("--live", help="Keep the subnet's cadence (5 and 2 min) and wait for the real prices.")
    ] = False,
    start: Annotated[
        list[str] | None,
        typer.Option(help="Start time on recorded time (ISO 8601 with offset, or unix s); may be repeated."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Start times to make of each --start.")] = 1,
    every: Annotated[int, typer.Option(min=60, help="Seconds between those; whole minutes.")] = 600,
    simulations: Annotated[int, typer.Option(min=1, max=1000, help="Paths to ask for.")] = 1000,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests in flight.")] = 4,
    truth_wait: Annotated[
        float | None, typer.Option(min=0, help="With --live: longest wait for prices at the end, in seconds.")
    ] = None,
    url: Annotated[str, typer.Option(help="Ask this gateway instead of the one of this home.")] = "",
    hotkey: Annotated[str, typer.Option(help="The miner's hotkey, if it is not this home's.")] = "",
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a URL beyond this machine.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")] = False,
) -> None:
    """Ask the gateway as a validator: sign, send, check, wait for the prices, score, and show the incentive.

    Without --live or --start, prompts are sent at once at the subnet's present time. --start plays recorded time: it
    sets the clock of this home before each round and leaves it there. Exit code 0 only if every answer was valid.
    """
    from infra.settings import load_settings
    from serving.clock import Clock
    from serving.subnets.synth.rules import PROMPTS
    from serving.twin import Options
    from serving.twin.schedule import at_once, recorded
    from serving.twin.schedule import live as live_rounds

    settings = load_settings()
    if settings.profile != "local":
        raise UserError(f"the twin signs with public dev keys: it works in profile 'local', not '{settings.profile}'")
    if live and start:
        raise UserError("--live and --start exclude each other: wall time or recorded time", exit_code=EXIT_USAGE)
    clock = Clock(settings.paths.clock)
    asked = slot or [name for name in settings.slots if name in PROMPTS]
    if not asked:
        raise UserError("the twin asks Synth's slots, and none is configured: name one with --slot")
    wanted = _assets(asked, assets)
    starts = _starts(start or [], rounds, every)
    limit = requests if live or starts else requests or _AT_ONCE
    total = limit if not starts else min(limit or 1 << 62, len(starts) * sum(len(own) for own in wanted.values()))

    def schedule(stop: asyncio.Event) -> AsyncIterator[Round]:
        if live:
            return live_rounds(clock, wanted, stop)
        if starts:
            return recorded(dict.fromkeys(wanted, starts), wanted)
        return at_once(clock, wanted)

    options = Options(
        dialects=_SPOKEN[dialect],
        requests=limit, concurrency=concurrency, simulations=simulations, live=live, truth_wait=truth_wait,
    )  # fmt: skip
    target, world = _target(settings, url, hotkey, allow_remote), _world(settings, clock)
    report = _run(target, schedule, world, options, total)
    if out is not None:
        _write(out, report)
    if as_json:
        print_json(report.to_json())
    else:
        _show(report)
    if not report.good:
        raise typer.Exit(EXIT_BAD)


def _assets(slots: Iterable[str], only: str) -> Assets:
    """What to ask in each slot; raises UserError for a name that Synth does not have."""
    from serving.subnets.synth.rules import ASSETS, HIGH, LOW, PROMPTS
    from serving.types import Asset, SlotName

    chosen = [Asset(name.strip().upper()) for name in only.split(",") if name.strip()]
    for name in chosen:
        if name not in ASSETS:
            raise UserError(f"--assets: {name} is none of {', '.join(ASSETS)}", exit_code=EXIT_USAGE)
    for slot in slots:
        if slot not in PROMPTS:
            raise UserError(f"--slot: {slot} is none of {', '.join(PROMPTS)}", exit_code=EXIT_USAGE)
    # AAPLX is the one asset with real bars in the package, so `local` asks for it in both slots.
    usual = {LOW: PROMPTS[LOW].assets, HIGH: (*PROMPTS[HIGH].assets, Asset("AAPLX"))}
    return {SlotName(slot): chosen or usual[SlotName(slot)] for slot in slots}


def _starts(given: Iterable[str], rounds: int, every: int) -> list[int]:
    """Start times (unix s), in order; raises UserError for what is no whole minute."""
    if every % 60:
        raise UserError("--every must be whole minutes, such as 600", exit_code=EXIT_USAGE)
    found: set[int] = set()
    for text in given:
        first = _instant(text)
        found.update(first + every * number for number in range(rounds))
    return sorted(found)


def _instant(text: str) -> int:
    try:
        moment = None if text.isdecimal() else datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--start: {text} is neither ISO 8601 nor unix seconds", exit_code=EXIT_USAGE) from None
    if moment is not None and moment.tzinfo is None:
        raise UserError(f"--start: {text} has no offset; write {text}+00:00 for UTC", exit_code=EXIT_USAGE)
    unix = int(text) if moment is None else int(moment.timestamp())
    if unix % 60:
        raise UserError(f"--start: {text} is not a whole minute", exit_code=EXIT_USAGE)
    return unix


def _target(settings: Settings, url: str, hotkey: str, allow_remote: bool) -> Target:
    from infra.ports import endpoints, need
    from serving.twin import Target
    from serving.types import Hotkey
    from serving.wire.keys import dev_hotkey

    address = url or need(endpoints(settings).gateway, "the gateway")
    return Target(address, Hotkey(hotkey) if hotkey else dev_hotkey(settings.gateway.hotkey_uri), allow_remote)


def _world(settings: Settings, clock: Clock) -> World:
    from infra.prices import price_store
    from serving.twin import World, book_file

    return World(clock, book_file(settings.paths.prices), price_store(settings).truth)


def _run(
    target: Target,
    schedule: Callable[[asyncio.Event], AsyncIterator[Round]],
    world: World,
    options: Options,
    total: int | None,
) -> Report:
    """Run the twin with its progress shown; Ctrl-C ends it early, with the report of what was done."""
    import dataclasses

    from serving.twin import run_twin

    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[faults]}"), TimeElapsedColumn(), console=progress_console,
    )  # fmt: skip
    task = bar.add_task("asking", total=total, faults="")
    faults = 0

    def on_row(row: PromptRow) -> None:
        nonlocal faults
        faults += row.verdict != "CORRECT"
        bar.update(task, advance=1, description=f"{row.slot} {row.asset}", faults=f"{faults} bad" if faults else "")

    async def go() -> Report:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        return await run_twin(target, schedule(stop), world, dataclasses.replace(options, on_row=on_row), stop)

    with bar:
        return asyncio.run(go())


def _write(path: Path, report: Report) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"the report cannot be written to {path}: {error.strerror}") from None


def _show(report: Report) -> None:
    facts = Table("", "", box=None, show_header=False)
    facts.add_row("requests", str(report.requests) + (" (interrupted)" if report.interrupted else ""))
    facts.add_row("dialects", ", ".join(f"{name} {count}" for name, count in report.by_dialect.items()))
    facts.add_row("slots", ", ".join(f"{name} {count}" for name, count in report.by_slot.items()))
    facts.add_row("invalid, errors", f"{report.invalid}, {report.errors}")
    if report.p50_ms is not None:
        facts.add_row("latency", f"median {report.p50_ms:.0f} ms, p99 {report.p99_ms:.0f} ms")
    facts.add_row("prompts scored", f"{report.scored}" + (f", {report.unscored} not" if report.unscored else ""))
    simulated = {row.asset for row in report.prompts if row.simulated}
    if simulated:
        facts.add_row("simulated prices", ", ".join(sorted(simulated)))
    console.print(facts)
    for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1]):
        console.print(f"  {count} x {reason}", style="red", markup=False)
    if report.incentive:
        console.print(_standings(report))


def _standings(report: Report) -> Table:
    table = Table("miner", "incentive", *(f"{slot}, mean CRPS sum (bp)" for slot in report.scores), box=None)
    for name, share in sorted(report.incentive.items(), key=lambda item: -item[1]):
        means = (own.get(name) for own in report.scores.values())
        style = "bold" if name == "headframe" else ""
        table.add_row(name, f"{share:.1%}", *("-" if mean is None else f"{mean:.1f}" for mean in means), style=style)
    return table
