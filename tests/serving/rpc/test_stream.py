"""What a gRPC call makes of a response: messages, and every way in which it can end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from serving.rpc.frames import Broken, Code
from serving.rpc.stream import MAX_MESSAGE, PREFIX, WINDOW, RpcFault, Stream
from tests.serving.rpc.peers import framed
from tests.serving.rpc.test_cutting import split

HEAD = {b":status": b"200", b"content-type": b"application/grpc"}
WELL = {b"grpc-status": b"0"}


def stream(*, within_s: float = 60.0) -> Stream:
    deadline = asyncio.get_running_loop().time() + within_s
    return Stream(b"", b"abc", deadline, finishes=True)


async def messages(call: Stream) -> list[bytes]:
    found = []
    while (message := await call.message()) is not None:
        found.append(bytes(message))
    return found


async def fault(call: Stream) -> RpcFault:
    with pytest.raises(RpcFault) as raised:
        await messages(call)
    return raised.value


async def test_a_request_is_one_message() -> None:
    assert bytes(stream().unsent) == framed(b"abc")


@given(st.lists(st.binary(max_size=100), max_size=5), st.lists(st.integers(0, 1000)))
async def test_messages_come_whole_and_in_order_however_they_are_split(sent: list[bytes], cuts: list[int]) -> None:
    call = stream()
    call.on_fields(HEAD, last=False)
    for piece in split(b"".join(map(framed, sent)), cuts):
        call.on_data(memoryview(piece), last=False)
    call.on_fields(WELL, last=True)
    assert await messages(call) == sent
    assert call.credit == sum(PREFIX + len(message) for message in sent)


async def test_whoever_waits_is_woken_by_a_message_and_by_the_end() -> None:
    call = stream()
    waiting = asyncio.ensure_future(messages(call))
    await asyncio.sleep(0)
    call.on_fields({b":status": b"103"}, last=False)  # a hint that announces the head
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(framed(b"one")), last=False)
    await asyncio.sleep(0)
    assert not waiting.done()
    call.on_fields(WELL, last=True)
    assert await waiting == [b"one"]


@pytest.mark.parametrize(
    ("trailers", "code", "detail"),
    [
        ({b"grpc-status": b"5", b"grpc-message": b"no%20%C3%A9cho%"}, StatusCode.NOT_FOUND, "no écho%"),
        ({b"grpc-status": b"14", b"grpc-message": b"%ff"}, StatusCode.UNAVAILABLE, "\ufffd"),
        ({b"grpc-status": b"4"}, StatusCode.DEADLINE_EXCEEDED, ""),
        ({b"grpc-status": b"17"}, StatusCode.UNKNOWN, ""),
        ({b"grpc-status": b"-1"}, StatusCode.UNKNOWN, ""),
        ({b"grpc-status": b"\xb2"}, StatusCode.UNKNOWN, ""),
        ({b"grpc-status": b""}, StatusCode.UNKNOWN, ""),
        ({b"grpc-status": b"0" * 5000}, StatusCode.UNKNOWN, ""),
        ({}, StatusCode.UNKNOWN, "the response ends without grpc-status"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
async def test_trailers_say_how_it_ended(
    trailers: Mapping[bytes, bytes], code: StatusCode, detail: str, alone: bool
) -> None:
    call = stream()
    if not alone:
        call.on_fields(HEAD, last=False)
    call.on_fields({**HEAD, **trailers} if alone else trailers, last=True)
    assert ((found := await fault(call)).code, found.detail) == (code, detail)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({b":status": b"400"}, StatusCode.INTERNAL),
        ({b":status": b"401"}, StatusCode.UNAUTHENTICATED),
        ({b":status": b"403"}, StatusCode.PERMISSION_DENIED),
        ({b":status": b"404"}, StatusCode.UNIMPLEMENTED),
        ({b":status": b"429"}, StatusCode.UNAVAILABLE),
        ({b":status": b"503"}, StatusCode.UNAVAILABLE),
        ({b":status": b"302"}, StatusCode.UNKNOWN),
        ({b":status": b"\xff\xff"}, StatusCode.UNKNOWN),
        ({b":status": b"2000"}, StatusCode.UNKNOWN),
        ({}, StatusCode.UNKNOWN),
        ({b":status": b"200", b"content-type": b"text/html"}, StatusCode.UNKNOWN),
        ({b":status": b"200"}, StatusCode.UNKNOWN),
    ],
)
async def test_a_response_that_is_not_grpc_is_told_by_its_http_status(
    fields: Mapping[bytes, bytes], code: StatusCode, last: bool
) -> None:
    call = stream()
    call.on_fields(fields, last=last)
    assert (await fault(call)).code is code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (framed(b"abc", flag=1), StatusCode.INTERNAL),
        (framed(b"abc", flag=255), StatusCode.INTERNAL),
        (framed(b"abc")[:-1], StatusCode.INTERNAL),
        (framed(b"abc") + b"\0", StatusCode.INTERNAL),
        (b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"), StatusCode.RESOURCE_EXHAUSTED),
        (b"\0\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
    ],
)
async def test_bodies_that_are_no_messages_are_faults(body: bytes, code: StatusCode) -> None:
    call = stream()
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(body), last=False)
    call.on_fields(WELL, last=True)
    assert (await fault(call)).code is code


async def test_a_body_without_trailers_is_a_fault() -> None:
    call = stream()
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(framed(b"abc")), last=True)
    assert bytes(await call.message() or b"") == b"abc"
    assert (await fault(call)).code is StatusCode.INTERNAL


async def test_an_error_after_messages_comes_after_them() -> None:
    call = stream()
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(framed(b"abc")), last=False)
    call.on_fields({b"grpc-status": b"13"}, last=True)
    assert bytes(await call.message() or b"") == b"abc"
    assert (await fault(call)).code is StatusCode.INTERNAL


async def test_frames_in_the_wrong_order_break_the_protocol() -> None:
    with pytest.raises(Broken):
        stream().on_data(memoryview(b"abc"), last=False)
    call = stream()
    call.on_fields(HEAD, last=False)
    with pytest.raises(Broken):
        call.on_fields(WELL, last=False)


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (Code.NO_ERROR, StatusCode.INTERNAL),
        (Code.PROTOCOL_ERROR, StatusCode.INTERNAL),
        (Code.REFUSED_STREAM, StatusCode.UNAVAILABLE),
        (Code.CANCEL, StatusCode.CANCELLED),
        (Code.ENHANCE_YOUR_CALM, StatusCode.RESOURCE_EXHAUSTED),
        (Code.INADEQUATE_SECURITY, StatusCode.PERMISSION_DENIED),
        (4711, StatusCode.INTERNAL),
    ],
)
async def test_what_a_reset_means(reset: int, code: StatusCode) -> None:
    call = stream()
    call.on_reset(reset)
    assert (await fault(call)).code is code


async def test_a_server_that_cancels_at_the_deadline_is_too_late() -> None:
    call = stream(within_s=-0.001)
    call.on_reset(Code.CANCEL)
    assert (await fault(call)).code is StatusCode.DEADLINE_EXCEEDED


async def test_the_first_end_counts() -> None:
    call = stream()
    call.end(StatusCode.DEADLINE_EXCEEDED, "late")
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(framed(b"abc")), last=False)
    call.on_fields(WELL, last=True)
    assert (await fault(call)).detail == "late"


async def test_nothing_is_kept_for_nobody() -> None:
    call = stream()
    call.on_fields(HEAD, last=False)
    call.on_data(memoryview(framed(b"abc") + framed(bytes(1000))[:500]), last=False)
    call.abandon()
    call.on_data(memoryview(bytes(1000)), last=False)
    assert (await fault(call)).code is StatusCode.CANCELLED


def test_the_window_takes_any_message_behind_what_was_not_credited() -> None:
    assert WINDOW - (MAX_MESSAGE - 1) >= PREFIX + MAX_MESSAGE
