"""The verbs over a model's life: ingest, outcomes, retrain, publish, gate, rollout, rollback, releases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from headframe.output import EXIT_BAD, EXIT_HELD, console, print_json, progress_console
from serving.errors import UserError

if TYPE_CHECKING:
    from flows.gate import GateResult
    from flows.rollout import Tick
    from infra.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print facts as one JSON document.")]
Slot = Annotated[str, typer.Option(help="The slot, such as synth-high.")]
Release = Annotated[str | None, typer.Option(help="A release's id or full sha256.")]
NoPrefect = Annotated[bool, typer.Option("--no-prefect", help="Run as a plain function, not as a Prefect flow.")]

_EXIT = {"pass": 0, "fail": EXIT_BAD, "inconclusive": EXIT_HELD}
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "skipped": "dim"}


class ModelName(StrEnum):
    """What can be trained."""

    gaussian = "gaussian"
    garch_t = "garch-t"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(epilog="Example: headframe ingest")(ingest)
    app.command(epilog="Example: headframe outcomes --json")(outcomes)
    app.command(epilog="Example: headframe retrain --slot synth-high --model garch-t")(retrain)
    app.command(epilog="Example: headframe publish var/triton/models/synth-high-0123456789ab")(publish)
    app.command(epilog="Example: headframe gate --slot synth-high")(gate)
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


def ingest(as_json: AsJson = False, no_prefect: NoPrefect = False) -> None:
    """Ask every price source for its bars, and store what is new. Exit code 1 when a source was in trouble."""
    from flows.ingest import ingest as run
    from flows.runner import run as orchestrate

    settings = _settings()
    with progress_console.status("asking the price sources"):
        report = orchestrate(settings, "ingest", lambda: run(settings), {}, use_prefect=not no_prefect)
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        table = Table("asset", "source", "step, s", "rows", "prices", "sha256", box=None)
        for s in report.series:
            kind = "simulated" if s.simulated else "real, proxy" if s.proxy else "real"
            table.add_row(s.asset, s.source, str(s.step), str(s.rows), kind, s.sha256[:12])
        console.print(table)
        for source in report.sources:
            for note in source.notes:
                console.print(f"{source.source}: {note}", soft_wrap=True)
    if report.failed:
        raise typer.Exit(EXIT_BAD)


def outcomes(as_json: AsJson = False, no_prefect: NoPrefect = False) -> None:
    """Score every answer whose prices are known by now. Exit code 1 when an answer could not be repeated."""
    from flows.outcomes import outcomes as run
    from flows.runner import run as orchestrate

    settings = _settings()
    with _progress() as progress:
        report = orchestrate(
            settings, "outcomes", lambda: run(settings, progress=progress), {}, use_prefect=not no_prefect,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        table = Table("slot", "asset", _id("release"), "role", "answers", "mean CRPS, bp", "terms", "prices", box=None)
        for row in report.table:
            kind = "simulated" if row["simulated"] else "real, proxy" if row["proxy"] else "real"
            table.add_row(
                row["slot"], row["asset"], row["release"], row["role"], str(row["answers"]), f"{row['score']:.2f}",
                str(row["terms"]), kind,
            )  # fmt: skip
        console.print(table)
        console.print(
            f"{report.scored} scored now, {report.known} before; {report.waiting} wait for prices, "
            f"{report.without_prices} have none, {report.not_loaded} of releases not loaded, "
            f"{report.mismatches} answered otherwise than before"
        )
    if report.mismatches:
        raise typer.Exit(EXIT_BAD)


def retrain(
    slot: Slot,
    model: Annotated[ModelName, typer.Option(help="What to fit.")] = ModelName.garch_t,
    sigma_scale: Annotated[
        float, typer.Option(min=0.01, max=100.0, help="Multiply the model's sigma: 1 unless an error is planted.")
    ] = 1.0,
    as_json: AsJson = False,
    no_prefect: NoPrefect = False,
) -> None:
    """Train a release on what ends before the split; its id is the last line on stdout."""
    from flows.retrain import retrain as run
    from flows.runner import run as orchestrate

    settings, actor = _settings(slot), _actor()
    with _progress() as progress:
        result = orchestrate(
            settings,
            "retrain",
            lambda: run(settings, slot, model.value, sigma_scale, actor=actor, progress=progress),
            {"slot": slot, "model": model.value, "sigma_scale": sigma_scale, "actor": actor},
            use_prefect=not no_prefect,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
        return
    inner = result.inner
    progress_console.print(
        f"{result.model} on prices before {result.cut_utc} UTC"
        f"{', known to the ledger already' if result.existing else ''}; inner validation "
        f"{inner['inner.crps']:.2f} against {inner['inner.reference']:.2f} of the reference "
        f"({inner['inner.change_pct']:+.2f} %, training sessions only); {result.run_url}",
        soft_wrap=True,
    )
    print(result.release)


def publish(
    folder: Annotated[Path, typer.Argument(help="A sealed release: a folder named by its id.")],
    as_json: AsJson = False,
) -> None:
    """Put a release that was made elsewhere, in a notebook say, into the object store and the ledger."""
    from flows.publish import publish_folder

    entry = publish_folder(_settings(), folder, actor=_actor())
    if as_json:
        print_json(msgspec.to_builtins(entry))
    else:
        print(entry.id)


def gate(
    slot: Slot,
    release: Release = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many replays.")] = None,
    as_json: AsJson = False,
    no_prefect: NoPrefect = False,
) -> None:
    """Put a release, by default the slot's newest without a report, through the gate.

    Exit code 0 for pass, 1 for fail, 3 for inconclusive. A slot's first release has no champion to be scored
    against: it is inconclusive, and 'headframe rollout start --adopt' takes it live.
    """
    from flows.gate import gate as run
    from flows.runner import run as orchestrate

    settings, actor = _settings(slot), _actor()
    with _progress() as progress:
        result = orchestrate(
            settings,
            "gate",
            lambda: run(settings, slot, release, limit=limit, actor=actor, progress=progress),
            {"slot": slot, "release": release, "limit": limit, "actor": actor},
            use_prefect=not no_prefect,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        _show_gate(result)
    raise typer.Exit(_EXIT[result.verdict])


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

    settings, actor = _settings(slot), _actor()
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

    settings, actor = _settings(slot), _actor()
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

    found = read(_settings(slot), slot)
    if as_json:
        print_json(found)
        return
    console.print(f"{slot}: {found['stage']}, stable {found['stable'] or 'none'}, candidate {found['candidate']}")
    table = Table("when, UTC", "change", _id("release"), _id("stable then"), "by", "why", box=None)
    for change in found["transitions"]:
        table.add_row(
            _when(change["at"]), change["kind"], change["release"], change["stable"] or "", change["actor"],
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

    _show_tick(rollout.abort(_settings(slot), slot, actor=_actor(), reason=reason), as_json)


def rollback(
    slot: Slot,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for",
    as_json: AsJson = False,
) -> None:
    """Make the previous stable release the stable again: a pointer flip, which loads nothing."""
    from flows import rollout

    _show_tick(rollout.rollback(_settings(slot), slot, actor=_actor(), reason=reason), as_json)


def releases(
    slot: Annotated[str | None, typer.Option(help="Of this slot only.")] = None, as_json: AsJson = False
) -> None:
    """List the releases in the ledger with their newest gate verdict and their place."""
    from contextlib import closing

    from infra.ledger import open_ledger

    with closing(open_ledger(_settings(slot))) as ledger:
        rows = []
        for entry in ledger.releases(slot):
            report, state = ledger.latest_gate(entry.sha256), ledger.slot(entry.slot)
            place = next((n for n in ("stable", "candidate", "fallback") if getattr(state, n) == entry.id), None)
            rows.append({**msgspec.to_builtins(entry), "gate": report.verdict if report else None, "place": place})
    if as_json:
        print_json(rows)
        return
    table = Table(_id("release"), "made, UTC", "by", "model", Column("gate", no_wrap=True), "place", box=None)
    for row in rows:
        model = row["rebuild"].get("model", row["family"])
        table.add_row(row["id"], _when(row["at"]), row["actor"], model, row["gate"] or "–", row["place"] or "")
    console.print(table)


def _settings(slot: str | None = None) -> Settings:
    """The settings; a slot that they do not have is told before anything is done."""
    from infra.settings import load_settings

    settings = load_settings()
    if slot is not None and slot not in settings.all_slots:
        raise UserError(f"no slot is called {slot!r}; configured: {', '.join(settings.all_slots)}", exit_code=2)
    return settings


def _actor() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return f"uid {os.getuid()}"


def _id(head: str) -> Column:
    """A column of release ids, which are meant to be copied: never cut."""
    return Column(head, no_wrap=True, min_width=23)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


@contextmanager
def _progress() -> Iterator[Any]:
    """Bars on stderr, one for each thing that is counted."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=progress_console, transient=True) as bars:
        known: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield tell


