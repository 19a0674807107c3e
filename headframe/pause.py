"""``headframe pause`` and ``resume``: be away for a while, on purpose and politely."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from headframe.options import AsJson
from headframe.output import EXIT_BAD, console, print_json
from infra.settings import Settings, load_settings
from serving.errors import UserError

WAIT_S = 15.0
"""How long workers may take to say that they saw it; they look ten times a second."""


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(epilog='Example: headframe pause --reason "new disk"')(pause)
    app.command(epilog="Example: headframe resume")(resume)


def pause(
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at the status.")] = "asked for",
    as_json: AsJson = False,
) -> None:
    """Answer every request 503 with Retry-After, pings too, until 'resume'; what was admitted is finished.

    It holds over restarts. Exit code 1 when a worker that runs does not say that it saw it.
    """
    from serving.state import Pause, write_state

    settings = load_settings()
    reason = reason.encode(errors="replace").decode()  # a terminal of another encoding must not keep us from pausing
    found = Pause(reason, time.time())
    try:
        write_state(settings.paths.pause, found)
    except OSError as error:
        raise UserError(f"{settings.paths.pause} cannot be written: {error.strerror}") from None
    workers, late = _seen(settings, paused=True)
    if as_json:
        print_json({"paused": True, **msgspec.to_builtins(found), "workers": workers, "late": late})
    else:
        console.print(f"Paused: {escape(reason)}. {_told(workers)} 'headframe resume' ends it.")
    _exit(late)


def resume(as_json: AsJson = False) -> None:
    """Answer again after a pause; harmless when there is none."""
    settings = load_settings()
    try:
        settings.paths.pause.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{settings.paths.pause} cannot be removed: {error.strerror}") from None
    workers, late = _seen(settings, paused=False)
    if as_json:
        print_json({"paused": False, "workers": workers, "late": late})
    else:
        console.print(f"Not paused. {_told(workers)}")
    _exit(late)


def _seen(settings: Settings, *, paused: bool) -> tuple[int, list[int]]:
    """How many workers have it in force, and the pids of those that did not say so in time."""
    from serving.workers.acks import folder_of, recent

    end = time.monotonic() + WAIT_S
    while True:
        acks = recent(folder_of(Path(settings.paths.run)))
        late = [ack.pid for ack in acks if ack.paused != paused]
        if not late or time.monotonic() > end:
            return len(acks) - len(late), late
        time.sleep(0.05)


def _told(workers: int) -> str:
    if not workers:
        return "No gateway runs; the next one will know."
    return f"In force in {workers} worker{'s' if workers > 1 else ''}."


def _exit(late: list[int]) -> None:
    if late:
        raise UserError(f"workers {', '.join(map(str, late))} did not say that they saw it; see 'headframe status'",
                        exit_code=EXIT_BAD)  # fmt: skip
