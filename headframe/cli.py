"""The ``headframe`` command: one Typer app, whose verbs live in the modules beside this one."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from serving.errors import UserError


def build() -> typer.Typer:
    """The whole command, verbs registered."""
    from headframe import demo, models, pause, replay, serve, stack, twin

    app = typer.Typer(
        name="headframe",
        help="A Bittensor miner's platform: answer validators from Triton, and keep making the models better.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for module in (stack, serve, pause, models, twin, replay, demo):
        module.register(app)
    return app


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
            said = problem["msg"].removeprefix("Value error, ")
            print(f"headframe: setting {where}: {said}" if where else f"headframe: {said}", file=sys.stderr)
        sys.exit(2)
