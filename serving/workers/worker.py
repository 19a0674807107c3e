"""One worker process: the gateway's parts put together, and uvicorn around them.

Started by `serving.workers.crew` as ``python -m serving.workers.worker <listening fd> <parent pid> <shared memory fd>
<place in it>``, the config as JSON on stdin.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lmdb
import uvicorn

from serving.admission import liveness
from serving.admission.budgets import Budgets
from serving.admission.estimate import ServiceTimes
from serving.admission.queue import Admission
from serving.answering import Answerer, Infers
from serving.app import Gateway
from serving.clock import Clock
from serving.config import GatewayConfig, decode
from serving.errors import Refusal
from serving.files import LOOK_EVERY_S, StateFile
from serving.miners import miners_of
from serving.nonces.redis import RedisNonces
from serving.nonces.store import NonceStore, ReplayStore, open_store
from serving.pins import Pins
from serving.public.accepting import Server
from serving.public.door import door_of
from serving.public.http import Protocol as HttpProtocol
from serving.public.listening import BACKLOG
from serving.routes import RouteReader
from serving.state import PriceBook, read_pause
from serving.traffic.writer import TrafficWriter
from serving.triton import Triton
from serving.watch import logs
from serving.watch.metrics import Metrics
from serving.watch.request_log import RequestLog
from serving.watch.solid import map_solidly
from serving.wire import dialects
from serving.workers.acks import Desk, folder_of
from serving.workers.balance import Shares
from serving.workers.signals import endings

CUT_OFF_S = 2.0
TELL_S = 0.1
"""How often a worker looks for new routes and a pause, and says what is in force."""
_PR_SET_PDEATHSIG = 1


class ModelServer(Infers, liveness.Answers, Protocol):
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
    map_solidly()
    metrics = Metrics()
    triton = connect(config.triton)
    times = ServiceTimes()
    answerer = Answerer(
        routes=RouteReader(Path(config.routes), kept=config.kept("routes"), look_every_s=LOOK_EVERY_S),
        prices=StateFile(Path(config.prices), PriceBook, kept=config.kept("prices"), look_every_s=LOOK_EVERY_S),
        pins=Pins(env), triton=triton, traffic=traffic, metrics=metrics, shadows=config.shadows, times=times,
    )  # fmt: skip
    gateway = Gateway(
        miners=miners,
        claims=dialects.claims(epistula_on=config.epistula, schemes=config.schemes),
        nonces=_nonces(config, env, miners.retention_s(), log),
        budgets=Budgets(env, per_s=config.requests_per_s, burst=config.burst),
        admission=Admission(in_flight=config.in_flight, waiting=config.waiting, slots=config.slots(), times=times),
        door=door_of(config),
        answerer=answerer,
        traffic=traffic,
        metrics=metrics,
        clock=Clock(Path(config.clock)) if config.clock else Clock(),
        log=log,
        requests=RequestLog("worker"),
    )
    return gateway, triton


async def serve(
    config: GatewayConfig, listener: socket.socket, log: Any, connect: Connect = Triton, *,
    shares: Shares | None = None, place: int = 0,
) -> None:  # fmt: skip
    """Answer until one of `endings`; then finish what was admitted, at most `drain_s` seconds.

    On SIGUSR1, which says that the parent is dead, answer on for `linger_s` seconds.
    """
    gateway, triton = build(config, log, connect)
    gc.collect()
    gc.freeze()  # all of this stays; looking through it again would now and then hold every request up for 50 ms
    server = Server(
        uvicorn.Config(
            gateway, http=HttpProtocol, ws="none", lifespan="off", interface="asgi3", loop="uvloop", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=False, backlog=BACKLOG,
            timeout_graceful_shutdown=max(1, int(config.drain_s)),
        ),
        idle_grace_s=config.idle_grace_s, shares=shares, place=place,
    )  # fmt: skip
    loop = asyncio.get_running_loop()

    def leave() -> None:
        server.should_exit = True

    for sig in endings():
        loop.add_signal_handler(sig, leave)
    loop.add_signal_handler(signal.SIGUSR1, lambda: loop.call_later(config.linger_s, leave))
    gateway.paused = _is_paused(config)
    desk = Desk(folder_of(Path(config.run)), parent=os.getppid())
    keepers = [
        loop.create_task(_keep(gateway, log)), loop.create_task(_tell(gateway, config, server, desk, log)),
        loop.create_task(liveness.watch(triton, gateway.answerer.breakers, gateway.answerer.in_flight, log)),
    ]  # fmt: skip
    try:
        await server.serve(sockets=[listener])
        if server.server_state.tasks:  # cut off by the drain's limit: they still say so
            await asyncio.wait(server.server_state.tasks, timeout=CUT_OFF_S)
    finally:
        for keeper in keepers:
            keeper.cancel()
        desk.close()
        await gateway.answerer.close()
        await gateway.nonces.close()
        await triton.close()
        gateway.traffic.close()
        gateway.metrics.flush()
        gateway.requests.flush()
        log.info("worker done")


def _nonces(config: GatewayConfig, env: lmdb.Environment, retention_s: float, log: Any) -> ReplayStore:
    if config.redis:
        return RedisNonces(config.redis, retention_s=retention_s, log=log)
    return NonceStore(env, Path(config.nonces), retention_s=retention_s)


async def _keep(gateway: Gateway, log: Any) -> None:
    while True:
        try:
            await gateway.nonces.tick(gateway.wall_ns())
        except Refusal as refused:
            log.error("the replay store is in trouble", code=refused.code)
        except Exception:
            log.exception("the replay store's housekeeping failed")
        try:
            await asyncio.to_thread(gateway.keep)
        except Exception:
            log.exception("housekeeping failed")
        await asyncio.sleep(1.0)


async def _tell(gateway: Gateway, config: GatewayConfig, server: Server, desk: Desk, log: Any) -> None:
    """See new routes and a pause also when nobody calls, and say what is in force once connections are taken."""
    trouble = ready = False
    while True:
        if server.started and not ready:
            ready = True
            log.info("worker ready")
        try:
            gateway.paused = _is_paused(config)
            if ready:
                routes, calls = gateway.answerer.routes.get(), gateway.answerer.in_flight
                held = gateway.answerer.pins.held(time.time())
                desk.say(routes, calls, held, paused=gateway.paused, leaving=server.should_exit)
            trouble = False
        except Exception as error:  # whatever it is, a worker that falls silent for good holds up every release
            if not trouble:
                log.error("a worker cannot say how it fares", error=type(error).__name__)
            trouble = True
        await asyncio.sleep(TELL_S if ready else TELL_S / 10)


def _is_paused(config: GatewayConfig) -> bool:
    return config.pause is not None and read_pause(Path(config.pause)) is not None


def die_with(parent: int, sig: signal.Signals) -> None:
    """Get `sig` when the parent dies, whatever kills it; exit now when it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def main(connect: Connect = Triton) -> None:
    """Entry point of the process."""
    import uvloop

    fd, parent, shared, place = map(int, sys.argv[1:5])
    config = decode(sys.stdin.buffer.read())
    die_with(parent, signal.SIGUSR1 if config.linger_s else signal.SIGTERM)
    log = logs.configure("worker", pid=os.getpid(), started=round(time.time(), 3))
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    uvloop.run(serve(config, listener, log, connect, shares=Shares(shared), place=place))


if __name__ == "__main__":
    main()
