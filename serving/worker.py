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
from collections.abc import Generator
from pathlib import Path
from typing import Any

import uvicorn

from serving import logs
from serving.admission import Admission, Budgets
from serving.answering import Answerer
from serving.app import Gateway, Ping
from serving.clock import Clock
from serving.config import GatewayConfig, decode
from serving.files import StateFile
from serving.http import KEEP_ALIVE_S, Protocol
from serving.identity import Identity
from serving.metrics import Metrics
from serving.nonces import NonceStore, open_store
from serving.routes import RouteReader
from serving.state import PriceBook
from serving.subnets.base import Route
from serving.subnets.registry import make
from serving.traffic import TrafficWriter
from serving.triton import Triton
from serving.types import Hotkey
from serving.wire import btauth, legacy
from serving.wire.keys import public_key

BACKLOG = 2048
CUT_OFF_S = 2.0
_PR_SET_PDEATHSIG = 1


def road_of(config: GatewayConfig) -> dict[bytes, Route | Ping]:
    """Every path that is served, with the route behind it."""
    routes: dict[bytes, Route | Ping] = {b"/Synapse": Ping()}
    for subnet in make(config.subnets):
        for route in subnet.routes:
            routes[b"/" + route.synapse.encode()] = route
    return routes


def retention_s(routes: dict[bytes, Route | Ping]) -> float:
    """How long nonces are remembered: twice the widest window of any route in any dialect, in seconds."""
    widest = max(float(route.max_timeout) for route in routes.values()) + legacy.BEHIND_S + legacy.AHEAD_S
    return 2 * max(widest, (btauth.BEHIND_NS + btauth.AHEAD_NS) / 1e9)


def build(config: GatewayConfig, log: Any) -> tuple[Gateway, Triton]:
    """The gateway of one worker, and its Triton client, which the caller closes; needs a running event loop."""
    routes = road_of(config)
    env = open_store(Path(config.nonces))
    receiver = public_key(config.hotkey)
    traffic = TrafficWriter(Path(config.traffic))
    metrics = Metrics()
    triton = Triton(config.triton)
    answerer = Answerer(
        routes=RouteReader(Path(config.routes), kept=config.kept("routes")),
        prices=StateFile(Path(config.prices), PriceBook, kept=config.kept("prices")),
        triton=triton, traffic=traffic, metrics=metrics, shadows=config.shadows,
    )  # fmt: skip
    gateway = Gateway(
        hotkey=Hotkey(config.hotkey),
        routes=routes,
        identity=Identity(
            Path(config.neurons),
            stake_threshold=config.stake_threshold,
            allow=config.allow,
            deny=config.deny,
            kept=config.kept("neurons"),
        ),
        nonces=NonceStore(env, Path(config.nonces), receiver=receiver, retention_s=retention_s(routes)),
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


async def serve(config: GatewayConfig, listener: socket.socket, log: Any) -> None:
    """Answer until SIGTERM or SIGINT; then finish what was admitted, at most `drain_s` seconds."""
    gateway, triton = build(config, log)
    server = _Server(
        uvicorn.Config(
            gateway, http=Protocol, ws="none", lifespan="off", interface="asgi3", loop="uvloop", log_config=None,
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
            await asyncio.to_thread(gateway.keep)  # the floor is synced to the disk now and then
        except Exception:
            log.exception("housekeeping failed")
        await asyncio.sleep(1.0)


def die_with(parent: int) -> None:
    """Get SIGTERM when the parent dies, whatever kills it; exit now when it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def main() -> None:
    """Entry point of the process."""
    import uvloop

    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    config = decode(sys.stdin.buffer.read())
    die_with(parent)
    log = logs.configure("worker", pid=os.getpid(), started=round(time.time(), 3))
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    uvloop.run(serve(config, listener, log))


if __name__ == "__main__":
    main()
