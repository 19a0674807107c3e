"""Streamed answers: whole or visibly broken off, on the road and over a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.call import Call, Stages
from serving.config import SubnetSpec
from serving.errors import Refusal
from serving.identity import Caller
from serving.streaming import Aborted, Outlet
from serving.subnets.base import Tensors, streams
from serving.traffic.records import TrafficRecord
from serving.traffic.writer import read_records
from serving.triton import ReleaseFault, TooLate, TritonFault
from serving.types import Hotkey, UnixSeconds
from serving.wire.keys import public_key
from tests.serving import callers
from tests.serving.fake_triton import FakeTriton, FakeTritonServer, doubled_each
from tests.serving.gateways import Box, Reply, write_routes
from tests.serving.processes import Running, gateway, raw, until
from tests.serving.tiny import Double
from tests.serving.words import Words, words

END = b"0\r\n\r\n"
"""The last chunk of HTTP/1.1."""


def ask(x: list[float], *, synapse: str = "Words", sender: Any = callers.ALICE, timeout: str = "20") -> callers.Request:
    return callers.legacy(synapse, {"x": x}, ("x",), sender=sender, timeout=timeout)


def then(fault: Exception | None, *values: float) -> Any:
    """A model that sends these and then fails."""

    def model(tensors: Tensors) -> Iterator[Tensors]:
        for value in values:
            yield {"Y": np.array([[value]], np.float32)}
        if fault is not None:
            raise fault

    return model


def box(home: Path, **models: Any) -> Box:
    write_routes(home, stable="tiny-a", fallback="tiny-b" if "tiny_b" in models else None)
    return Box(home, FakeTriton(**models), subnet=words())


def records(made: Box) -> list[TrafficRecord]:
    made.close()
    return list(read_records(made.home / "traffic"))


def test_only_a_route_that_says_when_an_answer_is_whole_streams() -> None:
    assert streams(Words())
    assert not streams(Double())


async def test_chunks_go_out_behind_one_head_and_are_recorded(tmp_path: Path) -> None:
    made = box(tmp_path, tiny_a=doubled_each)
    reply = await made.ask(ask([1.0, 2.5, 4.0]))
    assert reply == Reply(200, reply.headers, b"2.0\n5.0\n8.0\n")
    assert reply.headers.pop("bt_header_axon_process_time")
    assert reply.headers == {
        "content-type": "text/event-stream",
        "bt_header_axon_status_code": "200",
        "bt_header_axon_status_message": "Success",
    }
    assert made.gateway.admission.in_flight == 0
    assert not made.answerer.in_flight
    (record,) = records(made)
    assert (record.status, record.code, record.release, record.answer_bytes) == (200, "ok", "tiny-a", 12)
    assert record.answer_crc == zlib.crc32(reply.body)
    digests = [hashlib.sha256(np.float32(value).tobytes()).hexdigest() for value in (2.0, 5.0, 8.0)]
    assert record.answer_digest == hashlib.sha256("".join(digests).encode()).hexdigest()


async def test_a_btauth_caller_gets_no_bt_header(tmp_path: Path) -> None:
    made = box(tmp_path, tiny_a=doubled_each)
    reply = await made.ask(callers.btauth("/Words", {"x": [1.0]}))
    assert (reply.status, reply.headers, reply.body) == (200, {"content-type": "text/event-stream"}, b"2.0\n")
    made.close()


@pytest.mark.parametrize(
    "first",
    [then(None, np.nan), then(None), then(ReleaseFault("release_failed")), ReleaseFault("release_failed")],
    ids=["invalid", "empty", "fails at once", "fails to begin"],
)
async def test_before_the_first_chunk_the_fallback_answers(tmp_path: Path, first: Any) -> None:
    made = box(tmp_path, tiny_a=first, tiny_b=doubled_each)
    reply = await made.ask(ask([1.0, 2.0]))
    assert (reply.status, reply.body) == (200, b"2.0\n4.0\n")
    failed, answered = records(made)
    assert (failed.release, failed.code in {"invalid", "error"}) == ("tiny-a", True)
    assert (answered.release, answered.role, answered.code) == ("tiny-b", "fallback", "ok")


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [(then(None, np.nan), 500, "no_valid_answer"), (TooLate("too_late"), 503, "too_late")],
)
async def test_before_the_first_chunk_a_fault_is_an_ordinary_error(
    tmp_path: Path, model: Any, status: int, code: str
) -> None:
    made = box(tmp_path, tiny_a=model)
    reply = await made.ask(ask([1.0]))
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["bt_header_axon_status_code"] == str(status)
    assert records(made)[-1].code == code


def test_http_1_0_cannot_tell_a_part_from_the_whole() -> None:
    async def send(message: Any) -> None:
        """Nobody is there."""

    with pytest.raises(Refusal) as refused:
        Outlet(send, "1.0")
    assert (refused.value.status, refused.value.code) == (400, "needs_http_1_1")


@pytest.mark.parametrize(
    ("model", "reason", "outcome"),
    [
        (then(ReleaseFault("release_failed", "it broke"), 2.0), "release_failed: it broke", "error"),
        (then(TooLate("too_late"), 2.0), "too_late", "late"),
        (then(TritonFault("triton_down"), 2.0), "triton_down", "away"),
        (then(None, 2.0, np.inf), "invalid: not finite", "invalid"),
        (then(None, 2.0), "invalid: 1 of 2 numbers", "invalid"),
    ],
)
async def test_after_the_first_chunk_a_fault_breaks_off(tmp_path: Path, model: Any, reason: str, outcome: str) -> None:
    made = box(tmp_path, tiny_a=model, tiny_b=doubled_each)
    with pytest.raises(Aborted, match=reason):
        await made.ask(ask([1.0, 2.0]))
    assert made.gateway.admission.in_flight == 0
    assert made.count("headframe_release_requests_total", release="tiny-a", outcome=outcome) == 1
    assert made.count("headframe_requests_total", outcome="aborted") == 1
    (record,) = records(made)
    assert (record.status, record.code, record.reason, record.release) == (200, "aborted", reason, "tiny-a")


async def test_a_caller_that_takes_nothing_is_given_up() -> None:
    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    out = Outlet(send, "1.1", write_deadline_s=0.01)
    with pytest.raises(Aborted, match="slow_reader"):
        await out.put(call_for(60.0), b"x")
    with pytest.raises(Aborted, match="too_late"):
        await Outlet(send, "1.1").put(call_for(0.01), b"x")


def call_for(left_s: float) -> Call:
    """A call whose deadline is so many seconds away."""
    alice = Caller(Hotkey(callers.ALICE.ss58_address), public_key(callers.ALICE.ss58_address), 1.0, 1)
    return Call(
        request_id="1", dialect="legacy", synapse="Words", caller=alice, at=0.0, subnet_at=UnixSeconds(0.0),
        deadline=time.monotonic() + left_s, timeout_s=left_s, stages=Stages(),
    )  # fmt: skip


# Over a real socket, through uvicorn, from a Triton over real gRPC.


@pytest.fixture
def triton() -> Iterator[FakeTritonServer]:
    made = FakeTritonServer(
        tiny_a=doubled_each, tiny_half=then(ValueError("it broke"), 2.0), tiny_wrong=then(None, 2.0, np.nan)
    )
    yield made
    made.hold.set()
    made.stop()


@contextmanager
def serving(
    home: Path, triton: FakeTritonServer, *, stable: str = "tiny-a", drain_s: float = 15.0
) -> Iterator[Running]:
    subnets = [SubnetSpec("tests.serving.words:words")]
    with gateway(home, triton.address, subnets=subnets, workers=1, drain_s=drain_s) as running:
        if stable != "tiny-a":
            write_routes(home, stable=stable)
            until(lambda: stable in running.get("/readyz").text)
        yield running


def dial(running: Running, request: callers.Request) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", running.config.port), timeout=60)
    connection.sendall(raw(request))
    return connection


def heard(connection: socket.socket, until_seen: bytes = END) -> bytes:
    """Everything up to `until_seen`, or until the server closes or resets."""
    found = b""
    with suppress(ConnectionResetError):
        while until_seen not in found and (data := connection.recv(65536)):
            found += data
    return found


def last_record(home: Path) -> TrafficRecord:
    found: list[TrafficRecord] = until(lambda: list(read_records(home / "traffic")))
    return found[-1]


@pytest.mark.slow
def test_a_whole_answer_ends_with_the_last_chunk_and_the_connection_lives_on(
    tmp_path: Path, triton: FakeTritonServer
) -> None:
    with serving(tmp_path, triton) as running, dial(running, ask([1.0, 2.0])) as connection:
        head, _, body = heard(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == b"4\r\n2.0\n\r\n4\r\n4.0\n\r\n" + END
        connection.sendall(raw(ask([3.0])))
        assert heard(connection).endswith(b"6.0\n\r\n" + END)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stable", "reason"), [("tiny-half", "release_failed: it broke"), ("tiny-wrong", "invalid: not finite")]
)
def test_a_stream_that_fails_never_sends_the_last_chunk(
    tmp_path: Path, triton: FakeTritonServer, stable: str, reason: str
) -> None:
    with serving(tmp_path, triton, stable=stable) as running, dial(running, ask([1.0, 2.0])) as connection:
        reply = heard(connection)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
        assert END not in reply
        record = last_record(tmp_path)
        assert (record.code, record.reason, record.release) == ("aborted", reason, stable)


@pytest.mark.slow
def test_a_deadline_in_mid_stream_breaks_off(tmp_path: Path, triton: FakeTritonServer) -> None:
    triton.hold.clear()
    with serving(tmp_path, triton) as running, dial(running, ask([1.0, 2.0], timeout="5")) as connection:
        reply = heard(connection)
        assert b"2.0\n" in reply
        assert END not in reply
        record = last_record(tmp_path)
        assert (record.code, (record.reason or "").partition(":")[0]) == ("aborted", "too_late")


@pytest.mark.slow
def test_a_drain_that_cannot_wait_breaks_off(tmp_path: Path, triton: FakeTritonServer) -> None:
    triton.hold.clear()
    with serving(tmp_path, triton, drain_s=1.0) as running, dial(running, ask([1.0, 2.0])) as connection:
        assert b"2.0\n" in heard(connection, b"2.0\n")
        running.process.send_signal(signal.SIGTERM)
        assert END not in heard(connection)
        assert running.process.wait(60) == 0
    assert (last_record(tmp_path).code, last_record(tmp_path).reason) == ("aborted", "draining")


@pytest.mark.slow
def test_a_drain_lets_a_stream_come_to_its_end(tmp_path: Path, triton: FakeTritonServer) -> None:
    triton.hold.clear()
    with serving(tmp_path, triton) as running, dial(running, ask([1.0, 2.0])) as connection:
        assert b"2.0\n" in heard(connection, b"2.0\n")
        running.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(running.config.port))
        triton.hold.set()
        assert heard(connection).endswith(b"4.0\n\r\n" + END)
    assert last_record(tmp_path).code == "ok"


@pytest.mark.slow
def test_a_caller_that_leaves_ends_the_stream(tmp_path: Path, triton: FakeTritonServer) -> None:
    triton.hold.clear()
    with serving(tmp_path, triton) as running:
        with dial(running, ask([1.0, 2.0])) as connection:
            assert b"2.0\n" in heard(connection, b"2.0\n")
        assert (last_record(tmp_path).code, last_record(tmp_path).reason) == ("aborted", "hung_up")


@pytest.mark.slow
def test_a_caller_that_stops_reading_is_cut_off(tmp_path: Path, triton: FakeTritonServer) -> None:
    with (
        serving(tmp_path, triton) as running,
        dial(running, ask([1.0] * 200, synapse="Long", timeout="8")) as connection,
    ):
        record = last_record(tmp_path)  # nothing is read until the gateway has given up
        assert (record.code, record.reason) == ("aborted", "too_late")
        assert END not in heard(connection)


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
