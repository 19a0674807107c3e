"""Environments of their own for what we are measured against, made once below ``var/bench``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python_of(name: str) -> Path:
    """The interpreter of a rival's environment, installed from ``bench/<name>.lock`` where it is not there yet."""
    venv = ROOT / "var" / "bench" / name
    done = venv / "installed"
    if not done.exists():
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", venv], check=True)
        lock = ROOT / "bench" / f"{name}.lock"
        subprocess.run([uv, "pip", "install", "-q", "-p", venv, "--require-hashes", "-r", lock], check=True)
        done.touch()
    return venv / "bin" / "python"
