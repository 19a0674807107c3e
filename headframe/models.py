"""The verbs that make models and judge them: ingest, outcomes, retrain, publish, gate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from headframe.options import AsJson, NoPrefect, Release, Slot, actor_name, settings_of
from headframe.output import EXIT_BAD, EXIT_HELD, bars, console, id_column, print_json, progress_console

if TYPE_CHECKING:
    from flows.gate import GateResult

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


def ingest(as_json: AsJson = False, no_prefect: NoPrefect = False) -> None:
    """Ask every price source for its bars, and store what is new. Exit code 1 when a source was in trouble."""
    from flows.ingest import ingest as run
    from flows.runner import run as orchestrate

    settings = settings_of()
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
                console.print(f"{source.source}: {escape(note)}", soft_wrap=True)
    if report.failed:
        raise typer.Exit(EXIT_BAD)


def outcomes(as_json: AsJson = False, no_prefect: NoPrefect = False) -> None:
    """Score every answer whose prices are known by now. Exit code 1 when an answer could not be repeated."""
    from flows.outcomes import outcomes as run
    from flows.runner import run as orchestrate

    settings = settings_of()
    with bars() as progress:
        report = orchestrate(
            settings, "outcomes", lambda: run(settings, progress=progress), {}, use_prefect=not no_prefect,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(msgspec.to_builtins(report))
    else:
        table = Table(
            "slot", "asset", id_column("release"), "role", "answers", "mean CRPS, bp", "terms", "prices", box=None
        )
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

    settings, actor = settings_of(slot), actor_name()
    with bars() as progress:
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

    entry = publish_folder(settings_of(), folder, actor=actor_name())
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

    settings, actor = settings_of(slot), actor_name()
    with bars() as progress:
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
