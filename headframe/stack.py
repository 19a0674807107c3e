"""The verbs that look after the embedded stack: up, down, status, doctor, config."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table

from headframe.options import AsJson
from headframe.output import EXIT_BAD, console, print_json, progress_console
from serving.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings


_COLOURS = {"running": "green", "ready": "green", "starting": "yellow", "unready": "yellow", "failed": "red"}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(epilog="Example: headframe up")(up)
    app.command(epilog="Example: headframe down")(down)
    app.command(epilog="Example: headframe status --json")(status)
    app.command(epilog="Example: headframe doctor")(doctor)
    app.command(epilog="Example: headframe config --json")(config)


class _Board:
    """What each part is doing, for a person who watches: a live table on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, float]] = {}
        self._done: set[str] = set()

    def tell(self, part: str, what: str) -> None:
        """Note what a part does; a line without a part is said at once."""
        if not part or not progress_console.is_terminal:
            progress_console.print(f"{part or 'headframe':>9}  {escape(what)}")
        if part:
            self._rows[part] = (what, time.monotonic())
            if what.startswith(("ready", "stopped")):
                self._done.add(part)
            else:
                self._done.discard(part)

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for part, (what, since) in self._rows.items():
            if part in self._done:
                table.add_row("[green]✓[/]", part, escape(what))
            else:
                table.add_row(Spinner("dots"), part, f"{escape(what)} {time.monotonic() - since:.0f} s")
        return table


@contextmanager
def _watch() -> Iterator[_Board]:
    board = _Board()
    if progress_console.is_terminal:
        with Live(board, console=progress_console, refresh_per_second=8):
            yield board
    else:
        yield board


def up(as_json: AsJson = False) -> None:
    """Start the embedded stack, or mend what is missing of it; twice is harmless.

    In profile local an empty slot gets the reference miner's model, so that every route answers from the start.
    """
    from headframe.flow_runs import fill_empty_slots
    from headframe.serve import vet
    from infra.settings import load_settings
    from infra.stack.lifecycle import up as bring_up

    settings = load_settings()
    vet(settings)
    with _watch() as board:
        done = bring_up(settings, board.tell)
    if settings.profile == "local":
        with progress_console.status("first releases") as line:
            fill_empty_slots(settings, lambda what: line.update(f"first releases: {what}"))
    document = stack_status(settings)
    if as_json:
        print_json(document)
        return
    if done.already:
        console.print("The stack is up already.")
    elif len(done.started) < len(document["components"]):
        console.print(f"Started again: {', '.join(done.started)}.")
    else:
        console.print(f"The stack is up after {done.seconds:.0f} s.")
    if done.settings_changed:
        console.print("The settings have changed since it came up; 'headframe down' and 'headframe up' apply them.")
    _say_if_paused(document)
    console.print(_addresses(document))


def down(as_json: AsJson = False) -> None:
    """Stop the embedded stack of this home and leave no process behind."""
    from infra.settings import load_settings
    from infra.stack.lifecycle import down as bring_down

    settings = load_settings()
    with _watch() as board:
        stopped = bring_down(settings, board.tell)
    if as_json:
        print_json({"home": str(settings.home), "stopped": stopped})
    else:
        home = escape(str(settings.home))
        console.print(f"Stopped: {', '.join(stopped)}." if stopped else f"Nothing was running in {home}.")


def status(as_json: AsJson = False) -> None:
    """Say what runs, where, and since when it had to be restarted; exit code 0 only if all of it answers."""
    from infra.settings import load_settings
    from infra.stack.status import healthy

    document = stack_status(load_settings())
    if as_json:
        print_json(document)
    else:
        _show(document)
    if not healthy(document):
        raise typer.Exit(EXIT_BAD)


def doctor(as_json: AsJson = False) -> None:
    """Check everything the stack stands on and say what to do about each fault; exit code 1 if there is one."""
    from infra.settings import load_settings
    from infra.stack.doctor import examine

    checks = []
    marks = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    for check in examine(load_settings()):
        checks.append(check)
        if not as_json:
            console.print(f"{marks[check.verdict]} {check.name}: {escape(check.detail)}", soft_wrap=True)
            if check.remedy and check.verdict != "ok":
                console.print(f"     {escape(check.remedy)}", soft_wrap=True)
    bad = any(check.verdict == "fail" for check in checks)
    if as_json:
        print_json({"ok": not bad, "checks": [vars(check) for check in checks]})
    if bad:
        raise typer.Exit(EXIT_BAD)


