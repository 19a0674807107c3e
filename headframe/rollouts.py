"""The verbs that take releases live and back: rollout, rollback, releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Column, Table

from headframe.options import AsJson, NoPrefect, Release, Slot, actor_name, settings_of
from headframe.output import EXIT_BAD, EXIT_HELD, console, id_column, print_json, progress_console, utc

if TYPE_CHECKING:
    from flows.rollout import Tick


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(epilog="Example: headframe rollback --slot synth-high --reason 'worse since noon'")(rollback)
    app.command(epilog="Example: headframe releases --slot synth-high")(releases)
    rollout = typer.Typer(
        no_args_is_help=True,
        help="Take a release that passed its gate live: shadow, canary, stable; one transition a tick.",
    )
    rollout.command(epilog="Example: headframe rollout start --slot synth-high")(start)
    rollout.command(epilog="Example: headframe rollout tick --slot synth-high")(tick)
    rollout.command(epilog="Example: headframe rollout status --slot synth-high --json")(status)
    rollout.command(epilog="Example: headframe rollout abort --slot synth-high")(abort)
    app.add_typer(rollout, name="rollout")


def start(
    slot: Slot,
    release: Release = None,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="The slot's first release: load it and make it stable at once.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Also one that was aborted or rolled back before.")] = False,
    as_json: AsJson = False,
) -> None:
    """Begin the rollout of a release, by default the newest whose gate report passes against today's stable.

    A slot's first release cannot be better than a champion. With --adopt it becomes stable by an explicit entry in the
    ledger, if its gate report passes every check that needs no champion.
    """
    from flows import rollout

    settings, actor = settings_of(slot), actor_name()
    with progress_console.status("loading and warming the release" if adopt else "writing to the ledger"):
        if adopt:
            done = rollout.adopt(settings, slot, release, actor=actor)
        else:
            done = rollout.start(settings, slot, release, actor=actor, again=again)
    _show_tick(done, as_json)


def tick(slot: Slot, as_json: AsJson = False, no_prefect: NoPrefect = False) -> None:
    """Make at most one transition of the slot's rollout. Exit code 3 when a rollout is held, 1 when it was aborted."""
    from flows.rollout import tick as run
    from flows.runner import run as orchestrate

    settings, actor = settings_of(slot), actor_name()
    with progress_console.status("ticking"):
        done = orchestrate(
            settings, "rollout", lambda: run(settings, slot, actor=actor), {"slot": slot, "actor": actor},
            use_prefect=not no_prefect,
        )  # fmt: skip
    _show_tick(done, as_json)
    if done.held:
        raise typer.Exit(EXIT_HELD)
    if done.aborted:
        raise typer.Exit(EXIT_BAD)


def status(slot: Slot, as_json: AsJson = False) -> None:
    """Say which releases of a slot are live, how far its rollout is, and every change so far."""
    from flows.rollout import status as read

    found = read(settings_of(slot), slot)
    if as_json:
        print_json(found)
        return
    console.print(f"{slot}: {found['stage']}, stable {found['stable'] or 'none'}, candidate {found['candidate']}")
    table = Table("when, UTC", "change", id_column("release"), id_column("stable then"), "by", "why", box=None)
    for change in found["transitions"]:
        table.add_row(
            utc(change["at"]), change["kind"], change["release"], change["stable"] or "", change["actor"],
            change["reason"],
        )  # fmt: skip
    console.print(table)


def abort(
    slot: Slot,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for",
    as_json: AsJson = False,
) -> None:
    """Drop the rollout under way; the stable release answers on as before."""
    from flows import rollout

    _show_tick(rollout.abort(settings_of(slot), slot, actor=actor_name(), reason=reason), as_json)


def rollback(
    slot: Slot,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for",
    as_json: AsJson = False,
) -> None:
    """Make the previous stable release the stable again: a pointer flip, which loads nothing."""
    from flows import rollout

    _show_tick(rollout.rollback(settings_of(slot), slot, actor=actor_name(), reason=reason), as_json)


def releases(
    slot: Annotated[str | None, typer.Option(help="Of this slot only.")] = None, as_json: AsJson = False
) -> None:
    """List the releases in the ledger with their newest gate verdict and their place."""
    from contextlib import closing

    from infra.ledger import open_ledger

    with closing(open_ledger(settings_of(slot))) as ledger:
        rows = []
        for entry in ledger.releases(slot):
            report, state = ledger.latest_gate(entry.sha256), ledger.slot(entry.slot)
            place = next((n for n in ("stable", "candidate", "fallback") if getattr(state, n) == entry.id), None)
            rows.append({**msgspec.to_builtins(entry), "gate": report.verdict if report else None, "place": place})
    if as_json:
        print_json(rows)
        return
    table = Table(id_column("release"), "made, UTC", "by", "model", Column("gate", no_wrap=True), "place", box=None)
    for row in rows:
        model = row["rebuild"].get("model", row["family"])
        table.add_row(row["id"], utc(row["at"]), row["actor"], model, row["gate"] or "–", row["place"] or "")
    console.print(table)


def _show_tick(done: Tick, as_json: bool) -> None:
    if as_json:
        print_json(done.as_dict())
        return
    step = f"{done.before} -> {done.after}" if done.moved else done.after
    console.print(f"{done.slot}: {step}; stable {done.stable or 'none'}; {escape(done.reason)}", soft_wrap=True)
