"""Ends an embedded tritonserver that hangs, so that the supervisor starts it again and the sidecar loads its releases.

A dead server is the supervisor's business. One that starts has never answered yet, and one that loads or is merely busy
spends CPU time; neither is touched. An outside Triton is never watched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog

from infra.ports import endpoints, need
from infra.settings import Settings
from infra.sidecar import Duty
from infra.stack.processes import marked
from infra.triton import Triton

SILENT_S = 10.0
"""Seconds without an answer after which an idle server is taken to hang."""
BUSY_SILENT_S = 60.0
"""The same where it spends CPU time, as a server does that loads, or spins."""
IDLE_SHARE = 0.05
"""CPU seconds a second, below which the server and its children are idle."""
log = structlog.get_logger()


class Watchdog:
    """Watches one server.

    Args:
        alive: asks the server whether it lives; may take seconds, never raises.
        server: the server's own process, None when there is none.
        clock: seconds.
    """

    def __init__(
        self, alive: Callable[[], bool], server: Callable[[], psutil.Process | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._alive, self._find, self._clock = alive, server, clock
        self._server: psutil.Process | None = None
        """The process that answered last."""
        self._silent_since: float | None = None
        self._cpu_then = 0.0

    def look(self) -> int | None:
        """One look; the pid of the server if this look ended it."""
        if self._alive():
            if self._server is None or not self._server.is_running():
                self._server = self._find()
            self._silent_since = None
            return None
        server, now = self._server, self._clock()
        if server is None or not server.is_running():  # it starts, or is gone: no hang
            self._server = self._silent_since = None
            return None
        if self._silent_since is None:
            self._silent_since, self._cpu_then = now, cpu_seconds(server)
            return None
        silent_s = now - self._silent_since
        idle = cpu_seconds(server) - self._cpu_then < IDLE_SHARE * silent_s
        if silent_s < (SILENT_S if idle else BUSY_SILENT_S):
            return None
        log.warning("triton hangs and is killed", pid=server.pid, silent_s=round(silent_s, 1), idle=idle)
        server.kill()
        self._server = self._silent_since = None
        return server.pid


def cpu_seconds(server: psutil.Process) -> float:
    """CPU time that a process and its children have spent so far."""
    spent = 0.0
    try:
        tree = [server, *server.children(recursive=True)]
    except psutil.Error:
        return spent
    for process in tree:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        spent += times.user + times.system
    return spent


def embedded_server(home: Path) -> psutil.Process | None:
    """The tritonserver that the supervisor of `home` started, not its Python stubs."""
    found = {process.pid: process for process in marked(home).get("triton", [])}
    for process in found.values():
        try:
            if process.ppid() not in found and process.name() == "tritonserver":
                return process
        except psutil.Error:
            continue
    return None


def watchdog(settings: Settings) -> Duty:
    """The embedded Triton of this home, looked at every second."""
    made: list[Watchdog] = []

    def alive() -> bool:
        triton = Triton(need(endpoints(settings).triton_grpc, "Triton"))  # a new one: an old channel may back off
        try:
            return triton.ready()
        finally:
            triton.close()

    def run() -> None:
        if not made:
            made.append(Watchdog(alive, lambda: embedded_server(settings.home)))
        made[0].look()

    return Duty("watchdog", run, lambda: 1.0)
