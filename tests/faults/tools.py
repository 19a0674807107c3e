"""What the fault tests share: callers that never stop, raw connections from chosen addresses, and a Triton to kill."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.callers import ALICE, BOB, CHARLIE, Request, btauth, legacy
from tests.serving.processes import ROOT, Running, stop_still, until

S = 10**9
SIGNED_FOR_S = 10.0
"""A caller of SDK 11 that is kept waiting for longer, before it is heard, is told 401: too old, sign it again."""

_TRITON = """
import sys, time
from tests.serving.fake_triton import FakeTritonServer, doubled
server = FakeTritonServer(port=int(sys.argv[1]), tiny_a=doubled, tiny_b=doubled)
print(server.port, flush=True)
sys.stdin.read()
"""


class Traffic:
    """Validators that ask without a pause, each over a connection of its own, until told to stop."""

    def __init__(self, running: Running, callers: int = 4, *, timeout: str = "12.0") -> None:
        self.statuses: list[int] = []
        """Statuses of the replies; 0 for a connection that broke."""
        self.by_caller: list[list[int]] = [[] for _ in range(callers)]
        """The same of each caller alone."""
        self._running = running
        self._timeout = timeout
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._lock = threading.Lock()
        for number in range(callers):
            self._pool.submit(self._ask_on, number)

    def _ask_on(self, number: int) -> None:
        sender = (ALICE, BOB, CHARLIE)[number % 3]
        asked = 0
        client = httpx.Client(trust_env=False)
        while not self._stop.is_set():
            asked += 1
            fields = {"x": [float(number), float(asked)]}
            request = (
                legacy("Double", fields, ("x",), sender=sender, timeout=self._timeout)
                if asked % 2
                else btauth("/Double", fields, sender=sender)
            )
            began = time.monotonic()
            try:
                found = self._running.ask(request, client).status_code
            except httpx.HTTPError:
                found = 0
                client.close()
                client = httpx.Client(trust_env=False)
            self._note(number, found, began)
        client.close()

    def _note(self, number: int, found: int, began: float) -> None:
        if found == 401 and time.monotonic() - began > SIGNED_FOR_S:
            return  # the machine stood still for so long: the caller signs again
        with self._lock:
            self.statuses.append(found)
            self.by_caller[number].append(found)

    def more(self, count: int = 100) -> None:
        """Wait until this many further replies have come."""
        seen = len(self.statuses)
        until(lambda: len(self.statuses) >= seen + count)

    def stop(self) -> list[int]:
        self._stop.set()
        self._pool.shutdown()
        return self.statuses


class TritonProcess:
    """A fake Triton in a process of its own, for real signals; its port outlives it."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on the same port as before."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TRITON, str(self.port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def send(self, number: signal.Signals) -> None:
        """A signal to the process; after SIGSTOP it stands when this returns."""
        if number == signal.SIGSTOP:
            stop_still(self._process.pid)
        else:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def triton_process() -> Iterator[TritonProcess]:
    """A Triton that is killed at the end."""
    made = TritonProcess()
    try:
        yield made
    finally:
        made.kill()


def ask(running: Running, request: Request) -> int:
    """The status of a reply."""
    return running.ask(request).status_code


def still_serves(running: Running) -> bool:
    """Whether a good request gets its 200."""
    return ask(running, legacy("Plain", {"x": [1]})) == 200


def double(**options: Any) -> Request:
    """A good legacy request whose hash covers its input."""
    return legacy("Double", {"x": [1.0]}, ("x",), **options)


def metric(running: Running, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(running.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def refused(running: Running, code: str) -> float:
    """How often a code was answered, as far as the workers have told."""
    return metric(running, "headframe_refusals_total", code=code)


def connect(port: int, source: str = "127.0.0.1", limit_s: float = 60.0) -> socket.socket:
    """A raw connection from a loopback address of choice."""
    return socket.create_connection(("127.0.0.1", port), timeout=limit_s, source_address=(source, 0))


def read_all(connection: socket.socket) -> bytes:
    """Whatever comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def read_reply(connection: socket.socket) -> bytes:
    """One reply on a connection that stays open."""
    found = b""
    while True:
        head, end, body = found.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
        if end and len(body) >= int(length or 0):
            return found
        data = connection.recv(65536)
        if not data:
            return found
        found += data
