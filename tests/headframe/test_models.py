"""The verbs that make and judge models: help, exit codes, and what they print; help of the rollout's verbs too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.gate import GateResult
from flows.ingest import IngestReport
from flows.retrain import RetrainResult
from flows.verdicts import NAMES, Check
from tests.headframe.verbs import SLOT, failure, headframe

pytestmark = pytest.mark.usefixtures("home")
VERBS = (
    "ingest", "outcomes", "retrain", "publish", "gate", "rollback", "releases", "rollout start", "rollout tick",
    "rollout status", "rollout abort",
)  # fmt: skip


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