def _show_gate(result: GateResult) -> None:
    table = Table("check", "verdict", "reason", box=None)
    for check in result.checks:
        colour = _COLOURS[check.verdict]
        table.add_row(check.name, f"[{colour}]{check.verdict}[/]", escape(check.reason))
    console.print(table)
    if result.score is not None:
        standings = Table("", "mean CRPS, bp", "change, %", "95 % interval", box=None)
        rows = [(result.release, result.score.candidate, result.score.change_pct, result.score.ci95)]
        rows += [(b.name, b.score, b.change_pct, b.ci95) for b in result.score.baselines]
        rows += [(f"{result.champion} (champion)", result.score.champion, 0.0, (None, None))]
        for name, score, change, (low, high) in rows:
            interval = "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"
            standings.add_row(
                name, "–" if score is None else f"{score:.2f}", "–" if change is None else f"{change:+.2f}", interval
            )
        console.print(standings)
    word = f"[{_COLOURS[result.verdict]}]{result.verdict}[/]"
    console.print(f"{word} {result.release}: {escape(result.summary)}", soft_wrap=True)


def _show_tick(done: Tick, as_json: bool) -> None:
    if as_json:
        print_json(done.as_dict())
        return
    step = f"{done.before} -> {done.after}" if done.moved else done.after
    console.print(f"{done.slot}: {step}; stable {done.stable or 'none'}; {escape(done.reason)}", soft_wrap=True)