def config(as_json: AsJson = False) -> None:
    """Print the settings in force and where each comes from; secrets are masked."""
    from infra.effective import effective
    from infra.settings import load_settings

    rows = effective(load_settings())
    if as_json:
        print_json({row.name: {"value": row.value, "source": row.source} for row in rows})
        return
    table = Table("setting", "value", "from", box=None)
    for row in rows:
        table.add_row(row.name, escape(str(row.value)), row.source, style="dim" if row.source == "default" else "")
    console.print(table)


def stack_status(settings: Settings) -> dict[str, Any]:
    """The document of ``headframe status --json``, the miner's own hotkey included."""
    from headframe.miners import identities
    from infra.stack.status import status as read_status

    try:
        miners = [miner._asdict() for miner in identities(settings)]
    except UserError:  # no wallet: the gateway says so itself
        miners = []
    return read_status(settings, miners=miners)


def _say_if_paused(document: dict[str, Any]) -> None:
    if document["gateway"]["paused"]:
        reason = escape(document["gateway"]["reason"])
        console.print(f"Paused ({reason}): every request is answered 503 until 'headframe resume'.", style="yellow")


def traffic_line(record: dict[str, Any], now: float) -> str:
    """The traffic record in a line, from the document of ``status``; `now` is wall time, unix s."""
    uncounted = f" and {record['uncounted_bytes'] / 1e6:.0f} MB not counted" if record["uncounted_bytes"] else ""
    told = [f"{record['records']} records{uncounted}"]
    if record["newest"] is not None:
        told.append(f"the newest {ago(now - record['newest'])}")
    failing = f", shipping fails: {record['shipping_error']}" if record["shipping_error"] else ""
    told.append(f"{record['shipped']} shipped{failing}")
    told.append("losses unknown while the gateway is down" if record["lost"] is None else f"{record['lost']} lost")
    return f"traffic: {', '.join(told)}; {_books_line(record, now)}"


def _books_line(record: dict[str, Any], now: float) -> str:
    books = record["books"]
    if books is None:
        return "books never compared ('headframe replay --reconcile')"
    if record["balanced"]:
        return f"books balanced {ago(now - books['at'])}"
    what = f"{books['missing']} requests without a row, {books['uncounted']} rows that nobody counted"
    return f"books did not balance {ago(now - books['at'])}: {what}"


def ago(seconds: float) -> str:
    """How long ago, in the largest unit that leaves a whole number: ``5 s ago``, ``3 h ago``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _addresses(document: dict[str, Any]) -> Table:
    table = Table("", "", box=None, show_header=False)
    table.add_row("validators", document["gateway"]["url"])
    for miner in document["gateway"]["miners"] or ():
        table.add_row(f"miner in subnet {miner['netuid']}", miner["hotkey"])
    table.add_row("health, metrics", document["metrics"]["url"])
    table.add_row("flows (Prefect)", document["prefect"]["url"])
    table.add_row("runs and models (MLflow)", document["mlflow"]["url"])
    table.add_row("Triton, gRPC", document["triton"]["grpc"])
    table.add_row("S3", document["s3"]["endpoint"])
    table.add_row("files, logs", escape(document["home"]))
    return table


def _show(document: dict[str, Any]) -> None:
    parts = Table("part", "state", "restarts", "processes", "", box=None)
    for name, part in document["components"].items():
        state, colour = part["state"], _COLOURS.get(part["state"], "dim")
        restarts = "-" if part["restarts"] is None else str(part["restarts"])
        pids = " ".join(map(str, part["pids"]))
        reason = "" if state == "running" else escape(part["reason"] or "")
        parts.add_row(name, f"[{colour}]{state}[/]", restarts, pids, reason)
    console.print(parts)
    if document["supervisor"]["state"] != "running" and any(p["pids"] for p in document["components"].values()):
        console.print("The supervisor is gone, so nothing that dies is restarted: run 'headframe up'.", style="red")
    _say_if_paused(document)
    slots = Table("slot", "stable", "canary", "shadow", box=None)
    for name, slot in document["slots"].items():
        slots.add_row(name, *(slot[role] or "-" for role in ("stable", "canary", "shadow")))
    console.print(slots)
    console.print(traffic_line(document["traffic"], time.time()), soft_wrap=True, markup=False)
    console.print(_addresses(document))
