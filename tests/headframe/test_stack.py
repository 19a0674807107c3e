from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headframe import stack
from infra.stack.checks import Check


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADFRAME_CONFIG", os.devnull)
    made = typer.Typer()
    stack.register(made)
    return made


@pytest.mark.parametrize("verb", ["up", "down", "status", "doctor", "config"])
def test_each_verb_has_an_example_and_speaks_json(app: typer.Typer, verb: str) -> None:
    said = CliRunner().invoke(app, [verb, "--help"]).output
    assert f"Example: headframe {verb}" in said
    assert "--json" in said


def test_status_of_what_is_down_is_complete_and_exits_1(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", "--json"])
    document = json.loads(done.output)
    assert done.exit_code == 1
    assert document["home"] == str(tmp_path / "home")
    assert document["gateway"] == {
        "url": None, "private_url": None, "hotkey": None, "miners": None, "paused": False, "reason": None,
    }  # fmt: skip
    table = CliRunner().invoke(app, ["status"])
    assert table.exit_code == 1
    assert "triton" in table.output


def test_down_of_what_is_down(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["down", "--json"])
    assert (done.exit_code, json.loads(done.output)) == (0, {"home": str(tmp_path / "home"), "stopped": []})
    assert not (tmp_path / "home").exists()


def test_config_says_who_set_what_and_hides_secrets(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADFRAME_S3__SECRET_KEY", "geheim")
    monkeypatch.setenv("HEADFRAME_GATEWAY__WORKERS", "3")
    done = CliRunner().invoke(app, ["config", "--json"])
    settings = json.loads(done.output)
    assert settings["gateway.workers"] == {"value": 3, "source": "HEADFRAME_GATEWAY__WORKERS"}
    assert settings["s3.secret_key"] == {"value": "****", "source": "HEADFRAME_S3__SECRET_KEY"}
    assert "geheim" not in CliRunner().invoke(app, ["config"]).output


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_exits_1_for_a_fault_only(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    found = [Check("disk", verdict, "3 GB free", "make room")]  # type: ignore[arg-type]
    monkeypatch.setattr("infra.stack.doctor.examine", lambda _: found)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == code
    assert json.loads(done.output) == {"ok": code == 0, "checks": [vars(found[0])]}
    said = CliRunner().invoke(app, ["doctor"]).output
    assert ("make room" in said) == (verdict != "ok")


def test_a_part_that_starts_again_is_no_longer_done() -> None:
    board = stack._Board()
    board.tell("s3", "starting")
    board.tell("s3", "ready after 2.0 s")
    assert board._done == {"s3"}
    board.tell("s3", "stopping")
    assert board._done == set()
    board.tell("s3", "stopped")
    assert board.__rich__().row_count == 1
