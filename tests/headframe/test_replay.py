"""The verb `replay`: what it takes, what it refuses, and what it says."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headframe.cli import build
from headframe.replay import _moment
from infra.traffic import replay as core
from infra.traffic.replay import Remade, Replayed, Report
from serving.errors import UserError


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))


def test_times_are_iso_or_ago() -> None:
    assert _moment("--since", "2026-01-31T12:00:00+00:00", 0.0) == 1_769_860_800.0
    assert _moment("--since", "2026-01-31T13:00:00+01:00", 0.0) == 1_769_860_800.0
    assert _moment("--since", "0001-01-01T00:00:00+23:00", 0.0) == 0.0
    assert _moment("--since", f"{'9' * 400}d", 0.0) == 0.0
    assert datetime.fromtimestamp(_moment("--until", "9999-12-31T23:59:59-23:59", 0.0), UTC).year == 9999
    assert _moment("--until", "", 7.0) == 7.0
    for text, ago in (("90s", 90), ("1.5m", 90), ("2h", 7200), ("3d", 259_200)):
        before = time.time()
        assert before - ago <= _moment("--since", text, 0.0) <= time.time() - ago
    for text in ("yesterday", "2026-01-31T12:00:00", "5", "5w"):
        with pytest.raises(UserError, match="give a time as") as told:
            _moment("--since", text, 0.0)
        assert told.value.exit_code == 2


def test_one_file_takes_one_reply() -> None:
    done = CliRunner().invoke(build(), ["replay", "--out", "body"])
    assert isinstance(done.exception, UserError)
    assert done.exception.exit_code == 2
    assert "--request-id" in str(done.exception)


def test_a_reply_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, keep: Any, **options: Any) -> None:
        keep(Remade(Replayed("a-1", 1.0, "synth-low", "legacy", "synth-low-0123456789ab", "matched", "", "", 2), b"{}"))

    monkeypatch.setattr(core, "replay", run)
    out = tmp_path / "missing" / "body"
    done = CliRunner().invoke(build(), ["replay", "--request-id", "a-1", "--out", str(out)])
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == f"the reply cannot be written to {out}: No such file or directory"


def test_an_empty_record_is_inconclusive() -> None:
    done = CliRunner().invoke(build(), ["replay"])
    assert isinstance(done.exception, UserError)
    assert (str(done.exception), done.exception.exit_code) == ("the traffic record holds no such request", 3)


def test_what_differs_and_what_cannot_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [
        Replayed(
            "a-1", 1.0, "synth-low", "legacy", "synth-low-0123456789ab", "differs", "tensors", "the model gave x", 9
        ),
        Replayed("a-2", 2.0, "synth-low", "btauth", None, "cannot", "no body", "the record holds the digest alone", 0),
        Replayed("a-3", 3.0, "synth-low", "btauth", "synth-low-0123456789ab", "matched", "", "", 5),
    ]
    report = Report(1, 1, {"no body": 1}, odd, ["shipped records were not looked at: it is down"])
    monkeypatch.setattr(core, "replay", lambda *args, **options: report)
    done = CliRunner().invoke(build(), ["replay"])
    assert done.exit_code == 1
    assert "1 matched, 1 differ, 1 cannot be answered again (1 no body)" in done.stdout
    assert "a-1" in done.stdout
    assert "a-3" not in done.stdout
