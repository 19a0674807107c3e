"""The attackers. Run as ``python -m bench.flooding.attacks junk|slow PORT RATE``: attacks until its stdin closes.

RATE is the junk's, in requests a second. Says ``ready`` at first and, at the end, one JSON object: what it sent and
what it was told.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from contextlib import suppress

import bittensor_core
import uvloop

from bench.stand.stand import MINER, VALIDATORS, hotkey

JUNK_FROM, SLOW_FROM = "127.0.0.66", "127.0.0.67"
CONNECTIONS = 32
SLOW = 500


class Junk:
    """Bad signatures of known hotkeys, unknown hotkeys, and garbage, a third each, at a fixed rate."""

    def __init__(self, port: int, per_s: float) -> None:
        self.told: Counter[str] = Counter()
        self._port, self._per_s = port, per_s
        self._miner = hotkey(MINER)
        self._known = [hotkey(uri) for uri in VALIDATORS]
        strangers = (bittensor_core.Keypair.create_from_uri(f"//Stranger{number}") for number in range(100))
        self._unknown = [str(pair.ss58_address) for pair in strangers]
        self._random = random.Random(5)
        self._sent = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Over many connections, opened anew whenever one is closed, until told to stop."""
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._one(stop, began) for _ in range(CONNECTIONS)))

    async def _one(self, stop: asyncio.Event, began: float) -> None:
        loop, writer = asyncio.get_running_loop(), None
        while not stop.is_set():
            self._sent += 1
            await asyncio.sleep(max(0.0, began + self._sent / self._per_s - loop.time()))
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(JUNK_FROM, 0))
                writer.write(self._request())
                async with asyncio.timeout(1.0):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0]))
                self.told[head[9:12].decode()] += 1
                gone = b"connection: close" in head.lower()
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.told[type(error).__name__] += 1
                gone = True
            if gone and writer is not None:
                writer.close()
                writer = None

    def _request(self) -> bytes:
        kind = self._random.randrange(3)
        if kind == 2:
            return self._random.randbytes(200) + b"\r\n\r\n"
        sender, nonce = self._random.choice((self._known, self._unknown)[kind]), time.time_ns()
        signature = self._random.randbytes(64).hex()
        if self._random.random() < 0.5:
            headers = (
                f"bt_header_dendrite_hotkey: {sender}\r\nbt_header_dendrite_nonce: {nonce}\r\n"
                f"bt_header_dendrite_uuid: a\r\ntimeout: 12\r\nbt_header_dendrite_signature: 0x{signature}\r\n"
                f"computed_body_hash: {'ab' * 32}\r\n"
            )
        else:
            headers = (
                f"X-Bittensor-Version: 1\r\nX-Bittensor-Hotkey: {sender}\r\nX-Bittensor-Receiver: {self._miner}\r\n"
                f"X-Bittensor-Nonce: {nonce}\r\nX-Bittensor-Signature: 0x{signature}\r\n"
            )
        return f"POST /Simulation HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 2\r\n\r\n{{}}".encode()


class Slow:
    """Five hundred connections that say nothing, drip a head, or drip a body; each comes back when it is closed."""

    def __init__(self, port: int) -> None:
        self.told: Counter[str] = Counter()
        self._port = port

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        tasks = [asyncio.create_task(self._one(number)) for number in range(SLOW)]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        start, drip = (
            (b"", b""),
            (b"POST /Simulation HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
            (b"POST /Simulation HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n", b"x"),
        )[number % 3]
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(SLOW_FROM, 0))
                self.told["opened"] += 1
                writer.write(start)
                try:
                    while not reader.at_eof():
                        with suppress(TimeoutError):
                            async with asyncio.timeout(1.0):
                                if not await reader.read(4096):
                                    break
                        writer.write(drip)
                finally:
                    writer.close()
                self.told["closed by the gateway"] += 1
            await asyncio.sleep(0.5)


async def attack(attacker: Junk | Slow) -> None:
    """Attack until stdin closes, then tell."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: stop.set() if not os.read(0, 1) else None)
    print("ready", flush=True)
    await attacker.run(stop)
    print(json.dumps(attacker.told), flush=True)


def main() -> None:
    """Read the arguments and attack."""
    kind, port, per_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    uvloop.run(attack(Junk(port, per_s) if kind == "junk" else Slow(port)))


if __name__ == "__main__":
    main()
