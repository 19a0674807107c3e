"""The gateway's parent process: holds the ports, keeps the workers alive, and answers on the private port.

It does no request work, so that it has nothing to die of. Workers share its listening socket; when one is killed, what
waits in that socket is taken by another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import logs
from serving.clock import replace_file
from serving.config import GatewayConfig, SubnetSpec, encode
from serving.errors import UserError
from serving.miners import check_miners
from serving.nonces import prepare_store
from serving.private import Readiness, State, pages, private_server
from serving.retention import Keeper
from serving.traffic_metrics import TrafficMetrics
from serving.worker import BACKLOG

BIND_S = 5.0
"""How long to wait for the workers of a killed parent to let go of the port."""
TICK_S = 0.05
STABLE_S = 5.0
"""A worker that lived this long is started again at once; one that did not, after a growing pause."""
LONGEST_PAUSE_S = 5.0
RESTARTS_FILE = "worker_restarts"
"""Below the run folder: how often workers were started again, kept over the death of a parent."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    started: float


class Parent:
    """Supervises the workers of one gateway."""

    worker = "serving.worker"
    """The module that a worker process runs."""

    def __init__(self, config: GatewayConfig) -> None:
        check(config)
        self.config = config
        self.state = State()
        self.metrics_folder = Path(config.run) / "metrics"
        self.log = logs.configure("gateway", pid=os.getpid())
        self._count = Path(config.run) / RESTARTS_FILE
        self.state.restarts = _counted(self._count)
        self._workers: list[_Worker] = []
        self._fast_deaths = 0
        self._not_before = 0.0
        self._stop = False
        self._file_trouble = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; returns when every worker is gone."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._on_stop)
        prepare_store(Path(self.config.nonces), time.time_ns())
        shutil.rmtree(self.metrics_folder, ignore_errors=True)
        self.metrics_folder.mkdir(parents=True)
        public = _listen(self.config.bind, self.config.port)
        readiness = Readiness(self.config, self.state)
        traffic = TrafficMetrics(_keeper(self.config), self.log)
        self._keep_files(readiness)
        try:
            private = private_server(
                (self.config.private_bind, self.config.private_port), pages(readiness, self.metrics_folder, traffic)
            )
        except OSError as error:
            public.close()
            raise _taken(self.config.private_bind, self.config.private_port, error) from None
        threading.Thread(target=private.serve_forever, name="private", daemon=True).start()
        traffic.start()
        self.log.info("gateway up", port=self.config.port, private_port=self.config.private_port)
        try:
            while not self._stop:
                self._reap()
                self._fill(public)
                self._keep_files(readiness)
                time.sleep(TICK_S)
            self.state.draining = True
            public.close()
            self._drain()
        finally:
            self._kill()
            private.shutdown()
            private.server_close()
            self.log.info("gateway down", restarts=self.state.restarts)

    def _keep_files(self, readiness: Readiness) -> None:
        try:
            readiness.keep_files()
        except OSError as error:
            if not self._file_trouble:
                self.log.error("copies of the state files cannot be kept", error=type(error).__name__)
            self._file_trouble = True
        else:
            self._file_trouble = False

    def _on_stop(self, sig: int, frame: Any) -> None:
        self._stop = True

    def _fill(self, public: socket.socket) -> None:
        """Start workers until there are as many as wanted, unless they die as soon as they start."""
        now = time.monotonic()
        while len(self._workers) < self.config.workers and now >= self._not_before and not self._stop:
            self._workers.append(_Worker(self._spawn(public), now))
            self.state.pids = [worker.process.pid for worker in self._workers]

    def _spawn(self, public: socket.socket) -> subprocess.Popen[bytes]:
        packages = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", self.worker, str(public.fileno()), str(os.getpid())],
            stdin=subprocess.PIPE,
            pass_fds=[public.fileno()],
            env={**os.environ, "PYTHONPATH": path, "PROMETHEUS_MULTIPROC_DIR": str(self.metrics_folder)},
        )
        assert process.stdin is not None
        try:
            process.stdin.write(encode(self.config))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already, and is reaped at the next tick
        return process

    def _reap(self) -> None:
        """Forget dead workers; the next `_fill` replaces them."""
        now = time.monotonic()
        for worker in [w for w in self._workers if w.process.poll() is not None]:
            self._workers.remove(worker)
            self.state.pids = [w.process.pid for w in self._workers]
            self.state.restarts += 1
            with contextlib.suppress(OSError):  # a full disk is no reason to stop
                replace_file(self._count, str(self.state.restarts).encode())
            self._fast_deaths = self._fast_deaths + 1 if now - worker.started < STABLE_S else 0
            pause = min(0.1 * 2**self._fast_deaths, LONGEST_PAUSE_S) if self._fast_deaths > 1 else 0.0
            self._not_before = now + pause
            for stale in self.metrics_folder.glob(f"gauge_live*_{worker.process.pid}.db"):
                stale.unlink(missing_ok=True)
            self.log.error("worker died", worker=worker.process.pid, status=worker.process.returncode, pause_s=pause)

    def _drain(self) -> None:
        for worker in self._workers:
            worker.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + self.config.drain_s + 5.0
        for worker in self._workers:
            try:
                worker.process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.log.error("worker did not drain", worker=worker.process.pid)
        self.state.pids = []

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


def _keeper(config: GatewayConfig) -> Keeper:
    return Keeper(
        Path(config.traffic), cap_bytes=config.traffic_disk_cap, keep_s=config.traffic_keep_s, ship=config.traffic_ship
    )


def _counted(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def check(config: GatewayConfig) -> None:
    """Refuse a config that no worker could run, in one line (UserError)."""
    check_miners(config.miners)
    if config.workers < 1 or config.in_flight < 1 or config.requests_per_s <= 0 or config.burst < 1:
        raise UserError("gateway: workers, in_flight, requests_per_s and burst must be at least 1")


def _listen(host: str, port: int) -> socket.socket:
    """The public listening socket; waits a little for a predecessor's workers to let go of it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + BIND_S
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise _taken(host, port, error) from None
            time.sleep(0.1)
        else:
            return listener


def _taken(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"the gateway cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
        "stop what listens there, or choose another port"
    )


def run(config: GatewayConfig) -> None:
    """Run a gateway until SIGTERM; raises UserError when it cannot start."""
    Parent(config).run()


__all__ = ["GatewayConfig", "Parent", "SubnetSpec", "check", "run"]
