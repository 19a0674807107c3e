"""A gateway at the network edge: it answers by the subnet's own protocol, and can be told to err."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np

from serving.errors import Refusal
from serving.seed import seed_of
from serving.subnets.base import Task
from serving.subnets.synth.protocol import SYNTH
from serving.types import UnixSeconds

Answer = Callable[[Task], Any]
"""A task to the array that goes into the reply."""


class Asked(NamedTuple):
    """A request as it came off the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Headers by lower-case name."""
        return {name.lower(): value for name, value in self.headers}


class Gateway:
    """Answers ``POST /Simulation``; `answer` gives the paths, `mangle` may change status, headers and body."""

    def __init__(self, answer: Answer, spot: float = 100.5) -> None:
        self.asked: list[Asked] = []
        self.answer = answer
        self.mangle: Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]] | None = None
        self.port = 0
        self.spot = spot

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        try:
            while asked := await _read(reader):
                self.asked.append(asked)
                writer.write(self._reply(asked))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):  # the test is over
            pass
        finally:
            writer.close()

    def _reply(self, asked: Asked) -> bytes:
        legacy = "bt_header_dendrite_signature" in asked.fields
        headers = {"content-type": "application/json"}
        (route,) = SYNTH.routes
        try:
            task = route.parse(json.loads(asked.body), UnixSeconds(0.0))
            status, body = 200, bytes(route.reply(task, self.answer(task), legacy=legacy))
        except Refusal as refusal:
            status, body = refusal.status, json.dumps({"message": refusal.message}).encode()
        if legacy:
            headers["bt_header_axon_status_code"] = str(status)
        if self.mangle:
            status, headers, body = self.mangle(status, headers, body)
        head = "".join(f"{name}: {value}\r\n" for name, value in ({"content-length": len(body)} | headers).items())
        return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.rstrip("\r\n").split("\r\n")
    headers = [(name, value) for name, _, value in (field.partition(": ") for field in rest)]
    length = int({name.lower(): value for name, value in headers}["content-length"])
    return Asked(line, headers, await reader.readexactly(length))


@asynccontextmanager
async def gateway(answer: Answer) -> AsyncIterator[Gateway]:
    """A gateway on a free port of loopback."""
    it = Gateway(answer)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()


def walk(task: Task, sigma: float = 1e-3, spot: float = 100.5) -> Any:
    """Valid paths: a Gaussian walk by the task's own seed."""
    (route,) = SYNTH.routes
    request = task.request
    draws = np.random.default_rng(seed_of(task.slot, task.canonical))
    steps = draws.normal(0, sigma, (request.input.num_simulations, request.points)).cumsum(axis=1)
    steps[:, 0] = 0
    return np.asarray(route.answer(task, {"PATHS": (spot * np.exp(steps)).astype(np.float32)[np.newaxis]}))
