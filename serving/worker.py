"""One worker process: the gateway's parts put together, and uvicorn around them.

Started by `serving.server` as ``python -m serving.worker <listening fd> <parent pid>``, the config as JSON on stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import uvicorn

from serving import logs
from serving.admission import Admission, Budgets
from serving.answering import Answerer, Infers
from serving.app import Gateway
from serving.clock import Clock
from serving.config import GatewayConfig, decode
from serving.files import StateFile
from serving.http import KEEP_ALIVE_S
from serving.http import Protocol as HttpProtocol
from serving.metrics import Metrics
from serving.miners import miners_of
from serving.nonces import NonceStore, open_store
from serving.routes import RouteReader
from serving.state import PriceBook
from serving.traffic import TrafficWriter
from serving.triton import Triton

BACKLOG = 2048
CUT_OFF_S = 2.0
_PR_SET_PDEATHSIG = 1


class ModelServer(Infers, Protocol):
    """Where inferences are made, with a connection that can be closed."""

    async def close(self) -> None:
        """No further inference is asked for."""
        ...


Connect = Callable[[str], ModelServer]
"""From the address in the config to the model server behind it."""


def build(config: GatewayConfig, log: Any, connect: Connect = Triton) -> tuple[Gateway, ModelServer]:
    """The gateway of one worker, and its Triton client, which the caller closes; needs a running event loop."""
    miners = miners_of(config)
    env = open_store(Path(config.nonces))
    traffic = TrafficWriter(Path(config.traffic), bodies=config.traffic_bodies)
    metrics = Metrics()
    triton = connect(config.triton)
    answerer = Answerer(
        routes=RouteReader(Path(config.routes), kept=config.kept("routes")),
        prices=StateFile(Path(config.prices), PriceBook, kept=config.kept("prices")),
        triton=triton, traffic=traffic, metrics=metrics, shadows=config.shadows,
    )  # fmt: skip
    gateway = Gateway(
        miners=miners,
        nonces=NonceStore(env, Path(config.nonces), retention_s=miners.retention_s()),
        budgets=Budgets(env, per_s=config.requests_per_s, burst=config.burst),
        admission=Admission(in_flight=config.in_flight, waiting=config.waiting),
        answerer=answerer,
        traffic=traffic,
        metrics=metrics,
        clock=Clock(Path(config.clock)) if config.clock else Clock(),
        log=log,
    )
    return gateway, triton


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process before the traffic record is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def serve(config: GatewayConfig, listener: socket.socket, log: Any, connect: Connect = Triton) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was admitted, at most `drain_s` seconds."""
    gateway, triton = build(config, log, connect)
    server = _Server(
        uvicorn.Config(
            gateway, http=HttpProtocol, ws="none", lifespan="off", interface="asgi3", loop="uvloop", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=False, backlog=BACKLOG,
            timeout_keep_alive=int(KEEP_ALIVE_S), timeout_graceful_shutdown=max(1, int(config.drain_s)),
        )
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, lambda: setattr(server, "should_exit", True))
    keeper = loop.create_task(_keep(gateway, log))
    log.info("worker ready")
    try:
        await server.serve(sockets=[listener])
        if server.server_state.tasks:  # cut off by the drain's limit: they still say so
            await asyncio.wait(server.server_state.tasks, timeout=CUT_OFF_S)
    finally:
        keeper.cancel()
        await gateway.answerer.close()
        await triton.close()
        gateway.traffic.close()
        log.info("worker done")


async def _keep(gateway: Gateway, log: Any) -> None:
    while True:
        try:
            await gateway.nonces.tick(gateway.wall_ns())
            await asyncio.to_thread(gateway.keep)
        except Exception:
            log.exception("housekeeping failed")
        await asyncio.sleep(1.0)


def die_with(parent: int) -> None:
    """Get SIGTERM when the parent dies, whatever kills it; exit now when it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def main(connect: Connect = Triton) -> None:
    """Entry point of the process."""
    import uvloop

    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    config = decode(sys.stdin.buffer.read())
    die_with(parent)
    log = logs.configure("worker", pid=os.getpid(), started=round(time.time(), 3))
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    uvloop.run(serve(config, listener, log, connect))


if __name__ == "__main__":
    main()
