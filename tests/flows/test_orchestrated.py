"""The Prefect flows on a real Prefect server: a step that fails makes its flow fail, and a schedule really runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from flows.deployments import plans
from flows.runner import api_url, run
from infra.ledger import moves, open_ledger
from infra.settings import ROOT, Settings
from infra.stack.commands import Command
from serving.subnets.synth.request import SimulationInput
from serving.traffic.records import TensorBytes
from tests.flows.traffic import answer, write
from tests.infra.ledger.helpers import add, report
from tests.servers import running
from tests.serving.processes import until

SLOT = "synth-high"
CLOSED = "127.0.0.1:9"


def test_every_slot_is_trained_gated_and_rolled_out_by_schedule_and_none_by_seconds() -> None:
    settings = Settings(slots=("synth-high", "synth-low"))
    made = plans(settings)
    names = {plan.name for plan in made}
    assert {"ingest", "outcomes"} <= names
    for slot in settings.slots:
        assert {f"{flow}-{slot}" for flow in ("retrain", "gate", "rollout")} <= names
    assert min(plan.every for plan in made) >= timedelta(minutes=1)
    firsts = [plan.first for plan in made]
    assert len(set(firsts)) == len(firsts)


def test_without_a_prefect_server_the_plain_function_runs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, prefect_url=f"http://{CLOSED}")
    assert api_url(settings) is None
    assert run(settings, "ingest", lambda: "plain", {}) == "plain"


@pytest.mark.slow
def test_a_prefect_server_that_is_slow_to_answer_is_there(tmp_path: Path) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(3.0)  # as on a machine that stalls
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert api_url(Settings(home=tmp_path, prefect_url=url)) == f"{url}/api"
        thread.join()


def test_the_verbs_import_neither_prefect_nor_mlflow_before_they_need_them() -> None:
    code = (
        "import sys, headframe.models, headframe.rollouts; "
        "import flows.rollout, flows.gate, flows.retrain, flows.outcomes, flows.runner; "
        "print({'prefect', 'mlflow', 'matplotlib', 'arch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    reply = httpx.post(f"{url}/api/{path}", json=body, timeout=60, trust_env=False)
    return reply.raise_for_status().json()


def environment(home: Path, prefect_url: str, **more: str) -> dict[str, str]:
    return {
        "HEADFRAME_HOME": str(home),
        "HEADFRAME_CONFIG": os.devnull,
        "HEADFRAME_PREFECT_URL": prefect_url,
        "HEADFRAME_S3__ENDPOINT": f"http://{CLOSED}",
        "HEADFRAME_MLFLOW_URL": f"http://{CLOSED}",
        "HEADFRAME_TRITON_GRPC": CLOSED,
        **more,
    }


FAILING = """
    import json, sys
    from infra.settings import load_settings
    from flows.runner import api_url, prepare
    settings = load_settings()
    prepare(settings, api_url(settings), "CRITICAL")
    from flows import orchestrated
    orchestrated.RETRY_DELAY_S = 0.0
    told = {}
    for flow, parameters in json.loads(sys.argv[1]).items():
        try:
            getattr(orchestrated, flow)(**parameters)
            told[flow] = "completed"
        except Exception as error:
            told[flow] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_step_that_fails_makes_its_flow_fail(prefect_url: str, tmp_path: Path) -> None:
    """S3, MLflow and Triton are away; each flow has something to do that needs one of them."""
    settings = Settings(home=tmp_path)
    with closing(open_ledger(settings)) as ledger:
        first, second = add(ledger, "first"), add(ledger, "second")
        report(ledger, first, None)
        ledger.move(SLOT, moves.adopt(first.id), kind="adopt", release=first.id, actor="t", reason="")
        report(ledger, second, first)
        ledger.move(SLOT, moves.start(second.id), kind="start", release=second.id, actor="t", reason="")
        waiting = add(ledger, "waiting")
    asked = SimulationInput("AAPLX", "2026-08-04T14:00:00+00:00", 60, 3600, 10)
    write(
        settings.paths.traffic,
        msgspec.structs.replace(
            answer(first.id, "stable"), subnet_at=1_785_851_940.0, request=msgspec.json.encode(asked),
            tensors={"N": TensorBytes("INT32", [1, 1], b"\n\0\0\0")}, answer_digest="0" * 64,
        ),
    )  # fmt: skip
    flows = {
        "ingest": {}, "outcomes": {}, "retrain": {"slot": SLOT}, "gate": {"slot": SLOT, "release": waiting.id},
        "rollout": {"slot": SLOT},
    }  # fmt: skip
    unscheduled = {"deployment_id": {"is_null_": True}}
    earlier = [run["id"] for run in ask(prefect_url, "flow_runs/filter", {"flow_runs": unscheduled})]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FAILING), json.dumps(flows)], capture_output=True, text=True,
        env={**os.environ, **environment(tmp_path, prefect_url)}, cwd=ROOT, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.keys() == flows.keys()
    for flow, error in told.items():
        assert error.startswith(("ObjectStoreError", "TrackingError", "TritonError")), (flow, error)
    found = ask(prefect_url, "flow_runs/filter", {"flow_runs": {"id": {"not_any_": earlier}, **unscheduled}})
    states = {run["name"]: run["state_type"] for run in found}
    assert states == dict.fromkeys(
        ("ingest", "outcomes", f"retrain {SLOT} garch-t", f"gate {SLOT}", f"rollout {SLOT}"), "FAILED"
    )

    def both_tasks_failed() -> bool:  # Prefect writes down what became of a task some time after
        wanted = {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
        failed = {task["name"].rsplit("-", 1)[0] for task in ask(prefect_url, "task_runs/filter", wanted)}
        return {"reach MLflow", "tick"} <= failed

    until(both_tasks_failed)


RUN = """
    import json, sys, urllib.request
    from contextlib import suppress
    from datetime import UTC, datetime
    from flows.runner import run
    from infra.settings import load_settings
    from serving.errors import UserError
    began = datetime.now(UTC).isoformat()
    with suppress(UserError):
        run(load_settings(), "rollout", lambda: sys.exit("Prefect was not there"), {"slot": "synth-high", "actor": "t"})
    wanted = json.dumps({"logs": {"timestamp": {"after_": began}}}).encode()
    request = urllib.request.Request(sys.argv[1] + "/api/logs/filter", wanted, {"Content-Type": "application/json"})
    print(json.dumps([line["message"] for line in json.load(urllib.request.urlopen(request))]))
"""


@pytest.mark.slow
def test_the_server_has_a_flows_logs_when_it_has_run(prefect_url: str, tmp_path: Path) -> None:
    """Prefect itself sends them some seconds later, when a demo may have stopped the server."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN), prefect_url], capture_output=True, text=True,
        env={**os.environ, **environment(tmp_path, prefect_url)}, cwd=ROOT, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Finished in state Completed()" in json.loads(done.stdout.splitlines()[-1])


SERVING = """
    from datetime import timedelta
    from flows import deployments
    second = timedelta(seconds=1)
    deployments.plans = lambda settings: [
        deployments.Plan("rollout", "rollout-test", {"slot": "synth-high"}, 15 * second, 3 * second)
    ]
    deployments.main()
"""


@pytest.fixture
def serving(prefect_url: str, tmp_path: Path) -> Iterator[Path]:
    """The deployments' own process, with one schedule of seconds instead of minutes."""
    command = Command((sys.executable, "-c", textwrap.dedent(SERVING)), environment(tmp_path, prefect_url), cwd=ROOT)

    def ready() -> bool:
        with suppress(httpx.HTTPError):
            found = ask(prefect_url, "deployments/filter", {"deployments": {"name": {"any_": ["rollout-test"]}}})
            return bool(found) and found[0]["status"] == "READY"
        return False

    with running(command, tmp_path / "log", ready, 240):
        yield tmp_path


@pytest.mark.slow
def test_a_schedule_really_runs(serving: Path, prefect_url: str) -> None:
    (deployment,) = ask(prefect_url, "deployments/filter", {"deployments": {"name": {"any_": ["rollout-test"]}}})
    assert deployment["tags"] == ["headframe", SLOT]

    def finished() -> list[dict[str, Any]]:
        wanted = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["COMPLETED"]}}}
        runs = ask(prefect_url, "flow_runs/filter", {"flow_runs": wanted})
        return [run for run in runs if run["auto_scheduled"]]

    try:
        done = until(finished, 240.0)
    except AssertionError:
        raise AssertionError((serving / "log").read_text()[-3000:]) from None
    assert done[0]["name"] == f"rollout {SLOT}"
    artifacts = ask(prefect_url, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [done[0]["id"]]}}})
    assert any("no release is stable yet" in artifact["data"] for artifact in artifacts)
    assert (serving / "serving" / "routes.json").exists()
