from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.launch import environment
from infra.stack.processes import markers


def test_stray_settings_stay_out_and_the_markers_hold(tmp_path: Path) -> None:
    base = {
        "PATH": "/bin",
        "HEADFRAME_NETUID": "7",
        "HEADFRAME_COMPONENT": "other",
        "SUPERVISOR_ENABLED": "1",
        "A": "x",
    }
    found = environment(base, tmp_path, "s3", {"A": "y", "HEADFRAME_CONFIG": "settings.toml"})
    real = os.path.realpath(tmp_path)
    assert found == {
        "PATH": "/bin", "A": "y", "PYTHONUNBUFFERED": "1",
        "HEADFRAME_CONFIG": "settings.toml", "HEADFRAME_HOME": real, "HEADFRAME_COMPONENT": "s3",
    }  # fmt: skip


@pytest.mark.slow
def test_it_becomes_the_program_word_for_word_and_writes_its_log(tmp_path: Path) -> None:
    (tmp_path / "run" / "parts").mkdir(parents=True)
    (tmp_path / "log").mkdir()
    argv = [
        sys.executable,
        "-c",
        "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['X'])",
        "a b",
        "\"%s' #;",
    ]
    spec = {"argv": argv, "env": {"X": "1 $2"}, "cwd": str(tmp_path), "sweep": True}
    (tmp_path / "run" / "parts" / "odd.json").write_text(json.dumps(spec))
    environ = {**os.environ, **markers(tmp_path, "odd")}
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "infra.stack.launch", "odd"], env=environ, check=True)
    line = f"{['a b', argv[-1]]} {os.path.realpath(tmp_path)} 1 $2\n"
    assert (tmp_path / "log" / "odd.log").read_text() == line * 2
