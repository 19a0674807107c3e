"""A model's life on real servers: retrain, gate, adopt, roll out, outcomes; and what each fault does to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from flows import rollout
from flows.bring import live_triton
from flows.gate import GateResult, gate
from flows.guards import Pace
from flows.outcomes import outcomes
from flows.publish import publish_folder
from flows.replays import ask
from flows.retrain import retrain
from flows.steps import in_turn
from infra.ledger import LedgerError, open_ledger
from infra.objects import ObjectStoreError, object_store
from infra.prices import price_store
from infra.settings import S3, Settings
from infra.tracking import CHALLENGER, CHAMPION, TrackingError, tracker
from serving.call import answer_digest, tensor_bytes
from serving.clock import Clock
from serving.errors import UserError
from serving.state import RouteTable
from serving.traffic.records import TrafficRecord
from tests.flows.cable import Cable
from tests.flows.conftest import SLOT, MakeHome, first_release
from tests.flows.traffic import answer, write
from tests.infra.bundles import BROKEN, sealed
from tests.infra.ledger.helpers import report

pytestmark = [pytest.mark.slow, pytest.mark.triton]

Stand = tuple[Settings, str]
T = TypeVar("T")


def said(result: GateResult) -> dict[str, str]:
    return {check.name: check.verdict for check in result.checks}


def reason(result: GateResult, name: str) -> str:
    return next(check.reason for check in result.checks if check.name == name)


def test_the_whole_life(with_triton: Callable[[], Settings]) -> None:
    """A champion planted too wide gives way to the reference, which goes live step by step, and back."""
    home = with_triton()
    champion = first_release(home, sigma_scale=8.0)
    ledger = open_ledger(home)
    assert ledger.slot(SLOT).stable == champion
    first = ledger.latest_gate(ledger.release(champion).sha256)
    assert first is not None
    assert first.checks["score"] == "skipped"

    made = retrain(home, SLOT, "gaussian")
    result = gate(home, SLOT)
    score = result.score
    assert result.verdict == "pass", result.summary
    assert list(said(result)) == ["integrity", "parity", "load", "validity", "latency", "score", "worth"]
    assert said(result)["parity"] == said(result)["worth"] == "skipped"
    assert score is not None
    low, high = score.ci95
    assert low is not None
    assert high is not None
    assert low < (score.change_pct or 0) < high < 0
    assert (score.replays, score.terms, score.terms_full) == (66, 121, 121)
    assert score.disjoint == 12
    assert {"reference-gaussian", "trailing-sigma"} <= {b.name for b in score.baselines}
    reference = next(b for b in score.baselines if b.name == "reference-gaussian")
    assert reference.score == pytest.approx(score.candidate, rel=0.02)
    stored = ledger.latest_gate(ledger.release(made.release).sha256)
    assert stored is not None
    assert stored.report == json.loads(json.dumps(result.as_dict()))

    rollout.start(home, SLOT)
    pace = Pace(shadow_answers=1, canary_answers=1)
    assert rollout.tick(home, SLOT, pace=pace).after == "shadow"
    with closing(live_triton(home)) as triton:
        assert {champion, made.release} <= triton.loaded()
    for role in ("shadow", "canary"):
        write(home.paths.traffic, answer(made.release, role))
        rollout.tick(home, SLOT, pace=pace)
    table = msgspec.json.decode(home.paths.routes.read_bytes(), type=RouteTable)
    route = table.slots[SLOT]  # type: ignore[index]
    assert (route.stable, route.fallback) == (made.release, champion)
    following = tracker(home)
    assert following.pointed(SLOT, CHAMPION) == made.release

    assert rollout.rollback(home, SLOT).stable == champion
    rollout.tick(home, SLOT)
    assert following.pointed(SLOT, CHAMPION) == champion
    ledger.close()


def test_a_candidate_too_wide_fails_by_its_score(stand: Stand) -> None:
    home, champion = stand
    made = retrain(home, SLOT, "gaussian", 3.0)
    result = gate(home, SLOT)
    assert result.release == made.release
    assert result.verdict == "fail"
    assert [name for name, verdict in said(result).items() if verdict == "fail"] == ["score"], result.summary
    with pytest.raises(LedgerError, match="says fail") as refused:
        rollout.start(home, SLOT)
    assert refused.value.exit_code == 1
    assert rollout.status(home, SLOT)["stable"] == champion
    with pytest.raises(LedgerError, match="waits for its gate") as nothing:
        gate(home, SLOT)
    assert nothing.value.exit_code == 3


def test_a_run_in_mlflow_has_all_that_a_person_asks_for(make_home: MakeHome) -> None:
    home = make_home()
    made = retrain(home, SLOT)
    client = tracker(home)._client
    run = client.get_run(made.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == "garch-t"
    assert run.data.tags["headframe.data_digest"] == made.data_digest
    metrics = run.data.metrics
    assert metrics["inner.crps"] > 0
    assert metrics["inner.crps.AAPLX.1min"] > metrics["inner.crps.AAPLX.0_5min_gaps"] > 0
    parts = sum(value for name, value in metrics.items() if name.startswith("inner.crps.AAPLX."))
    assert parts == pytest.approx(metrics["inner.crps"], rel=1e-6)
    assert {file.path for file in client.list_artifacts(made.run_id, "plots")} == {
        "plots/fan.png", "plots/volatility.png"
    }  # fmt: skip
    version = client.get_model_version_by_alias(SLOT, CHALLENGER)
    assert version.tags["headframe.release"] == made.release
    assert version.run_id == made.run_id


def test_training_again_on_the_same_prices_is_the_same_release_once(make_home: MakeHome) -> None:
    home = make_home()
    first, again = retrain(home, SLOT), retrain(home, SLOT)
    assert (first.existing, again.existing) == (False, True)
    assert (first.release, first.run_id) == (again.release, again.run_id)
    with closing(open_ledger(home)) as ledger:
        assert [str(entry.id) for entry in ledger.releases(SLOT)] == [first.release]
    client = tracker(home)._client
    assert len(client.search_model_versions(f"name = '{SLOT}' and tags.`headframe.release` = '{first.release}'")) == 1


def test_a_candidate_that_only_has_another_name_fails_integrity(stand: Stand) -> None:
    home, champion = stand
    result = gate(home, SLOT, champion)
    assert said(result)["integrity"] == "fail"
    assert "is the champion itself" in reason(result, "integrity")
    twin = sealed(home.paths.models)  # the same parameters and code under another manifest
    publish_folder(home, twin.folder)
    result = gate(home, SLOT, twin.id)
    assert result.verdict == "fail"
    assert "both would answer the same" in reason(result, "integrity")


def test_a_changed_file_is_named_and_nothing_else_is_looked_at(make_home: MakeHome) -> None:
    home = make_home()
    made = retrain(home, SLOT, "gaussian", 1.1)
    params = home.paths.models / made.release / "1" / "params.json"
    params.write_bytes(params.read_bytes().replace(b"gaussian", b"gaussiam"))
    result = gate(home, SLOT)
    assert result.verdict == "fail"
    assert reason(result, "integrity") == f"{made.release}: 1/params.json was changed: its sha256 is not the manifest's"
    assert {name: v for name, v in said(result).items() if name != "integrity"} == dict.fromkeys(
        ("parity", "load", "validity", "latency", "score", "worth"), "skipped"
    )


def test_a_changed_object_in_the_store_is_named(make_home: MakeHome) -> None:
    home = make_home()
    made = retrain(home, SLOT, "gaussian", 1.2)
    objects = object_store(home)
    objects.put(f"releases/{made.sha256}/1/model.py", b"print('hello')")
    result = gate(home, SLOT)
    assert said(result)["integrity"] == "fail"
    assert "1/model.py was changed" in reason(result, "integrity")


NO_IMPORT = ("import hashlib", "import hashlib, no_such_module")
DIGITS = ("paths[:, 0] = price", "price *= 1e6\n    paths[:, 0] = price")


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (BROKEN["nan"][:2], "load", "not finite"),
        (BROKEN["shape"][:2], "load", "has shape"),
        (DIGITS, "validity", "too many digits"),
        (NO_IMPORT, "load", "no_such_module"),
    ],
    ids=["nan", "shape", "digits", "import"],
)
def test_a_broken_candidate_fails_and_the_check_is_named(
    stand: Stand, tmp_path: Path, change: tuple[str, str], check: str, says: str
) -> None:
    home, _ = stand
    bad = sealed(tmp_path, replace=change)
    publish_folder(home, bad.folder)
    result = gate(home, SLOT)
    assert result.release == bad.id
    assert result.verdict == "fail"
    assert said(result)[check] == "fail"
    assert says in reason(result, check)


def test_a_release_that_the_live_triton_cannot_load_is_dropped_and_triton_stays_ready(
    stand: Stand, tmp_path: Path
) -> None:
    home, champion = stand
    bad = sealed(tmp_path, sigma_scale=1.01, replace=NO_IMPORT)
    entry = publish_folder(home, bad.folder)
    with closing(open_ledger(home)) as ledger:
        report(ledger, entry, ledger.release(champion))
    rollout.start(home, SLOT, bad.id)
    done = rollout.tick(home, SLOT)
    assert done.aborted
    assert "no_such_module" in done.reason
    with closing(live_triton(home)) as triton:
        assert triton.ready()
        assert champion in triton.loaded()


def test_a_part_that_goes_down_fails_the_flow_plainly_and_a_rerun_finishes_it_once(
    make_home: MakeHome, clean_s3: str, mlflow_url: str
) -> None:
    s3, mlflow = Cable(int(clean_s3.rpartition(":")[2])), Cable(int(mlflow_url.rpartition(":")[2]))
    settings = make_home(s3=S3(endpoint=f"http://127.0.0.1:{s3.port}"), mlflow_url=f"http://127.0.0.1:{mlflow.port}")

    def pulled(cable: Cable, at: str) -> Any:
        def steps(name: str, work: Callable[[], T], *, retries: int = 0) -> T:
            if name == at:
                cable.pull()
            return in_turn(name, work, retries=retries)

        return steps

    with pytest.raises(ObjectStoreError) as down:
        retrain(settings, SLOT, "gaussian", 1.5, steps=pulled(s3, "publish to S3"))
    assert "\n" not in str(down.value)
    s3.plug()
    with pytest.raises(TrackingError, match="MLflow at") as away:
        retrain(settings, SLOT, "gaussian", 1.5, steps=pulled(mlflow, "log to MLflow"))
    assert "\n" not in str(away.value)
    mlflow.plug()
    made = retrain(settings, SLOT, "gaussian", 1.5)
    assert not made.existing

    with pytest.raises(UserError):
        gate(settings, SLOT, steps=pulled(s3, "integrity"))
    s3.plug()
    with pytest.raises(TrackingError):
        gate(settings, SLOT, steps=pulled(mlflow, "log to MLflow"))
    mlflow.plug()
    assert gate(settings, SLOT).number == 1  # nothing was stored by those that failed
    stored = {key.removeprefix(f"releases/{made.sha256}/") for key in object_store(settings).list("releases/")}
    assert {"1/manifest.json", "1/params.json"} <= stored
    versions = tracker(settings)._client.search_model_versions(
        f"name = '{SLOT}' and tags.`headframe.release` = '{made.release}'"
    )
    assert len(versions) == 1
    s3.pull()
    mlflow.pull()


def test_mlflow_that_is_down_is_told_before_any_work(make_home: MakeHome) -> None:
    settings = make_home(mlflow_url="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 does not answer"):
        retrain(settings, SLOT)
    assert not settings.paths.models.exists() or not list(settings.paths.models.iterdir())


def served(home: Settings, release: str, start: int, request_id: str, asset: str = "AAPLX") -> TrafficRecord:
    """An answer as the gateway gives and records it."""
    asked = ask(SLOT, asset, start, price_store(home).book(start - 60, [asset]), paths=50)
    with closing(live_triton(home)) as triton:
        outputs = triton.infer(release, asked.inputs.tensors)
    outputs.pop("RELEASE")
    return TrafficRecord(
        request_id=request_id, at=time.time(), subnet_at=start - 60.0, dialect="legacy", caller="5F", slot=SLOT,
        synapse="Simulation", role="stable", release=release, status=200, code="ok", request=asked.task.canonical,
        seed=asked.seed, inputs=asked.inputs.recorded, answer_digest=answer_digest(outputs),
        tensors={name: tensor_bytes(value) for name, value in asked.inputs.tensors.items()},
    )  # fmt: skip


def test_outcomes_score_each_answer_once_when_its_time_is_over(stand: Stand) -> None:
    home, release = stand
    for left in home.paths.traffic.glob("*"):
        left.unlink()
    session = price_store(home).sessions("AAPLX", 60)[-2][0]
    early, late = session + 1_800, session + 7_200
    records = [served(home, release, start, f"r{start}") for start in (early, late)]
    shadow = msgspec.structs.replace(records[0], role="shadow", tensors={}, request=b"")
    liar = msgspec.structs.replace(records[0], request_id="liar", answer_digest="0" * 64)
    gone = msgspec.structs.replace(records[0], request_id="gone", release=f"{SLOT}-000000000000")
    token = served(home, release, early, "token", asset="BTC")
    write(home.paths.traffic, *records, liar, gone, token, answer(release, "stable", code="bad_input"))

    clock = Clock(home.paths.clock)
    clock.set(early + 3_600 + 91, rate=0.0)
    report = outcomes(home)
    assert (report.scored, report.waiting, report.mismatches, report.not_loaded) == (2, 1, 1, 1)
    rows = {row["asset"]: row for row in report.table}
    assert rows["AAPLX"]["terms"] == 121
    assert rows["AAPLX"]["score"] > 0
    assert (rows["AAPLX"]["simulated"], rows["BTC"]["simulated"]) == (False, True)

    again = outcomes(home)
    assert (again.scored, again.known, again.keys) == (0, 2, [])
    assert again.table == report.table

    clock.set(late + 3_600 + 91, rate=0.0)
    write(home.paths.traffic, shadow)
    later = outcomes(home)
    assert later.scored == 1  # the shadow is the same request and release as its stable answer
    assert sum(row["answers"] for row in later.table) == 3
    assert np.isfinite([row["score"] for row in later.table]).all()
