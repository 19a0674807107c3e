"""What must be right before a stack can start; `up` stops at the first fault, `doctor` tells them all."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra.settings import ROOT, Settings
from infra.stack import commands
from serving.errors import UserError

Verdict = Literal["ok", "warn", "fail"]

NEEDED = (
    "bittensor",
    "boto3",
    "lmdb",
    "mlflow",
    "prefect",
    "psutil",
    "sqlalchemy",
    "supervisor",
    "tritonclient",
    "uvicorn",
)
LEAST_FREE = 500_000_000
"""Bytes below which `up` refuses: SQLite and Triton fail in odd ways on a full disk."""
GOOD_FREE = 3_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding, with what to do about it when it is not ok."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def stamp(venv: Path, lock: Path) -> Path:
    """The file that ``make env`` leaves in an environment when it has installed exactly this lock."""
    return venv / f"lock-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"


def _stamped(name: str, venv: Path, lock: Path) -> Check:
    if not lock.exists():
        return Check(name, "ok", f"{venv}: not a checkout, nothing to compare with")
    if stamp(venv, lock).exists():
        return Check(name, "ok", f"{venv} is what {lock.name} says")
    where = lock.relative_to(ROOT)
    return Check(name, "fail", f"{venv} was not installed from this {where}, or not to the end", "run 'make env'")


def environment(_settings: Settings) -> Check:
    """Every package is there, and the environment is the lock's."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    prefix = Path(sys.prefix)
    if missing:
        return Check("environment", "fail", f"{prefix} lacks {', '.join(missing)}", "run 'make env'")
    if prefix != ROOT / ".venv":
        return Check("environment", "ok", f"{prefix}, every package is there")
    return _stamped("environment", prefix, ROOT / "requirements.lock")


def triton_environment(settings: Settings) -> Check:
    """Triton's own environment runs, and has a numpy that does not empty every output."""
    name, venv = "triton environment", settings.venv_triton
    if settings.triton_grpc:
        return Check(name, "ok", f"not needed: Triton is at {settings.triton_grpc}")
    python = venv / "bin" / "python"
    if not python.exists():
        return Check(name, "fail", f"{venv} is missing", "run 'make env'")
    code = "import numpy; print(numpy.__version__)"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Check(name, "fail", f"{venv} is broken: {said}", "delete it and run 'make env'")
    if int(done.stdout.split(".")[0]) >= 2:
        detail = f"{venv} has numpy {done.stdout.strip()}, with which Triton returns empty tensors"
        return Check(name, "fail", detail, "delete it and run 'make env'")
    if venv != ROOT / ".venv-triton":
        return Check(name, "ok", f"{venv}, numpy {done.stdout.strip()}")
    return _stamped(name, venv, ROOT / "triton_models" / "requirements.lock")


def tools(settings: Settings) -> Check:
    """The programs of the stack are where they should be."""
    wanted = {"s3": "weed", "mlflow": "mlflow", "prefect": "prefect"}
    outside = {"s3": settings.s3.endpoint, "mlflow": settings.mlflow_url, "prefect": settings.prefect_url}
    try:
        found = [commands.tool(program) for part, program in wanted.items() if not outside[part]]
    except UserError as error:
        return Check("tools", "fail", str(error), "run 'make env'")
    broken = [program for program in found if not os.access(program, os.X_OK)]
    if broken:
        return Check("tools", "fail", f"{', '.join(broken)} cannot be run", "run 'make env'")
    return Check("tools", "ok", ", ".join(Path(program).name for program in found) or "none needed")


def writable_home(settings: Settings) -> Check:
    """A file can be written below home."""
    home = settings.home
    remedy = "set HEADFRAME_HOME to a folder you may write"
    probe = home / "run" / f".probe.{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Check("home", "fail", f"cannot write below {home}: {error.strerror}", remedy)
    return Check("home", "ok", str(home))


def disk(settings: Settings) -> Check:
    """There is room left below home."""
    try:
        free = shutil.disk_usage(settings.home).free
    except OSError as error:
        return Check("disk", "fail", f"{settings.home}: {error.strerror}", "set HEADFRAME_HOME to another folder")
    detail = f"{free / 1e9:.1f} GB free below {settings.home}"
    if free < LEAST_FREE:
        return Check("disk", "fail", f"only {detail}", "make room, or set HEADFRAME_HOME to another disk")
    if free < GOOD_FREE:
        return Check("disk", "warn", f"only {detail}", "make room: logs, models and traffic records grow")
    return Check("disk", "ok", detail)


BEFORE_UP: tuple[Callable[[Settings], Check], ...] = (environment, triton_environment, tools, writable_home, disk)
"""In this order: a later one may need an earlier one."""


def run(settings: Settings) -> Iterator[Check]:
    """The findings, one after another."""
    for check in BEFORE_UP:
        yield check(settings)


def preflight(settings: Settings) -> None:
    """Raise UserError at the first thing that would keep the stack from starting."""
    for check in run(settings):
        if check.verdict == "fail":
            raise UserError(f"{check.detail}: {check.remedy}")
