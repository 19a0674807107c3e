"""The verb `demo`: the whole loop once, on real packaged prices and recorded time, in a fresh home."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headframe.output import console
from serving.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings

_MARK = "demo.mark"


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(epilog="Example: HEADFRAME_HOME=var/demo headframe demo")(demo)


def demo() -> None:
    """Run the whole loop once in a fresh home: ingest, train, gate, roll out, answer, score, report.

    The home is emptied first if an earlier demo made it. The stack is the demo's own, beside any other, and is
    stopped at the end. Exit code 0 when every answer was valid and every verdict was acted upon.
    """
    from headframe.demo.loop import run
    from infra.settings import load_settings
    from infra.stack.lifecycle import down

    settings = load_settings()
    if settings.profile != "local":
        raise UserError(f"the demo plays recorded time: it works in profile 'local', not '{settings.profile}'")
    _fresh(settings)
    try:
        wrong = run(settings)
    finally:
        down(settings, lambda part, what: None)
    for line in wrong:
        console.print(f"[red]not as it should be:[/] {line}")
    console.print(f"Open it again: HEADFRAME_HOME={_shown(settings.home)} .venv/bin/headframe up", soft_wrap=True)
    if wrong:
        raise typer.Exit(1)


def _fresh(settings: Settings) -> None:
    """Empty the home of an earlier demo; a folder that no demo made is left alone."""
    from infra.stack.lifecycle import down

    home = settings.home
    if home.exists() and any(home.iterdir()):
        if not (home / _MARK).exists():
            raise UserError(f"{home} is not empty and no demo made it: set HEADFRAME_HOME to an empty folder")
        down(settings, lambda part, what: None)
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _MARK).write_text("made by 'headframe demo', and emptied by its next run\n")


def _shown(home: Path) -> str:
    """The home as a person would type it from here."""
    here = Path.cwd()
    return str(home.relative_to(here)) if home.is_relative_to(here) else str(home)
