"""The attacks as blocks during which they go on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from bench.stand.stand import ROOT

Attack = Callable[[], AbstractAsyncContextManager[None]]
FULL_SWING_S = 1.0


class Attacks:
    """On one gateway, from other addresses than the validators'.

    Args:
        port: Where it listens.
        junk_per_s: Requests of the junk flood.
        neurons: Its table of neurons.
        write_neurons: Writes that table as of so many seconds ago.
    """

    def __init__(self, port: int, junk_per_s: float, neurons: Path, write_neurons: Callable[[float], None]) -> None:
        self.told: dict[str, Counter[str]] = {"junk": Counter(), "slow": Counter()}
        """What the attackers met."""
        self._port, self._junk_per_s = port, junk_per_s
        self._neurons, self._write_neurons = neurons, write_neurons

    def junk(self) -> AbstractAsyncContextManager[None]:
        """Bad signatures, strangers, garbage."""
        return self._process("junk")

    def slow(self) -> AbstractAsyncContextManager[None]:
        """500 slow senders."""
        return self._process("slow")

    @asynccontextmanager
    async def _process(self, kind: str) -> AsyncIterator[None]:
        command = [sys.executable, "-m", "bench.flooding.attacks", kind, str(self._port), str(self._junk_per_s)]
        attacker = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        await attacker.stdout.readline()
        await asyncio.sleep(FULL_SWING_S)
        try:
            yield
        finally:
            attacker.stdin.close()
            self.told[kind] += Counter(json.loads(await attacker.stdout.readline()))
            await attacker.wait()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """The table of neurons goes, comes back as garbage, comes back too old, and so on."""
        steps: list[Callable[[], object]] = [
            lambda: self._neurons.unlink(missing_ok=True), lambda: self._neurons.write_bytes(b'{"netuid":'),
            lambda: self._write_neurons(86_400.0),
        ]  # fmt: skip

        async def go_on() -> None:
            while True:
                for step in steps:
                    step()
                    await asyncio.sleep(0.7)

        going = asyncio.create_task(go_on())
        try:
            yield
        finally:
            going.cancel()
            self._write_neurons(0.0)
