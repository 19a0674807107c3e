from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headframe import pause, stack
from infra.stack.checks import Check
from serving.state import read_pause


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
    assert document["traffic"]["records"] == 0
    assert "traffic: 0 records, 0 shipped, losses unknown while the gateway is down; books never" in table.output


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


def test_what_stands_in_brackets_is_said_as_it_is(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    detail, remedy = "the disk is [/dev/sdb]", "set [clock] ntp_servers"
    monkeypatch.setattr("infra.stack.doctor.examine", lambda _: [Check("disk", "fail", detail, remedy)])
    said = CliRunner().invoke(app, ["doctor"]).output
    assert detail in said
    assert remedy in said


def test_a_pause_may_have_any_reason(app: typer.Typer, tmp_path: Path) -> None:
    pause.register(app)
    for reason, told in (("new [disk] for [/dev/sdb]", "new [disk] for [/dev/sdb]"), ("f\udcfcr immer", "f?r immer")):
        done = CliRunner().invoke(app, ["pause", "--reason", reason])
        assert done.exit_code == 0, done.exception
        assert f"Paused: {told}. No gateway runs" in done.output
        assert read_pause(tmp_path / "home" / "serving" / "pause.json").reason == told  # type: ignore[union-attr]
        assert f"Paused ({told}): every request" in CliRunner().invoke(app, ["status"]).output


def test_a_part_that_starts_again_is_no_longer_done() -> None:
    board = stack._Board()
    board.tell("s3", "starting")
    board.tell("s3", "ready after 2.0 s")
    assert board._done == {"s3"}
    board.tell("s3", "stopping")
    assert board._done == set()
    board.tell("s3", "stopped")
    assert board.__rich__().row_count == 1


NOW = 1_795_000_000.0
RECORD: dict[str, Any] = {
    "records": 1200, "uncounted_bytes": 0, "newest": NOW - 4, "shipped": 900, "waiting": 0, "shipping_error": None,
    "lost": 0, "balanced": True, "books": {"at": NOW - 7200, "missing": 0, "uncounted": 0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "1200 records, the newest 4 s ago, 900 shipped, 0 lost; books balanced 2 h ago"),
        ({"lost": 3}, "900 shipped, 3 lost; books"),
        ({"uncounted_bytes": 64_000_000}, "1200 records and 64 MB not counted, the newest"),
        ({"shipping_error": "S3 is away"}, "900 shipped, shipping fails: S3 is away, 0 lost"),
        ({"books": None, "balanced": None}, "books never compared ('headframe replay --reconcile')"),
        (
            {"books": {"at": NOW - 120, "missing": 2, "uncounted": 1}, "balanced": False},
            "books did not balance 2 min ago: 2 requests without a row, 1 rows that nobody counted",
        ),
    ],
)  # fmt: skip
def test_the_traffic_record_in_a_line(changed: dict[str, Any], said: str) -> None:
    assert said in stack.traffic_line(RECORD | changed, NOW)
    assert "\n" not in stack.traffic_line(RECORD | changed, NOW)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-2.0, "0 s ago"), (59.4, "59 s ago"), (60, "1 min ago"), (7000, "2 h ago"), (2e5, "2 d ago")]
)
def test_how_long_ago(seconds: float, said: str) -> None:
    assert stack.ago(seconds) == said
