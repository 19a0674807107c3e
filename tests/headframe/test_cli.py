"""The command as a whole: what every verb's help has, and how a mistake is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headframe.cli import build, main


def verbs(command: Any, path: str = "headframe") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from verbs(below, f"{path} {name}")
    else:
        yield path, command


VERBS = dict(verbs(typer.main.get_command(build())))
each_verb = pytest.mark.parametrize("path", VERBS)


@each_verb
def test_every_verb_says_what_it_does_and_shows_an_example(path: str) -> None:
    command = VERBS[path]
    assert command.help[0].isupper()
    assert path in command.epilog
    assert command.epilog.startswith("Example: ")


@each_verb
def test_help_wraps_where_the_terminal_ends(path: str) -> None:
    assert all("\n" not in paragraph for paragraph in VERBS[path].help.split("\n\n"))


@each_verb
def test_every_option_is_explained(path: str) -> None:
    for parameter in VERBS[path].params:
        assert parameter.help, parameter.name


def test_a_setting_that_does_not_exist_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.toml").write_text("gatway = 2\n[gateway]\nworkerz = 2\n")
    monkeypatch.setenv("HEADFRAME_CONFIG", str(tmp_path / "mine.toml"))
    monkeypatch.setattr("sys.argv", ["headframe", "config"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "headframe: setting gateway.workerz: there is no such setting; 'headframe config' lists them all",
        "headframe: setting gatway: there is no such setting; 'headframe config' lists them all",
    ]
