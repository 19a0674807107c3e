"""What docs/traffic.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.objects import ObjectStore
from infra.traffic.rows import schema
from infra.traffic.shipping import ship
from serving.traffic.writer import TrafficWriter
from tests.serving.records import record

DOCUMENT = Path(__file__).parents[3] / "docs" / "traffic.md"


def test_every_column_is_explained() -> None:
    table = DOCUMENT.read_text().partition("## What a row holds")[2].partition("## Where it is")[0]
    named = set(re.findall(r"`([a-z_]+)`", table.replace("| what |", "")))
    assert set(schema().names) - {"segment", "row"} <= named


@pytest.mark.slow
def test_the_snippet_runs(
    tmp_path: Path, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")  # pandas leaves out what a terminal is too narrow for
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    monkeypatch.setenv("HEADFRAME_S3__ENDPOINT", objects.endpoint)
    writer = TrafficWriter(tmp_path / "traffic")
    for number in range(5):
        writer.append(record(number, answer_bytes=100 + number, timings_ms={"total": float(number)}))
    writer.append(record(9, role="shadow", answer_bytes=0, timings_ms={"triton": 1.0}))
    writer.close()
    ship(tmp_path / "traffic", objects)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), flags=re.S | re.M)
    exec(compile(snippet, str(DOCUMENT), "exec"), {})
    said = capsys.readouterr().out
    assert "102.0" in said  # the mean length
    assert "3.96" in said  # the 99th percentile
