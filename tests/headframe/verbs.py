"""Verbs run inside the test's process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from headframe import cli
from serving.errors import UserError

SLOT = "synth-high"


def headframe(*words: str) -> Result:
    """What `headframe` says and how it ends."""
    return CliRunner().invoke(cli.build(), list(words))


def failure(done: Result) -> UserError:
    """The one line that a verb ended with."""
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    return done.exception
