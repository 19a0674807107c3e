"""The notebooks run from first cell to last, against real servers and in a home of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows.split import make_split
from infra.ledger import open_ledger
from infra.objects import ObjectStore
from infra.prices import price_store
from infra.settings import ROOT, Settings, load_settings
from tests.live import reference_is_live

NOTEBOOKS = ROOT / "notebooks"
pytestmark = pytest.mark.slow


@pytest.fixture
def home(
    objects: ObjectStore, mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Settings]]:
    """A scratch home that the notebooks' kernel sees, with the session's S3 and MLflow."""
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADFRAME_S3__ENDPOINT", objects.endpoint)
    monkeypatch.setenv("HEADFRAME_MLFLOW_URL", mlflow_url)
    monkeypatch.setenv("HEADFRAME_CONFIG", os.devnull)
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    before = _tree()
    yield tmp_path, load_settings()
    assert _tree() == before, "a notebook wrote into the checkout"


def _tree() -> str:
    done = subprocess.run(["git", "status", "--porcelain"], cwd=NOTEBOOKS, capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stdout.splitlines() if "notebooks/" in line)


def run(name: str, folder: Path) -> list[Any]:
    """Execute a notebook's percent script in a kernel of this environment; an error in a cell goes through."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    work = folder / "work"
    work.mkdir()
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()
    assert list(work.iterdir()) == []
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def _text(outputs: list[Any]) -> str:
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def _pictures(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_prices_and_volatility(home: tuple[Path, Settings]) -> None:
    outputs = run("01_prices_and_volatility", home[0])
    text = _text(outputs)
    assert _pictures(outputs) == 2
    assert "1591 one-minute, 2977 hourly and 500 overnight returns" in text
    assert "busiest half hour / quietest: 5.1 times" in text
    assert "excess kurtosis 22.0, by time of day 2.4" in text
    split = make_split(price_store(home[1]), "synth-high")
    starts = sum(len(session.starts) for session in split.held_out)
    assert f"synth-high: 2 sessions to train on, 2 held out with {starts} starts; 61 of 61 prices known" in text


@pytest.mark.triton
def test_train_a_candidate(home: tuple[Path, Settings]) -> None:
    folder, settings = home
    champion = reference_is_live(settings, "synth-high")
    outputs = run("02_train_a_candidate", folder)
    text = _text(outputs)
    assert "GARCH-t, time of day" in text
    assert _pictures(outputs) == 4
    with closing(open_ledger(settings)) as ledger:
        candidate = next(entry for entry in ledger.releases("synth-high") if entry.id != champion)
        report = ledger.latest_gate(candidate.sha256)
    assert report is not None
    assert report.actor == "notebook"
    assert report.checks["load"] == report.checks["validity"] == "pass"
    assert report.checks["score"] == report.verdict
    assert f"{candidate.id}, trained in" in text
    assert f"verdict: {report.verdict} " in text
    replays = report.report["score"]["replays"]
    assert f"on {replays} replays (12 disjoint windows, 121 of 121 terms)" in text
