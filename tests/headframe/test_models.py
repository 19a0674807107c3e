"""The verbs over a model's life: help, exit codes, and what they print."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.gate import GateResult
from flows.ingest import IngestReport
from flows.retrain import RetrainResult
from flows.verdicts import NAMES, Check
from headframe import cli
from infra.ledger import moves, open_ledger
from infra.settings import Settings
from serving.errors import UserError
from tests.infra.ledger.helpers import add, report

SLOT = "synth-high"
VERBS = (
    "ingest", "outcomes", "retrain", "publish", "gate", "rollback", "releases", "rollout start", "rollout tick",
    "rollout status", "rollout abort",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def headframe(*words: str) -> Result:
    return CliRunner().invoke(cli.build(), list(words))


def failure(done: Result) -> UserError:
    assert isinstance(done.exception, UserError), done.output
    assert "\n" not in str(done.exception)
    return done.exception


def live(home: Path) -> tuple[str, str]:
    """A stable release and a candidate that passed its gate."""
    with closing(open_ledger(Settings(home=home))) as ledger:
        first, second = add(ledger, "first"), add(ledger, "second")
        report(ledger, first, None)
        ledger.move(SLOT, moves.adopt(first.id), kind="adopt", release=first.id, actor="t", reason="first")
        report(ledger, second, first)
        return first.id, second.id


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_json_where_it_prints_facts(verb: str) -> None:
    done = headframe(*verb.split(), "--help")
    assert done.exit_code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    assert f"Example: headframe {verb}" in plain
    assert "--json" in plain


@pytest.mark.parametrize("verb", ["retrain", "gate", "rollback", "rollout tick", "rollout start", "rollout status"])
def test_an_unknown_slot_is_a_usage_error_that_names_the_known(verb: str) -> None:
    error = failure(headframe(*verb.split(), "--slot", "synth-huge"))
    assert str(error) == "no slot is called 'synth-huge'; configured: synth-high, synth-low"
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("retrain", "--slot", SLOT, "--model", "lstm"),
        ("retrain", "--slot", SLOT, "--sigma-scale", "0"),
        ("gate", "--slot", SLOT, "--limit", "0"),
        ("retrain",),
    ],
)
def test_a_bad_option_is_a_usage_error(words: tuple[str, ...]) -> None:
    assert headframe(*words).exit_code == 2


def test_a_part_that_has_no_address_is_one_clear_line() -> None:
    assert str(failure(headframe("retrain", "--slot", SLOT))).startswith("MLflow has no address: start the stack")
    assert str(failure(headframe("ingest"))).startswith("S3 has no address: start the stack")


def test_releases_are_listed_with_verdict_and_place(home: Path) -> None:
    assert json.loads(headframe("releases", "--json").stdout) == []
    first, second = live(home)
    rows = json.loads(headframe("releases", "--slot", SLOT, "--json").stdout)
    assert [(row["id"], row["gate"], row["place"]) for row in rows] == [
        (first, "inconclusive", "stable"), (second, "pass", None)
    ]  # fmt: skip
    text = headframe("releases").stdout
    assert first in text.replace("\n", "").replace(" ", "") or first[:12] in text


def test_a_rollout_is_started_watched_and_aborted(home: Path) -> None:
    first, second = live(home)
    started = json.loads(headframe("rollout", "start", "--slot", SLOT, "--json").stdout)
    assert (started["before"], started["after"], started["release"]) == ("settled", "starting", second)
    now = json.loads(headframe("rollout", "status", "--slot", SLOT, "--json").stdout)
    assert (now["stage"], now["stable"], now["candidate"]) == ("starting", first, second)
    assert [change["kind"] for change in now["transitions"]] == ["adopt", "start"]
    assert failure(headframe("rollout", "start", "--slot", SLOT)).exit_code == 3
    done = headframe("rollout", "abort", "--slot", SLOT, "--reason", "not today")
    assert done.exit_code == 0
    assert "aborted: not today" in done.stdout
    assert str(failure(headframe("rollout", "abort", "--slot", SLOT))).endswith("no rollout is under way")


def test_a_rollback_with_nothing_to_go_back_to_says_so(home: Path) -> None:
    live(home)
    assert "no previous stable release" in str(failure(headframe("rollback", "--slot", SLOT)))


def test_a_tick_with_nothing_to_do_is_good(home: Path) -> None:
    done = headframe("rollout", "tick", "--slot", SLOT, "--no-prefect")
    assert done.exit_code == 0
    assert "no release is stable yet" in done.stdout


def test_publishing_what_is_no_release_names_the_file(home: Path) -> None:
    (home / "empty").mkdir()
    assert "1/manifest.json is missing" in str(failure(headframe("publish", str(home / "empty"))))


def gated(verdict: str, score: str) -> GateResult:
    checks = [Check(name, score if name == "score" else "pass", f"{name} said so") for name in NAMES]  # type: ignore[arg-type]
    return GateResult(SLOT, "r", "c", verdict, "because", checks, None, {}, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 3)])
def test_the_gates_verdict_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, verdict: str, code: int) -> None:
    monkeypatch.setattr("flows.gate.gate", lambda *args, **kwargs: gated(verdict, verdict))
    done = headframe("gate", "--slot", SLOT, "--no-prefect")
    assert done.exit_code == code
    assert f"{verdict} r: because" in done.stdout
    assert "score said so" in done.stdout
    done = headframe("gate", "--slot", SLOT, "--no-prefect", "--json")
    assert done.exit_code == code
    assert json.loads(done.stdout)["verdict"] == verdict


def test_the_new_releases_id_is_the_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = {"inner.crps": 900.0, "inner.reference": 930.0, "inner.change_pct": -3.2, "inner.replays": 24.0}
    made = RetrainResult(
        SLOT, f"{SLOT}-0123456789ab", "0" * 64, "garch-t", 1.0, "run", "http://mlflow", 2.0, False, "", "", inner, {}
    )
    monkeypatch.setattr("flows.retrain.retrain", lambda *args, **kwargs: made)
    done = headframe("retrain", "--slot", SLOT, "--no-prefect")
    assert done.stdout.splitlines()[-1] == made.release
    assert "training sessions only" in done.stderr
    told = json.loads(headframe("retrain", "--slot", SLOT, "--no-prefect", "--json").stdout)
    assert (told["release"], told["run_id"]) == (made.release, "run")


@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 1)])
def test_a_source_in_trouble_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, failed: bool, code: int) -> None:
    from flows.ingest import SourceReport

    told = IngestReport([], [SourceReport("pyth", 0, 0, 0, 0, ["BTC could not be had"], failed)], 1.0)
    monkeypatch.setattr("flows.ingest.ingest", lambda *args, **kwargs: told)
    done = headframe("ingest", "--no-prefect")
    assert done.exit_code == code
    assert "pyth: BTC could not be had" in done.stdout
