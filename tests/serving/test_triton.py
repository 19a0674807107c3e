"""The Triton client against a gRPC server of our own, failures included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from serving.rpc import channel as channels
from serving.subnets.base import Tensors
from serving.triton import (
    ReleaseFault,
    ReleaseMissing,
    ServerDown,
    TooLate,
    Triton,
    TritonFault,
    decode_response,
    encode_request,
    fault_of,
    pack,
    unpack,
)
from serving.types import ReleaseId
from tests.ports import free_port
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.rpc.peers import listening

A = ReleaseId("tiny-a")
X: Tensors = {"X": np.array([[1.0, 2.5]], np.float32), "ASSET": np.array([[b"BTC"]], dtype=object)}


def lying(tensors: Tensors) -> Tensors:
    return {"Y": tensors["X"], "RELEASE": np.array([[b"tiny-b"]], dtype=object)}


def strings(tensors: Tensors) -> Tensors:
    return {"Y": tensors["ASSET"]}


@pytest.fixture
def server() -> Iterator[FakeTritonServer]:
    made = FakeTritonServer(tiny_a=doubled, tiny_lying=lying, tiny_strings=strings)
    yield made
    made.hold.set()
    made.stop()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there may take a connection as late as this machine lets it."""
    monkeypatch.setattr(channels, "CONNECT_S", 60.0)


@pytest.fixture
async def triton(server: FakeTritonServer) -> AsyncIterator[Triton]:
    client = Triton(server.address)
    yield client
    await client.close()


async def test_tensors_go_there_and_back_with_priority_and_timeout(server: FakeTritonServer, triton: Triton) -> None:
    outputs = await triton.infer(A, X, priority=2, timeout_s=60.0)
    assert list(outputs) == ["Y"]
    np.testing.assert_array_equal(outputs["Y"], np.array([[2.0, 5.0]], np.float32))
    (request,) = server.asked
    assert request.parameters["priority"].uint64_param == 2
    assert request.parameters["timeout"].int64_param == 60_000_000
    assert [(put.name, put.datatype, list(put.shape)) for put in request.inputs] == [
        ("X", "FP32", [1, 2]),
        ("ASSET", "BYTES", [1, 1]),
    ]
    text = await triton.infer(ReleaseId("tiny-strings"), X, priority=1, timeout_s=60.0)
    assert text["Y"].tolist() == [[b"BTC"]]


async def test_an_answer_by_another_release_is_a_fault(triton: Triton) -> None:
    with pytest.raises(ReleaseFault) as fault:
        await triton.infer(ReleaseId("tiny-lying"), X, priority=1, timeout_s=60.0)
    assert fault.value.code == "wrong_release"


async def test_a_release_that_is_not_loaded_is_missing(triton: Triton) -> None:
    with pytest.raises(ReleaseMissing):
        await triton.infer(ReleaseId("tiny-z"), X, priority=1, timeout_s=60.0)


async def test_a_hanging_server_is_too_late(server: FakeTritonServer, triton: Triton) -> None:
    await triton.infer(A, X, priority=1, timeout_s=60.0)  # from here on there is a connection
    server.hold.clear()
    with pytest.raises(TooLate):
        await triton.infer(A, X, priority=1, timeout_s=0.1)
    with pytest.raises(TooLate):
        await triton.infer(A, X, priority=1, timeout_s=0.0)


async def test_a_server_that_went_away_and_came_back_is_found_again(server: FakeTritonServer, triton: Triton) -> None:
    await triton.infer(A, X, priority=1, timeout_s=60.0)
    server.stop()
    with pytest.raises(ServerDown):
        await triton.infer(A, X, priority=1, timeout_s=60.0)
    server.start()
    async with asyncio.timeout(60):
        while True:
            try:
                await triton.infer(A, X, priority=1, timeout_s=60.0)
            except ServerDown:
                continue
            return


async def test_a_server_lives_when_it_says_so_and_while_it_only_starts_it_is_away(
    server: FakeTritonServer, triton: Triton
) -> None:
    assert await triton.life(60.0) == "lives"
    server.live = False
    assert await triton.life(60.0) == "away"


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", ServerDown),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'a' version 1 is not at ready state", ReleaseMissing),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'a' is not found", ReleaseMissing),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", TooLate),
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", TooLate),
        (grpc.StatusCode.INTERNAL, "Failed to process the request(s), message: NaN", ReleaseFault),
        (grpc.StatusCode.INTERNAL, "Stub process 'a' is not healthy.", ReleaseMissing),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", ReleaseFault),
    ],
)
def test_what_a_status_means(status: grpc.StatusCode, detail: str, kind: type[TritonFault]) -> None:
    assert type(fault_of(status, detail)) is kind


def test_every_dtype_survives_the_wire() -> None:
    for dtype in ("f4", "f8", "f2", "i1", "i4", "i8", "u1", "u8", "?"):
        tensor = np.array([[0, 1], [1, 0]], dtype)
        name, raw = pack(tensor)
        np.testing.assert_array_equal(unpack(name, (2, 2), raw), tensor)
    request = encode_request(A, X, priority=1, timeout_s=1e-9)
    assert request.parameters["timeout"].int64_param == 1


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [("FP32", [1, 16], b""), ("FP32", [1], b"\0\0"), ("BYTES", [1], b"\x09\0\0\0ab"), ("BYTES", [2], b"\x01\0\0\0a"),
     ("BYTES", [1], b"\x01"), ("FP7", [1], b"\0")],
)  # fmt: skip
def test_outputs_that_are_not_what_their_shape_says_are_a_fault(datatype: str, shape: list[int], raw: bytes) -> None:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="Y", datatype=datatype, shape=shape)
    with pytest.raises(ReleaseFault):
        decode_response(response)
    response.raw_output_contents.append(raw)
    with pytest.raises(ReleaseFault):
        decode_response(response)


async def test_a_server_that_takes_a_connection_and_says_nothing_is_silent_and_one_that_is_away_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "CONNECT_S", 0.02)

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async with listening(says_nothing) as port:
        stopped = Triton(f"127.0.0.1:{port}")
        assert await stopped.life(0.2) == "silent"
        with pytest.raises(ServerDown):  # worth another try all the same
            await stopped.infer(A, X, priority=2, timeout_s=60.0)
        await stopped.close()
    away = Triton(f"127.0.0.1:{free_port()}")
    assert await away.life(60.0) == "away"
    await away.close()
