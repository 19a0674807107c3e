"""A closed loop of presigned requests over keep-alive connections, and the CPU time of whoever answers them."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, cast

import bittensor_core
import psutil
import uvloop

CALLER = bittensor_core.Keypair.create_from_uri("//Alice")
MINER = bittensor_core.Keypair.create_from_uri("//Ferdie").ss58_address


class Template:
    """A request that the stock Dendrite made, to be signed anew with a fresh uuid and nonce each time."""

    def __init__(self, synapse: str, headers: dict[str, str], body: str) -> None:
        self._nonce, self._uuid, self._signature, self._hash = (
            headers[name]
            for name in ("bt_header_dendrite_nonce", "bt_header_dendrite_uuid", "bt_header_dendrite_signature",
                         "computed_body_hash")
        )  # fmt: skip
        client = {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "Python/3.11 aiohttp/3.14.5"}
        sent = {"Host": "127.0.0.1:8091", **headers, **client, "Content-Type": "application/json"}
        lines = [f"POST /{synapse} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        self._raw = "\r\n".join(lines) + f"\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}"

    def sign(self, count: int) -> list[bytes]:
        """Fresh requests, each with a nonce and a uuid of its own, all signed now."""
        return [self._one(nonce) for nonce in _nonces(count)]

    def _one(self, nonce: int) -> bytes:
        fresh = str(uuid.uuid4())
        signature = CALLER.sign(f"{nonce}.{CALLER.ss58_address}.{MINER}.{fresh}.{self._hash}".encode()).hex()
        raw = self._raw.replace(self._nonce, str(nonce)).replace(self._uuid, fresh)
        return raw.replace(self._signature, "0x" + signature).encode()


def sign_btauth(target: str, body: bytes, count: int) -> list[bytes]:
    """Fresh requests of SDK 11 with this body, signed now."""
    digest, sender = sha256(body).hexdigest(), CALLER.ss58_address
    made = []
    for nonce in _nonces(count):
        message = "\n".join(("btauth/1", "sr25519", "POST", target, digest, str(nonce), sender, MINER))
        head = (
            f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:8091\r\nX-Bittensor-Version: 1\r\n"
            f"X-Bittensor-Hotkey: {sender}\r\nX-Bittensor-Receiver: {MINER}\r\nX-Bittensor-Nonce: {nonce}\r\n"
            f"X-Bittensor-Signature: 0x{CALLER.sign(message.encode()).hex()}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def _nonces(count: int) -> Iterable[int]:
    now = time.time_ns()
    return range(now - count, now)


class Reply(NamedTuple):
    """One answer, and how long it took in seconds."""

    status: int
    body: bytes
    took: float


class Run(NamedTuple):
    """What came of one batch of requests."""

    replies: list[Reply]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.replies) / self.seconds

    def took(self, share: float) -> float:
        """The quantile of latency, in seconds."""
        ordered = sorted(reply.took for reply in self.replies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Connection(asyncio.Protocol):
    """Sends one request at a time, and hands each answer over."""

    def __init__(self, answered: Callable[[_Connection, Reply], None]) -> None:
        self._answered = answered
        self._found = bytearray()
        self._whole = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due: float | None = None) -> None:
        """The next request; its time counts from `due` (`time.perf_counter` s), or from now."""
        self._sent = time.perf_counter() if due is None else due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._found += data
        if not self._whole:
            end = self._found.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._found[:end]).lower()
            self._body = end + 4
            self._whole = self._body + int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        if len(self._found) >= self._whole:
            took = time.perf_counter() - self._sent
            reply = Reply(int(self._found[9:12]), bytes(self._found[self._body :]), took)
            self._found.clear()
            self._whole = 0
            self._answered(self, reply)

    def close(self) -> None:
        """No further request."""
        self.done.set_result(None)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed a connection"))


async def _connections(port: int, count: int, answered: Callable[[_Connection, Reply], None]) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", port))[1] for _ in range(count)]


async def _drive(port: int, requests: Sequence[bytes], connections: int) -> Run:
    left, replies = iter(requests), list[Reply]()

    def proceed(connection: _Connection) -> None:
        request = next(left, None)
        if request is None:
            connection.close()
        else:
            connection.send(request)

    def answered(connection: _Connection, reply: Reply) -> None:
        replies.append(reply)
        proceed(connection)

    opened = await _connections(port, connections, answered)
    began = time.perf_counter()
    for connection in opened:
        proceed(connection)
    await asyncio.gather(*(connection.done for connection in opened))
    return Run(replies, time.perf_counter() - began)


def drive(port: int, requests: Sequence[bytes], connections: int) -> Run:
    """A closed loop: send every request, `connections` at a time; raises when a connection breaks."""
    return uvloop.run(_drive(port, requests, connections))


async def on_time(count: int, per_s: float, start: Callable[[int], object]) -> None:
    """Call `start` with 0, 1, ... at a steady rate, whatever becomes of those before."""
    began = time.perf_counter()
    for number in range(count):
        ahead = began + number / per_s - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        start(number)


async def _pace(port: int, requests: Sequence[bytes], per_s: float, connections: int) -> Run:
    replies = list[Reply]()
    waiting = deque[tuple[bytes, float]]()
    last = asyncio.get_running_loop().create_future()

    def answered(connection: _Connection, reply: Reply) -> None:
        replies.append(reply)
        if len(replies) == len(requests):
            last.set_result(None)
        if waiting:
            connection.send(*waiting.popleft())
        else:
            idle.append(connection)

    def start(number: int) -> None:
        if idle:
            idle.pop().send(requests[number])
        else:
            waiting.append((requests[number], time.perf_counter()))

    opened = await _connections(port, connections, answered)
    idle = list(opened)
    began = time.perf_counter()
    await on_time(len(requests), per_s, start)
    await asyncio.wait([last, *(connection.done for connection in opened)], return_when=asyncio.FIRST_COMPLETED)
    seconds = time.perf_counter() - began
    for connection in opened:
        if not connection.done.done():
            connection.close()
    await asyncio.gather(*(connection.done for connection in opened))
    return Run(replies, seconds)


def pace(port: int, requests: Sequence[bytes], per_s: float, connections: int = 32) -> Run:
    """An open loop: requests start at a steady rate; one that finds no free connection waits, and its time runs."""
    return uvloop.run(_pace(port, requests, per_s, connections))


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all that it started and that still run, as the kernel counts them (10 ms steps)."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def median(values: Iterable[Any]) -> float:
    """The median as a float."""
    return float(statistics.median(values))
