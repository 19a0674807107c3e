"""A client of supervisord over its unix socket."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any, cast

import msgspec

from infra.stack.config import make_socket_folder, socket_path
from infra.stack.launch import environment
from infra.stack.processes import SUPERVISOR, marked
from serving.errors import UserError

_TIMEOUT = 10.0

_ALREADY = {60, 70}  # the faults ALREADY_STARTED and NOT_RUNNING


class Info(msgspec.Struct, frozen=True):
    """What supervisord knows of a part's first process."""

    name: str
    statename: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    start: int
    """Unix s of the last start; 0 when never started."""
    now: int
    spawnerr: str = ""
    exitstatus: int = 0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_TIMEOUT)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        self.sock = sock


class SupervisorGone(UserError):
    """The supervisor does not answer."""


class Supervisor:
    """The supervisor of one home. Every call raises SupervisorGone when it does not answer."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._socket = socket_path(home)

    def _call(self, method: str, *arguments: Any) -> Any:
        connection = _Connection(str(self._socket))
        try:
            connection.request("POST", "/RPC2", xmlrpc.client.dumps(arguments, method), {"Content-Type": "text/xml"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise http.client.HTTPException(f"status {response.status}")
        except (OSError, http.client.HTTPException) as error:
            raise SupervisorGone(
                f"the supervisor of {self._home} does not answer ({error}); "
                f"run 'headframe down' and 'headframe up', and see {self._home / 'log' / 'supervisor.log'}"
            ) from None
        finally:
            connection.close()
        return xmlrpc.client.loads(body)[0][0]

    def alive(self) -> bool:
        """Whether it answers."""
        try:
            self._call("supervisor.getState")
        except SupervisorGone:
            return False
        return True

    def pid(self) -> int:
        """Of supervisord itself."""
        return cast(int, self._call("supervisor.getPID"))

    def infos(self) -> dict[str, Info]:
        """Every part it knows, by name."""
        rows = msgspec.convert(self._call("supervisor.getAllProcessInfo"), list[Info])
        return {row.name: row for row in rows}

    def restarts(self) -> dict[str, int]:
        """How often each part was started again since the supervisor came up."""
        return cast(dict[str, int], self._call("headframe.restarts"))

    def start(self, name: str) -> None:
        """Start a part, without waiting; one that is up already stays as it is."""
        self._tolerant("supervisor.startProcess", name)

    def stop(self, name: str) -> None:
        """Ask a part to stop, without waiting; the supervisor kills it at its limit."""
        self._tolerant("supervisor.stopProcess", name)

    def _tolerant(self, method: str, name: str) -> None:
        try:
            self._call(method, name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in _ALREADY:
                raise UserError(
                    f"the supervisor cannot do {method.split('.')[1]} {name}: {fault.faultString}"
                ) from None

    def shutdown(self, limit_s: float = 60.0) -> None:
        """Stop what still runs and the supervisor itself, and wait until it is gone."""
        try:
            self._call("supervisor.shutdown")
        except (SupervisorGone, xmlrpc.client.Fault):
            return
        end = time.monotonic() + limit_s
        while marked(self._home).get(SUPERVISOR) and time.monotonic() < end:
            time.sleep(0.05)


def start_supervisor(home: Path, limit_s: float = 20.0) -> Supervisor:
    """Start supervisord as a daemon on ``run/supervisord.conf`` and wait until it answers."""
    socket_file = socket_path(home)
    make_socket_folder(socket_file)
    socket_file.unlink(missing_ok=True)
    conf = home / "run" / "supervisord.conf"
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)],
        env=environment(dict(os.environ), home, SUPERVISOR, {"HEADFRAME_PYTHON": sys.executable}), cwd=home / "run",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stdout.strip().splitlines() or ["no word"])[-1]
        raise UserError(f"the supervisor did not start: {said} (its configuration: {conf})")
    supervisor = Supervisor(home)
    end = time.monotonic() + limit_s
    while not supervisor.alive():
        if time.monotonic() > end:
            raise UserError(
                f"the supervisor did not answer within {limit_s:.0f} s: see {home / 'log' / 'supervisor.log'}"
            )
        time.sleep(0.02)
    return supervisor
