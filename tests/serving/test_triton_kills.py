"""The Triton client: a server that is killed or stopped, large tensors, and callers that leave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from serving.rpc import channel as channels
from serving.subnets.base import Tensors
from serving.triton import ReleaseFault, ServerDown, TooLate, Triton, TritonFault
from serving.types import ReleaseId
from tests.ports import free_port
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import stop_still

pytestmark = pytest.mark.slow
A = ReleaseId("tiny-a")
X: Tensors = {"X": np.array([[1.0, 2.5]], np.float32)}
SERVER = """
import signal, sys
from tests.serving.fake_triton import FakeTritonServer, doubled
FakeTritonServer(port=int(sys.argv[1]), tiny_a=doubled)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there may take a connection as late as this machine lets it."""
    monkeypatch.setattr(channels, "CONNECT_S", 60.0)


@contextmanager
def server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A fake Triton in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], cwd=root, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def ask(triton: Triton, timeout_s: float = 60.0) -> list[float]:
    outputs = await triton.infer(A, X, priority=1, timeout_s=timeout_s)
    return [float(value) for value in outputs["Y"][0]]


async def found_again(triton: Triton) -> None:
    """Ask as the gateway does, until there is an answer."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await ask(triton) == [2.0, 5.0]
            except ServerDown:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_killed_server_is_down_and_its_successor_is_found() -> None:
    port = free_port()
    triton = Triton(f"127.0.0.1:{port}")
    for _ in range(3):
        with server(port) as process:
            await found_again(triton)
            process.kill()
            process.wait()
            with pytest.raises(ServerDown):
                await ask(triton)
    await triton.close()


async def test_calls_in_flight_at_a_kill_end_at_once() -> None:
    port = free_port()
    triton = Triton(f"127.0.0.1:{port}")
    with server(port) as process:
        await found_again(triton)
        stop_still(process.pid)
        calls = [asyncio.ensure_future(ask(triton)) for _ in range(20)]
        await asyncio.sleep(0)
        process.kill()
        faults = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(fault) for fault in faults} == {ServerDown}
    await triton.close()


async def test_a_stopped_server_is_too_late_then_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    triton = Triton(f"localhost:{port}")
    with server(port) as process:
        await found_again(triton)
        stop_still(process.pid)
        for _ in range(3):
            with pytest.raises(TooLate):
                await ask(triton, 0.05)
        newcomer = Triton(f"localhost:{port}")
        with monkeypatch.context() as hurried:
            hurried.setattr(channels, "CONNECT_S", 0.1)
            with pytest.raises(ServerDown):  # the kernel takes the connection, nobody says any settings
                await ask(newcomer)
        os.kill(process.pid, signal.SIGCONT)
        assert await ask(triton) == [2.0, 5.0]
        await found_again(newcomer)
        await newcomer.close()
        await triton.close()


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeTritonServer]]:
    made: list[FakeTritonServer] = []

    def start(**models: object) -> FakeTritonServer:
        made.append(FakeTritonServer(**models))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for each in made:
        each.hold.set()
        each.stop()


async def test_large_tensors_go_both_ways_among_small_ones(fake: Callable[..., FakeTritonServer]) -> None:
    def alike(tensors: Tensors) -> Tensors:
        return {"Y": tensors["X"]}

    large: Tensors = {"X": np.arange(600_000, dtype=np.float32).reshape(1, -1)}
    triton = Triton(fake(tiny_a=doubled, tiny_b=alike).address)

    async def both() -> None:
        outputs = await triton.infer(ReleaseId("tiny-b"), large, priority=1, timeout_s=60.0)
        np.testing.assert_array_equal(outputs["Y"], large["X"])
        assert await ask(triton) == [2.0, 5.0]

    await asyncio.gather(*(both() for _ in range(30)))
    await triton.close()


@pytest.mark.parametrize(("size", "fits"), [(60, True), (65, False)])
async def test_a_response_of_up_to_64_mib_is_taken(
    fake: Callable[..., FakeTritonServer], size: int, fits: bool
) -> None:
    def grown(tensors: Tensors) -> Tensors:
        return {"Y": np.zeros((1, size * 1024 * 1024), np.uint8)}

    triton = Triton(fake(tiny_a=grown, tiny_b=doubled).address)
    if fits:
        outputs = await triton.infer(A, X, priority=1, timeout_s=120.0)
        assert outputs["Y"].shape == (1, size * 1024 * 1024)
    else:
        with pytest.raises(ReleaseFault):
            await triton.infer(A, X, priority=1, timeout_s=120.0)
    assert await triton.infer(ReleaseId("tiny-b"), X, priority=1, timeout_s=60.0)
    await triton.close()


async def test_a_thousand_callers_that_leave_and_a_thousand_too_late_leave_nothing(
    fake: Callable[..., FakeTritonServer],
) -> None:
    server = fake(tiny_a=doubled)
    triton = Triton(server.address)
    await ask(triton)
    for number in range(1000):
        call = asyncio.ensure_future(ask(triton))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        try:
            await ask(triton, 1e-4)
        except TritonFault as fault:
            assert type(fault) is TooLate  # noqa: PT017
    assert await ask(triton) == [2.0, 5.0]
    connection = triton._channel._connection
    assert connection is not None
    async with asyncio.timeout(60):
        while connection.calls.running:  # what nobody waited for is answered all the same
            await ask(triton)
    await triton.close()


async def test_messages_of_a_status_may_be_of_any_text(fake: Callable[..., FakeTritonServer]) -> None:
    def fails(tensors: Tensors) -> Tensors:
        raise ValueError("100 % échoué\n\t✗")

    triton = Triton(fake(tiny_a=fails).address)
    with pytest.raises(ReleaseFault, match="100 % échoué\n\t✗"):
        await ask(triton)
    await triton.close()
