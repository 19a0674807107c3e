"""Real servers on loopback for tests, one of each a session: SeaweedFS, tritonserver, MLflow, Prefect."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.commands import Command


@contextmanager
def running(command: Command, log: Path, ready: Callable[[], bool], limit_s: float = 60.0) -> Iterator[int]:
    """Start a server, wait until `ready` says so, yield its pid, and stop its whole process group."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env}, cwd=command.cwd, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + limit_s
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command.argv[0]} did not get ready: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sig)
            except ProcessLookupError:
                break
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                continue
