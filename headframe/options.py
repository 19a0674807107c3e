"""Options that several verbs share, and what they mean to the settings and the ledger."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Annotated

import typer

from serving.errors import UserError

if TYPE_CHECKING:
    from infra.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print facts as one JSON document.")]
Slot = Annotated[str, typer.Option(help="The slot, such as synth-high.")]
Release = Annotated[str | None, typer.Option(help="A release's id or full sha256.")]
NoPrefect = Annotated[bool, typer.Option("--no-prefect", help="Run as a plain function, not as a Prefect flow.")]


def settings_of(slot: str | None = None) -> Settings:
    """The settings; a slot that they do not have is told before anything is done. Raises UserError."""
    from infra.settings import load_settings

    settings = load_settings()
    if slot is not None and slot not in settings.all_slots:
        raise UserError(f"no slot is called {slot!r}; configured: {', '.join(settings.all_slots)}", exit_code=2)
    return settings


def actor_name() -> str:
    """Who does this, for the ledger: the user's name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return f"uid {os.getuid()}"
