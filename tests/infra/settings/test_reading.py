"""A settings file or a variable that cannot be read is told in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.settings import load_settings
from infra.stack.launch import environment
from serving.errors import UserError


def refused(monkeypatch: pytest.MonkeyPatch, file: Path | str) -> str:
    monkeypatch.setenv("HEADFRAME_CONFIG", str(file))
    with pytest.raises(UserError) as told:
        load_settings()
    assert told.value.exit_code == 2
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_file_that_is_no_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("netuid = \n")
    assert refused(monkeypatch, file) == f"{file} is not TOML: Invalid value (at line 1, column 10)"
    file.write_bytes(b"profile = '\xff'\n")
    assert refused(monkeypatch, file) == f"{file} is not TOML: its text is not UTF-8"


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "there is no settings file {}; HEADFRAME_CONFIG names it"
    assert refused(monkeypatch, tmp_path / "none.toml") == said.format(tmp_path / "none.toml")
    assert refused(monkeypatch, tmp_path) == said.format(tmp_path)


def test_no_file_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADFRAME_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert load_settings().netuid == 50
    (tmp_path / "headframe.toml").write_text("netuid = 51\n")
    assert load_settings().netuid == 51


@pytest.mark.parametrize(("variable", "field"), [("HEADFRAME_SLOTS", "slots"), ("HEADFRAME_GATEWAY__ALLOW", "gateway")])
def test_a_list_in_a_variable_is_json(variable: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "synth-high")
    assert refused(monkeypatch, os.devnull).startswith(f"setting {field}: a variable HEADFRAME_{field.upper()}")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("HEADFRAME_NETUDI", "HEADFRAME_NETUID"), ("HEADFRAME_PREFECT_URI", "HEADFRAME_PREFECT_URL"),
        ("HEADFRAME_PORTS_GATEWAY", "HEADFRAME_PORTS__GATEWAY"), ("HEADFRAME_CONFIGS", "HEADFRAME_CONFIG"),
        ("HEADFRAME_GATWAY__WORKERS", "HEADFRAME_GATEWAY__WORKERS"), ("headframe_profil", "HEADFRAME_PROFILE"),
    ],
)  # fmt: skip
def test_a_variable_that_names_no_setting(variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "51")
    said = refused(monkeypatch, os.devnull)
    assert said == f"there is no setting {variable} (the nearest is {nearest}): docs/settings.md lists them all"


def test_several_variables_that_name_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HEADFRAME_SLOT", "HEADFRAME_XYZZY"):
        monkeypatch.setenv(variable, "51")
    assert refused(monkeypatch, os.devnull) == (
        "there is no setting HEADFRAME_SLOT (the nearest is HEADFRAME_SLOTS), HEADFRAME_XYZZY: "
        "docs/settings.md lists them all"
    )


def test_a_wrong_name_in_a_table_is_the_tables_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADFRAME_CONFIG", os.devnull)
    monkeypatch.setenv("HEADFRAME_GATEWAY__WORKERZ", "3")
    with pytest.raises(ValidationError, match=r"gateway\.workerz"):
        load_settings()


def test_a_process_of_the_stack_reads_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was misspelt where `up` was called stays outside, and what the stack sets itself is known."""
    outside = {"HEADFRAME_NETUDI": "7", "HEADFRAME_NETUID": "8"}
    of_the_supervisor = environment(outside, tmp_path, "supervisor", {"HEADFRAME_PYTHON": "python"})
    own = environment(of_the_supervisor, tmp_path, "gateway", {"HEADFRAME_CONFIG": os.devnull})
    for variables in (of_the_supervisor, own):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            assert load_settings().netuid == 50
