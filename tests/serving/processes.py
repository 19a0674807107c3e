"""A real gateway in processes of its own, in front of a fake Triton, and raw connections to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from serving.config import GatewayConfig, MinerSpec, SubnetSpec, encode
from serving.state import PriceBook, write_state
from tests.ports import free_port
from tests.serving.callers import MINER, Request
from tests.serving.gateways import write_neurons, write_routes

ROOT = Path(__file__).resolve().parents[2]
_RUN = """
import sys
from serving.config import decode
from serving.public.listening import take_over
from serving.server import run
config = decode(sys.stdin.buffer.read())
run(config, take_over(int(sys.argv[1]), config.port) if sys.argv[1:] else None)
"""


def until(true: Callable[[], Any], limit_s: float = 60.0) -> Any:
    """Poll until `true` gives something true, and give that."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError, OSError):
            found = true()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError(f"still not {true} after {limit_s} s")


def stop_still(pid: int) -> None:
    """SIGSTOP; returns once every thread stands, since the kernel stops them one by one."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_stands(task) for task in Path(f"/proc/{pid}/task").iterdir()))


def _stands(task: Path) -> bool:
    return (task / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


def config_of(home: Path, triton: str, **options: Any) -> GatewayConfig:
    """A gateway for the tiny subnet below `home`, on free ports; options of a MinerSpec are those of its one miner."""
    miner = MinerSpec(
        hotkey=MINER.ss58_address, netuid=1, neurons=str(home / "neurons.json"), slots=["tiny"],
        subnets=[SubnetSpec("tests.serving.tiny:tiny")],
    )  # fmt: skip
    own = {name: options.pop(name) for name in MinerSpec.__struct_fields__ if name in options}
    made = GatewayConfig(
        miners=[msgspec.structs.replace(miner, **own)],
        port=free_port(), private_port=free_port(), triton=triton, routes=str(home / "routes.json"),
        prices=str(home / "prices.json"), traffic=str(home / "traffic"),
        nonces=str(home / "nonces"), run=str(home / "run"), requests_per_s=1e6, burst=10**6,
    )  # fmt: skip
    return msgspec.structs.replace(made, **options)


class Running:
    """A gateway that was started."""

    def __init__(
        self, config: GatewayConfig, log: Path, listener: socket.socket | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """`listener` is kept open by the test, as a supervisor does; `prefix` goes before the command."""
        self.config = config
        self._prefix = prefix
        self.url = f"http://127.0.0.1:{config.port}"
        self.private = f"http://127.0.0.1:{config.private_port}"
        self.log = log
        self._out = log.open("ab")
        self._listener = listener
        self.start()

    def start(self) -> None:
        """Start it; again when it is gone."""
        fds = [self._listener.fileno()] if self._listener else []
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-c", _RUN, *map(str, fds)], stdin=subprocess.PIPE, stdout=self._out,
            stderr=self._out, cwd=ROOT, pass_fds=fds,
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(encode(self.config))
        self.process.stdin.close()

    def ready(self) -> Running:
        """Wait until every worker of a full set has said that it is ready."""
        until(
            lambda: self.process.poll() is not None or len(self._said_ready() & set(self.pids())) == self.config.workers
        )
        assert self.process.poll() is None, self.log.read_text()
        return self

    def _said_ready(self) -> set[int]:
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return {line["pid"] for line in lines if line["event"] == "worker ready"}

    def pids(self) -> list[int]:
        return list(self.get("/workers").json()["pids"])

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.private}{path}", trust_env=False, timeout=60)

    def ask(self, request: Request, client: httpx.Client | None = None) -> httpx.Response:
        """Send a signed request; over a connection of its own unless a client is given."""
        send = client.request if client else httpx.request
        options: dict[str, Any] = {} if client else {"trust_env": False}
        return send(
            request.method,
            self.url + request.target,
            headers=request.headers,
            content=request.body,
            timeout=120,
            **options,
        )

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        finally:
            self._out.close()

    def kill(self) -> None:
        """SIGKILL to the parent alone; returns when the workers are gone too."""
        workers = [psutil.Process(pid) for pid in self.pids()]
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._out.close()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive


@contextlib.contextmanager
def gateway(
    home: Path, triton: str, listener: socket.socket | None = None, prefix: Sequence[str] = (), **options: Any
) -> Iterator[Running]:  # fmt: skip
    """A running gateway whose files are all there."""
    if not (home / "routes.json").exists():
        write_routes(home, stable="tiny-a")
        write_neurons(home)
        write_state(home / "prices.json", PriceBook(time.time(), time.time(), {}))
    running = Running(config_of(home, triton, **options), home / "gateway.log", listener, prefix)
    try:
        yield running.ready()
    finally:
        running.stop()


def raw(request: Request, **headers: str) -> bytes:
    """A request as bytes for a socket."""
    named = {"Host": "x", "Content-Length": str(len(request.body)), **request.headers, **headers}
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


def talk(port: int, *pieces: bytes, limit_s: float = 60.0) -> bytes:
    """Send pieces on one connection and read one reply, or whatever came before the server closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.sendall(piece)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while not _whole(found) and (data := connection.recv(65536)):
                found += data
        return found


def _whole(reply: bytes) -> bool:
    head, end, body = reply.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r")[0]
    return bool(end) and len(body) >= int(length or 0)


def status(reply: bytes) -> int:
    """The status of a raw reply; 0 when there was none."""
    return int(reply[9:12]) if reply.startswith(b"HTTP/1.1 ") else 0
