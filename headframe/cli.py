"""The ``headframe`` command: one Typer app, whose verbs live in the modules beside this one."""

from __future__ import annotations

import inspect
import sys

import typer
from pydantic import ValidationError

from serving.errors import UserError

_UNKNOWN = "there is no such setting; 'headframe config' lists them all"


def build() -> typer.Typer:
    """The whole command, verbs registered."""
    from headframe import demo, models, pause, replay, rollouts, serve, stack, twin

    app = typer.Typer(
        name="headframe",
        help="A Bittensor miner's platform: answer validators from Triton, and keep making the models better.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for module in (stack, serve, pause, models, rollouts, twin, replay, demo):
        module.register(app)
    _flow(app)
    return app


def _flow(app: typer.Typer) -> None:
    """Let help wrap where the terminal ends, not where the source does."""
    for command in app.registered_commands:
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n") if command.callback else []
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)


def main() -> None:
    """Run the command; what a person can mend is one line on stderr, never a traceback."""
    try:
        build()()
    except UserError as error:
        print(f"headframe: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            said = _UNKNOWN if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
            print(f"headframe: setting {where}: {said}" if where else f"headframe: {said}", file=sys.stderr)
        sys.exit(2)
