"""The verb `replay`: answer requests of the traffic record again, byte for byte."""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from headframe.options import AsJson
from headframe.output import EXIT_BAD, EXIT_HELD, EXIT_USAGE, console, print_json, progress_console
from serving.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings
    from infra.traffic.reconcile import Books
    from infra.traffic.replay import Remade, Report
    from infra.traffic.selection import Wanted

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_LAST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_SHOWN = 20
_COLOURS = {"matched": "green", "differs": "red", "cannot": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(epilog="Example: headframe replay --slot synth-low --since 2h --limit 50")(replay)


def replay(
    *,
    request_id: Annotated[
        str | None, typer.Option("--request-id", help="This request, as the gateway's log and the record name it.")
    ] = None,
    slot: Annotated[str | None, typer.Option(help="Requests of this slot only.")] = None,
    since: Annotated[
        str, typer.Option(help="Arrived since: ISO 8601 with offset, or how long ago (90s, 2h, 3d).")
    ] = "",
    until: Annotated[str, typer.Option(help="Arrived before: the same.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    release: Annotated[
        str | None, typer.Option(help="Answer with this release instead of the recorded ones, to compare.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --request-id: write the reply's body to this file.")] = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Replay nothing: compare requests counted with rows recorded.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer recorded requests again and compare: the model's tensors, the reply's length and its checksum.

    Records of this disk come first, then shipped ones. Releases that the running Triton does not have are loaded into
    a throw-away one. Exit code 0 when every answer matched, 1 when one differs, 3 when some could not be answered.
    """
    from infra.settings import load_settings
    from infra.traffic.selection import Wanted

    settings = load_settings()
    if reconcile:
        _reconcile(settings, as_json=as_json)
        return
    if out is not None and request_id is None:
        raise UserError("--out writes one reply: name its request with --request-id", exit_code=EXIT_USAGE)
    begin, end = _moment("--since", since, 0.0), _moment("--until", until, math.inf)
    report = _run(settings, Wanted(request_id, slot, begin, end, limit), release, out)
    if as_json:
        print_json({**msgspec.to_builtins(report), "exit_code": report.exit_code})
    else:
        _show(report)
    raise typer.Exit(report.exit_code)


def _run(settings: Settings, wanted: Wanted, release: str | None, out: Path | None) -> Report:
    from infra.traffic.replay import replay as run

    def keep(made: Remade) -> None:
        if out is None:
            return
        try:
            out.write_bytes(made.body)
        except OSError as error:
            raise UserError(f"the reply cannot be written to {out}: {error.strerror}") from None

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=progress_console, transient=True) as bars:
        task = bars.add_task("answering again", total=None)
        return run(
            settings, wanted, release=release, keep=keep,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )  # fmt: skip


def _show(report: Report) -> None:
    for note in report.notes:
        progress_console.print(f"[yellow]note[/yellow] {escape(note)}")
    odd = [each for each in report.requests if each.verdict != "matched"]
    if odd or len(report.requests) == 1:
        table = Table(
            Column("request", no_wrap=True), "arrived", "slot", Column("release", no_wrap=True), "verdict", "why"
        )
        for each in (odd or report.requests)[:_SHOWN]:
            colour = _COLOURS[each.verdict]
            at = datetime.fromtimestamp(each.at, UTC).isoformat(timespec="milliseconds")
            why = f"{each.why}: {each.detail}" if each.why else f"{each.bytes} bytes"
            said = f"[{colour}]{each.verdict}[/{colour}]"
            table.add_row(each.request_id, at, each.slot, each.release or "none", said, escape(why))
        console.print(table)
        if len(odd) > _SHOWN:
            console.print(f"and {len(odd) - _SHOWN} more: --json lists all")
    reasons = ", ".join(f"{count} {why}" for why, count in sorted(report.cannot.items()))
    cannot = sum(report.cannot.values())
    console.print(
        f"{report.matched} matched, {report.differ} differ, {cannot} cannot be answered again"
        + (f" ({reasons})" if reasons else "")
    )


def _reconcile(settings: Settings, *, as_json: bool) -> None:
    from infra.traffic.reconcile import reconcile as run

    with progress_console.status("comparing metrics and rows"):
        books = run(settings)
    if as_json:
        print_json(msgspec.to_builtins(books))
    else:
        _show_books(books)
    if books.missing:
        raise typer.Exit(EXIT_BAD)
    if books.uncounted:
        raise typer.Exit(EXIT_HELD)


def _show_books(books: Books) -> None:
    since = datetime.fromtimestamp(books.since, UTC).isoformat(timespec="seconds")
    console.print(
        f"since {since}: {books.requests} requests counted, {books.rows} of them recorded, {books.lost} refused "
        f"by the disk; {books.beside} rows of other releases' tries"
    )
    if books.missing:
        console.print(f"[red]{books.missing} requests have no row[/red]")
    elif books.uncounted:
        console.print(f"[yellow]{books.uncounted} rows are of requests that a killed worker had not counted[/yellow]")
    else:
        console.print("[green]the books agree[/green]")


def _moment(option: str, text: str, default: float) -> float:
    """A time as unix s, 1970 to 9999: ISO 8601 with an offset, or how long ago."""
    if not text:
        return default
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0.0, time.time() - float(ago[1]) * _UNITS[ago[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UserError(
            f"{option} {text}: give a time as 2026-01-31T12:00:00+00:00, or how long ago as 90s, 30m, 2h or 3d",
            exit_code=EXIT_USAGE,
        )
    return min(max(0.0, moment.timestamp()), _LAST)
