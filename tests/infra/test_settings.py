"""A settings file or a variable that cannot be read is told in one line."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.settings import Settings, load_settings
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
    "said",
    [
        {"netuid": -1}, {"traffic": {"keep_days": math.inf}}, {"traffic": {"disk_cap": -1}},
        {"prices": {"record_every": 0}}, {"prices": {"pyth_history_days": -1}},
        {"gateway": {"stake_threshold": math.nan}}, {"gateway": {"workers": 0}}, {"clock": {"max_skew": 0}},
        {"ports": {"gateway": 70_000}},
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**said)
