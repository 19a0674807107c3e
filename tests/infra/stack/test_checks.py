from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from infra.settings import Ports, Settings
from infra.stack import checks, doctor
from infra.stack.selftest import compare, triton_selftest
from serving.errors import UserError


def test_this_checkout_is_fit(tmp_path: Path) -> None:
    for check in checks.run(Settings(home=tmp_path)):
        assert check.verdict in {"ok", "warn"}, check


def test_a_half_installed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "NEEDED", ("psutil", "surely_not_installed"))
    with pytest.raises(UserError, match=r"lacks surely_not_installed: run 'make env'"):
        checks.preflight(Settings(home=tmp_path))


def test_an_environment_of_another_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    lock = tmp_path / "requirements.lock"
    lock.write_text("a==1\n")
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    assert checks.environment(Settings(home=tmp_path)).verdict == "fail"
    checks.stamp(tmp_path / ".venv", lock).touch()
    assert checks.environment(Settings(home=tmp_path)).verdict == "ok"
    lock.write_text("a==2\n")
    assert "not installed from this requirements.lock" in checks.environment(Settings(home=tmp_path)).detail


def _venv(folder: Path, script: str) -> Path:
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 2.4.6", "numpy 2.4.6, with which Triton returns empty tensors"),
        ("echo 'ImportError: numpy' >&2; exit 1", "is broken: ImportError: numpy"),
    ],
)
def test_tritons_environment_must_have_the_right_numpy(tmp_path: Path, script: str, said: str) -> None:
    check = checks.triton_environment(Settings(home=tmp_path, venv_triton=_venv(tmp_path / "venv", script)))
    assert check.verdict == "fail"
    assert said in check.detail


def test_tritons_environment_must_be_there_unless_triton_is_elsewhere(tmp_path: Path) -> None:
    gone = Settings(home=tmp_path, venv_triton=tmp_path / "gone")
    assert checks.triton_environment(gone).detail == f"{tmp_path}/gone is missing"
    elsewhere = Settings(home=tmp_path, venv_triton=tmp_path / "gone", triton_grpc="there:8001")
    assert checks.triton_environment(elsewhere).verdict == "ok"


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    check = checks.tools(Settings(home=tmp_path))
    assert (check.verdict, check.remedy) == ("fail", "run 'make env'")
    assert check.detail.startswith("weed is missing")


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UserError, match=f"cannot write below {tmp_path}/home: .*set HEADFRAME_HOME"):
        checks.preflight(Settings(home=tmp_path / "home"))


@pytest.mark.parametrize(("free", "verdict"), [(10**8, "fail"), (10**9, "warn"), (10**10, "ok")])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert checks.disk(Settings(home=tmp_path)).verdict == verdict


def test_doctor_names_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        check = doctor.ports(Settings(home=tmp_path, ports=Ports(gateway=port)))
    assert (check.verdict, check.detail) == ("fail", f"taken on 127.0.0.1: gateway {port}")


def test_doctor_sees_a_clock_of_the_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.clock(Settings(home=tmp_path)).verdict == "ok"
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    assert doctor.clock(Settings(home=tmp_path)).verdict == "fail"


def test_the_self_test_sees_empty_and_wrong_answers() -> None:
    right = np.ones((1, 3), dtype=np.float32)
    compare(right, right.copy())
    with pytest.raises(UserError, match="empty tensors"):
        compare(right, np.empty((1, 0), dtype=np.float32))
    with pytest.raises(UserError, match="wrongly"):
        compare(right, right + 1)


@pytest.mark.slow
@pytest.mark.triton
def test_a_known_tensor_comes_back_from_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(os.listdir(tempfile.gettempdir()))
    assert triton_selftest(Settings().venv_triton) > 0
    assert not [
        name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("headframe-selftest-")
    ]


@pytest.mark.slow
@pytest.mark.triton
def test_doctor_examines_everything(tmp_path: Path) -> None:
    found = {check.name: check.verdict for check in doctor.examine(Settings(home=tmp_path))}
    assert set(found) == {
        "environment", "triton environment", "tools", "home", "disk", "ports", "clock", "stack", "sidecar",
        "triton self-test", "settings", "miners",
    }  # fmt: skip
    assert "fail" not in found.values()


def test_the_programs_of_this_environment_can_be_run(tmp_path: Path) -> None:
    check = checks.tools(Settings(home=tmp_path))
    assert check.detail == "weed, mlflow, prefect"
