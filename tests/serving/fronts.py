"""A gateway behind its own HTTP protocol, in the test's process, and raw connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn

from serving.answering import Infers
from serving.public import http
from serving.subnets.base import Tensors
from serving.types import ReleaseId
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.gateways import Box, write_routes

Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Front:
    """The gateway's public port."""

    def __init__(self, port: int, box: Box) -> None:
        self.port = port
        self.box = box

    async def connect(self) -> Connected:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, *pieces: bytes) -> bytes:
        """Send pieces and read until the server closes."""
        loop, found = asyncio.get_running_loop(), b""
        with socket.socket() as caller, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            caller.setblocking(False)
            await loop.sock_connect(caller, ("127.0.0.1", self.port))
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                for piece in pieces:
                    await loop.sock_sendall(caller, piece)
                    await asyncio.sleep(0.01)  # a piece a packet
            while data := await asyncio.wait_for(loop.sock_recv(caller, 65536), 60):
                found += data
        return found


class Holding(FakeTriton):
    """A Triton that keeps every request until it is let go, and notes who was taken back."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.inside = 0
        self.taken_back = 0

    async def infer(self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Tensors:
        self.inside += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.taken_back += 1
            raise
        finally:
            self.inside -= 1
        return doubled(tensors)


@contextlib.asynccontextmanager
async def opened(home: Path, triton: Infers, **options: Any) -> AsyncIterator[Front]:
    """A gateway that listens."""
    write_routes(home, stable="tiny-a")
    box = Box(home, triton, **options)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            box.gateway, http=http.Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
            proxy_headers=False, server_header=False, date_header=False,
        )
    )  # fmt: skip
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield Front(listener.getsockname()[1], box)
    finally:
        server.should_exit = True
        await serving
        box.close()


async def until(true: Callable[[], object], limit_s: float = 60.0) -> None:
    """Wait until something is so."""
    end = asyncio.get_running_loop().time() + limit_s
    while not true():
        assert asyncio.get_running_loop().time() < end, "did not happen"
        await asyncio.sleep(0.01)
