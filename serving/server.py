"""The gateway's parent process: holds the ports, keeps the workers alive, and answers on the private port.

It does no request work, so that it has nothing to die of. Workers share its listening socket; when one is killed, what
waits in that socket is taken by another. Where the socket is handed over by a supervisor that outlives the gateway,
the port stays open over the parent's own death too: the workers answer on until the next parent's are ready.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from serving.checks import check
from serving.config import GatewayConfig, SubnetSpec
from serving.nonces.store import prepare_store
from serving.public.listening import cannot_listen, listen
from serving.traffic.metrics import TrafficMetrics
from serving.traffic.retention import Keeper
from serving.watch import logs
from serving.watch.private import pages, private_server
from serving.watch.readiness import Readiness, State
from serving.workers.crew import Crew
from serving.workers.signals import endings

TICK_S = 0.1
LINGER_S = 20.0
"""How long workers whose parent was killed wait for its successor, where the listening socket outlives it."""


class Parent:
    """Supervises the workers of one gateway."""

    worker = "serving.workers.worker"
    """The module that a worker process runs."""

    def __init__(self, config: GatewayConfig, listener: socket.socket | None = None) -> None:
        """`listener`: a socket that outlives this process; without one it makes its own."""
        check(config)
        self.config = msgspec.structs.replace(config, linger_s=LINGER_S) if listener else config
        self.state = State()
        self.metrics_folder = Path(config.run) / "metrics"
        self.log = logs.configure("gateway", pid=os.getpid())
        self._listener = listener
        self._stop = False
        self._file_trouble = False

    def run(self) -> None:
        """Serve until one of `endings`, then drain; returns when every worker is gone."""
        for sig in endings():
            signal.signal(sig, self._on_stop)
        prepare_store(Path(self.config.nonces), time.time_ns())
        shutil.rmtree(self.metrics_folder, ignore_errors=True)
        self.metrics_folder.mkdir(parents=True, exist_ok=True)
        readiness = Readiness(self.config, self.state)
        self._keep_files(readiness)
        traffic = TrafficMetrics(_keeper(self.config), self.log)
        listener = self._listener or listen(self.config.bind, self.config.port)
        private = self._private(readiness, traffic)
        traffic.start()
        crew = Crew(self.config, listener, self.metrics_folder, self.log, module=self.worker)
        self.state.taking = crew.taking
        self.log.info("gateway up", port=self.config.port, private_port=self.config.private_port)
        try:
            while not self._stop:
                crew.tick()
                self._note(crew)
                self._keep_files(readiness)
                time.sleep(TICK_S)
        finally:
            self.state.draining = True
            crew.close()
            private.shutdown()
            private.server_close()
            self.log.info("gateway down", restarts=crew.restarts)

    def _private(self, readiness: Readiness, traffic: TrafficMetrics) -> ThreadingHTTPServer:
        bind, port = self.config.private_bind, self.config.private_port
        try:
            server = private_server((bind, port), pages(readiness, self.metrics_folder, traffic))
        except OSError as error:
            raise cannot_listen(bind, port, error) from None
        threading.Thread(target=server.serve_forever, name="private", daemon=True).start()
        return server

    def _note(self, crew: Crew) -> None:
        self.state.pids, self.state.began = crew.pids, [worker.started for worker in crew.workers]
        self.state.left_over = [ack.pid for ack in crew.left_over]
        self.state.restarts = crew.restarts

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


def _keeper(config: GatewayConfig) -> Keeper:
    return Keeper(
        Path(config.traffic), cap_bytes=config.traffic_disk_cap, keep_s=config.traffic_keep_s, ship=config.traffic_ship
    )


def run(config: GatewayConfig, listener: socket.socket | None = None) -> None:
    """Run a gateway until SIGTERM; raises UserError when it cannot start.

    `listener` is a listening socket that somebody else keeps open over this process's death.
    """
    Parent(config, listener).run()


__all__ = ["GatewayConfig", "Parent", "SubnetSpec", "check", "run"]
