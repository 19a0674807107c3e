"""Sends cases over many connections at once, from many loopback addresses, and hands every reply to the judge."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from bench.fuzzing.cases import Case, Maker
from bench.fuzzing.judge import Judge, Reply

CONNECTIONS = 48
ADDRESSES = 4000
"""Loopback addresses that callers come from, so that no address is over its budget of junk."""
UNSURE_S = 0.2
"""How long to wait for an answer to what may not be a whole request."""
SURE_S = 30.0
_REQUESTS_EACH = 60


class Connection(asyncio.Protocol):
    """One connection, and the replies that came over it."""

    def __init__(self) -> None:
        self._data = b""
        self._closed = False
        self._wake: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._stir()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._stir()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def reply(self, limit_s: float, *, bodyless: bool = False) -> Reply | None:
        """The next reply; None when the connection closed without one, or nothing came in time (TimeoutError)."""
        async with asyncio.timeout(limit_s):
            while True:
                found = self._take(bodyless)
                if found is not None or self._closed:
                    return found
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake

    def _take(self, bodyless: bool) -> Reply | None:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return None
        line, *lines = head.split(b"\r\n")
        if line.startswith(b"HTTP/1.1 100"):
            self._data = rest
            return self._take(bodyless)
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in lines)}
        length = 0 if bodyless else int(headers.get(b"content-length", b"0"))
        if len(rest) < length:
            return None
        self._data = rest[length:]
        return Reply(int(line[9:12]), headers, rest[:length], len(head) + 4 + length, bodyless)


class Seen(NamedTuple):
    """What a run found."""

    requests: Counter[str]
    """By kind of case."""
    statuses: Counter[tuple[str, int]]
    """By kind and status; 0 for no answer."""
    violations: Counter[str]


class Client:
    """Works through cases until there were enough."""

    def __init__(self, port: int, seed: int, requests: int, keep: Path) -> None:
        self.seen = Seen(Counter(), Counter(), Counter())
        self.sent = 0
        self.requests = requests
        self._port = port
        self._maker = Maker(seed)
        self._cases: Iterator[Case] = self._maker.cases()
        self._judge = Judge()
        self._places = random.Random(seed)
        self._keep = keep

    async def run(self, enough: Callable[[], bool]) -> None:
        """Send until `requests` were sent, or `enough` says so."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._work(enough))

    async def _work(self, enough: Callable[[], bool]) -> None:
        connection: Connection | None = None
        served = 0
        while self.sent < self.requests and not enough():
            case = next(self._cases)
            self.sent += max(1, len(case.wires))
            if connection is None or not case.wires or served >= _REQUESTS_EACH:
                if connection is not None:
                    connection.transport.close()
                connection, served = await self._connect(), 0
            served += len(case.wires)
            try:
                keep = await self._send(connection, case)
            except OSError:
                keep = False
            if not keep:
                connection.transport.close()
                connection = None
        if connection is not None:
            connection.transport.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        number = self._places.randrange(ADDRESSES)
        source = f"127.1.{number // 250}.{number % 250 + 1}"
        while True:
            with suppress(OSError):
                _, made = await loop.create_connection(Connection, "127.0.0.1", self._port, local_addr=(source, 0))
                return made
            await asyncio.sleep(0.05)

    async def _send(self, connection: Connection, case: Case) -> bool:
        """Send one case and judge what comes; whether the connection is good for another."""
        self.seen.requests[case.kind] += max(1, len(case.wires))
        for number, piece in enumerate(case.pieces):
            if number:
                await asyncio.sleep(0)
            connection.transport.write(piece)
        if case.hang_up:
            return False
        if not case.wires:
            with suppress(TimeoutError):
                reply = await connection.reply(UNSURE_S, bodyless=case.pieces[0].startswith(b"HEAD"))
                self._look(case, reply, number=None)
                return False
            self.seen.statuses[case.kind, 0] += 1
            return False
        for number in range(len(case.wires)):
            try:
                reply = await connection.reply(SURE_S)
            except TimeoutError:
                self._violation(case, f"no answer in {SURE_S:.0f} s", None)
                return False
            self._look(case, reply, number=number)
            if reply is None or reply.headers.get(b"connection") == b"close":
                return False
        return True

    def _look(self, case: Case, reply: Reply | None, number: int | None) -> None:
        self.seen.statuses[case.kind, reply.status if reply else 0] += 1
        wire = None if number is None else case.wires[number]
        if reply is None:
            if wire is not None and number == 0:
                self._violation(case, "closed without an answer", None)
            return
        fault = self._judge.fault(reply, b"".join(case.pieces), wire, good=case.good)
        if fault is not None:
            self._violation(case, fault, reply)
        elif reply.status == 200 and wire is not None:
            self._maker.answered(wire)

    def _violation(self, case: Case, what: str, reply: Reply | None) -> None:
        """Count it, and keep the bytes of the first of its sort."""
        what = f"{case.kind}: {what}"
        self.seen.violations[what] += 1
        if self.seen.violations[what] == 1:
            name = "".join(char if char.isalnum() else "-" for char in what)
            self._keep.mkdir(parents=True, exist_ok=True)
            answer = b"" if reply is None else b"%d %b %b" % (reply.status, repr(reply.headers).encode(), reply.body)
            (self._keep / f"{name}.request").write_bytes(b"".join(case.pieces))
            (self._keep / f"{name}.reply").write_bytes(answer)
