"""A throw-away tritonserver: a release is loaded and tried there before the live one ever sees it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.stack.commands import Command, tritonserver
from infra.triton.client import Triton, TritonError


@contextmanager
def throwaway(venv: Path, models: Path, folder: Path, *, limit_s: float = 60.0) -> Iterator[Triton]:
    """A real tritonserver of its own over `models`, with nothing loaded, for as long as the block lasts.

    `folder` gets its backends and ``triton.log``, which stays. The ports are free ones, the server that answers is
    made sure to be this one, and it dies with the block, or with the thread that opened it. Raises TritonError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "triton.log"
    for attempt in range(3):
        grpc, http, metrics = _free_ports(3)
        name = f"throwaway-{uuid.uuid4().hex[:12]}"
        command = tritonserver(venv, folder, models, server_id=name, grpc=grpc, http=http, metrics=metrics)
        process = _start(command, log)
        triton = Triton(f"127.0.0.1:{grpc}")
        try:
            if not _wait_ready(triton, process, name, limit_s):
                if attempt < 2 and "bind" in log.read_text(errors="replace").lower():
                    continue  # another program took a port between the choice and the start
                raise TritonError(f"a throw-away Triton did not start: {_last_error(log)}")
            yield triton
            return
        finally:
            triton.close()
            _stop(process)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def _start(command: Command, log: Path) -> subprocess.Popen[bytes]:
    """The server in a process group of its own; on Linux the kernel kills it when its parent dies, even by kill -9."""
    argv: tuple[str, ...] = command.argv
    if hasattr(ctypes.CDLL(None), "prctl"):
        argv = (sys.executable, "-I", "-c", _DIE_WITH_PARENT, *argv)
    with log.open("ab") as output:
        return subprocess.Popen(
            argv, env={**os.environ, **command.env}, cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _wait_ready(triton: Triton, process: subprocess.Popen[bytes], name: str, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        if triton.ready():
            found = triton.server_id()
            if found != name:
                raise TritonError(f"the server at {triton.address} is {found!r}, not the one just started")
            return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: SIGTERM, then SIGKILL to whatever is left of it."""
    for sig, patience in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def _last_error(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E0", "E1", "error"))] or lines or ["it wrote no log"]
    return f"{errors[-1][:200]} (log: {log})"
