"""What a person sees after a gate: Prefect's runs, the gate's artifact, and the MLflow run, in a real browser.

The pictures are left in ``var/screenshots``. ``HEADFRAME_SCREENSHOT_HOME=var/demo`` takes them of that home's stack,
which is started for it if it is down.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from infra.ledger import GateEntry, ReleaseEntry, open_ledger
from infra.objects import object_store
from infra.ports import endpoints, need
from infra.settings import ROOT, Settings, load_settings
from infra.stack.commands import tool
from tests.browser.chromium import Browser, find
from tests.live import reference_is_live

SHOWN_HOME = os.environ.get("HEADFRAME_SCREENSHOT_HOME")  # read here: the tests' environment is scrubbed later
PICTURES = ROOT / "var" / "screenshots"
SLOT = "synth-high"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the servers and the gate, then a browser a page
    pytest.mark.stack,
    pytest.mark.triton,
    pytest.mark.browser,
    pytest.mark.skipif(find() is None, reason="no Chromium on the path: apt-get install chromium"),
]


class Shown(NamedTuple):
    """Two servers, and what they should show."""

    prefect: str
    mlflow: str
    release: ReleaseEntry
    report: GateEntry


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(str(find()), tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADFRAME_CONFIG", os.devnull)
        if SHOWN_HOME:
            patch.setenv("HEADFRAME_HOME", str(ROOT / SHOWN_HOME))
            was_up = _headframe("status", "--json").returncode == 0
            assert _headframe("up").returncode == 0
            yield _seen(load_settings())
            if not was_up:
                _headframe("down")
            return
        patch.setenv("HEADFRAME_HOME", str(tmp_path_factory.mktemp("shown")))
        patch.setenv("HEADFRAME_S3__ENDPOINT", request.getfixturevalue("s3_server"))
        patch.setenv("HEADFRAME_MLFLOW_URL", request.getfixturevalue("mlflow_url"))
        patch.setenv("HEADFRAME_PREFECT_URL", request.getfixturevalue("prefect_url"))
        settings = load_settings()
        reference_is_live(settings, SLOT)
        trained = _headframe("retrain", "--slot", SLOT)
        assert trained.returncode == 0, trained.stderr
        gated = _headframe("gate", "--slot", SLOT)
        assert gated.returncode in {0, 1, 3}, gated.stderr
        yield _seen(settings)
        store = object_store(settings)
        for key in store.list(""):
            store.delete(key)


def _headframe(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("headframe"), *words], capture_output=True, text=True, check=False, timeout=600)


def _seen(settings: Settings) -> Shown:
    """The newest gate report of the slot that has a score."""
    with closing(open_ledger(settings)) as ledger:
        reports = [(entry, ledger.latest_gate(entry.sha256)) for entry in ledger.releases(SLOT)]
    scored = [(entry, report) for entry, report in reports if report is not None and "score" in report.checks]
    release, report = max(scored, key=lambda pair: pair[1].number)
    found = endpoints(settings)
    return Shown(need(found.prefect, "Prefect"), need(found.mlflow, "MLflow"), release, report)


def _ask(url: str, document: dict[str, Any] | None = None) -> Any:
    """What a GET gives, or the POST of a document."""
    method = "GET" if document is None else "POST"
    return httpx.request(method, url, json=document, timeout=60, trust_env=False).raise_for_status().json()


def _is_a_picture(path: Path, width: int, height: int) -> None:
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (width, height)
        pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    shades = len(np.unique(pixels.reshape(-1, 3), axis=0))
    assert pixels.std() > 5.0, "one flat colour"
    assert shades > 200, f"{shades} shades: a page without text or figures"


def test_prefect_shows_the_flow_runs(shown: Shown, browser: Browser) -> None:
    out = PICTURES / "prefect-runs.png"
    runs = (f"gate {SLOT}", f"retrain {SLOT} garch-t")
    words = browser.look(f"{shown.prefect}/runs", out, 1440, 1000, wanted=runs)
    assert all(run in words for run in runs)
    _is_a_picture(out, 1440, 1000)


def test_prefect_shows_the_gates_report(shown: Shown, browser: Browser) -> None:
    wanted = {"artifacts": {"key": {"any_": [f"gate-{SLOT}"]}}}
    artifact = _ask(f"{shown.prefect}/api/artifacts/latest/filter", wanted)[0]["latest_id"]
    out = PICTURES / "prefect-gate.png"
    title = f"Gate {SLOT}: {shown.report.verdict}"
    words = browser.look(
        f"{shown.prefect}/artifacts/artifact/{artifact}", out, 1440, 1800, wanted=(title, shown.release.id)
    )
    assert title in words
    assert shown.release.id in words
    for check, verdict in shown.report.checks.items():
        assert re.search(rf"\b{check}\b\W+{verdict}\b", words), f"{check} {verdict}"
    _is_a_picture(out, 1440, 1800)


def test_mlflow_shows_the_run(shown: Shown, browser: Browser) -> None:
    run = _ask(f"{shown.mlflow}/api/2.0/mlflow/runs/get?run_id={shown.release.mlflow_run_id}")["run"]
    metrics = {metric["key"] for metric in run["data"]["metrics"]}
    out = PICTURES / "mlflow-run.png"
    page = f"#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}?workflowType=machine_learning"
    wanted = (run["info"]["run_name"], shown.release.id, "gate.change_pct")
    words = browser.look(f"{shown.mlflow}/{page}", out, 1800, 1800, wanted=wanted)
    assert {"inner.crps", "gate.change_pct"} <= metrics
    assert all(each in words for each in wanted)
    _is_a_picture(out, 1800, 1800)
