"""Validators on an open loop: a signed Synth prompt at each tick, whatever became of the ones before."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from bench.stand.stand import MINER, VALIDATORS, hotkey
from serving.twin.callers import Caller, Signed, btauth, legacy

LIMIT_S = 5.0
"""A request without its answer by then is lost."""
SIMULATIONS = 20


class Seen(NamedTuple):
    """What a stretch of load saw."""

    ms: list[float]
    """From the tick to the last byte, of each request that was answered 200."""
    lost: dict[str, int]
    """The others, by status or reason."""


class Load:
    """Two dialects, three validators, connections kept open between requests as the twin's client keeps them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._miner = hotkey(MINER)
        self._callers = [Caller(uri) for uri in VALIDATORS]
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._count = 0

    async def run(self, per_s: float, seconds: float) -> Seen:
        """One stretch; returns when all of it is answered or lost."""
        seen = Seen([], {})
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_s * seconds)):
                due = began + number / per_s
                await asyncio.sleep(max(0.0, due - loop.time()))
                group.create_task(self._ask(due, seen))
        return seen

    async def close(self) -> None:
        """Close what is kept open."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _ask(self, due: float, seen: Seen) -> None:
        try:
            async with asyncio.timeout(LIMIT_S):
                status = await self._send(self._signed())
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        if status == "200":
            seen.ms.append((asyncio.get_running_loop().time() - due) * 1e3)
        else:
            seen.lost[status] = seen.lost.get(status, 0) + 1

    def _signed(self) -> bytes:
        self._count += 1
        caller = self._callers[self._count % len(self._callers)]
        start = int(time.time() // 60) * 60 + 120
        given = {
            "asset": "BTC", "start_time": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(start)),
            "time_increment": 300, "time_length": 86_400, "num_simulations": SIMULATIONS,
        }  # fmt: skip
        inputs = {"simulation_input": given}
        signed: Signed
        if self._count % 2:
            signed = btauth(caller, self._miner, "/Simulation", inputs)
        else:
            signed = legacy(
                caller, self._miner, address=("127.0.0.1", self._port), synapse="Simulation", inputs=inputs,
                outputs=("simulation_output",), timeout=12.0,
            )  # fmt: skip
        lines = [
            "POST /Simulation HTTP/1.1",
            "Host: 127.0.0.1",
            *(f"{name}: {value}" for name, value in signed.headers),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + signed.body

    async def _send(self, data: bytes) -> str:
        while self._idle and self._idle[-1][0].at_eof():  # closed by the gateway after its keep-alive time
            self._idle.pop()[1].close()
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self._idle.append((reader, writer))
        return head[9:12].decode()
