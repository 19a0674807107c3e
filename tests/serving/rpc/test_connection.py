"""One connection against a server that hyper-h2 keeps to the rules, and against servers that keep none."""

from __future__ import annotations

import struct
from collections.abc import Callable

import h2.events
import pytest
from grpc import StatusCode
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.rpc import frames
from serving.rpc.frames import Code, Setting
from serving.rpc.stream import MAX_MESSAGE, WINDOW, RpcFault
from tests.serving.rpc.peers import HEAD, WELL, Peer, code_of, framed, raw_response, resets
from tests.serving.rpc.test_cutting import split
from tests.serving.rpc.test_stream import messages

CUTS = st.lists(st.integers(0, 5000), max_size=20)
DATA, HEADERS, RST_STREAM, SETTINGS = frames.DATA, frames.HEADERS, frames.RST_STREAM, frames.SETTINGS
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = frames.PING, frames.GOAWAY, frames.WINDOW_UPDATE, frames.CONTINUATION
END_STREAM, END_HEADERS = frames.END_STREAM, frames.END_HEADERS
BLOCK = frames.block(HEAD)


async def test_the_server_is_told_our_settings_and_the_call_is_as_asked() -> None:
    peer = Peer()
    peer.call(b"hello")
    peer.meet()
    said = peer.server.remote_settings
    assert (said.header_table_size, said.enable_push, said.initial_window_size) == (0, 0, WINDOW)
    assert said.max_frame_size == frames.LARGEST_FRAME
    (asked,) = [event for event in peer.events if isinstance(event, h2.events.RequestReceived)]
    assert {str(name): str(value) for name, value in asked.headers} == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a/b",
        ":authority": "a",
    }
    assert asked.stream_id == 1
    assert peer.bodies == {1: framed(b"hello")}
    assert any(isinstance(event, h2.events.StreamEnded) for event in peer.events)
    assert peer.client.ready.done()


@given(st.lists(st.lists(st.binary(max_size=200), max_size=3), min_size=1, max_size=6), CUTS, st.randoms())
async def test_many_calls_at_once_get_their_own_answers_however_the_bytes_are_split(
    answers: list[list[bytes]], cuts: list[int], random: object
) -> None:
    peer = Peer()
    calls = [peer.call(bytes([number])) for number in range(len(answers))]
    peer.up()
    order = list(range(len(answers)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for number in order:
        peer.answer(2 * number + 1, *answers[number])
    peer.down(cuts)
    assert [await messages(call) for call in calls] == answers
    assert peer.client.calls.running == {}
    peer.meet()


async def test_a_stream_of_more_than_its_window_goes_on_as_it_is_read() -> None:
    peer = Peer()
    call = peer.call(finishes=False)
    peer.up()
    peer.server.send_headers(1, HEAD)
    message = bytes(8 * 1024 * 1024)
    data = memoryview(framed(message))
    for _ in range(3 * WINDOW // len(message)):
        at = 0
        while at < len(data):  # hyper-h2 raises when our window is passed
            size = min(peer.server.local_flow_control_window(1), peer.server.max_outbound_frame_size, len(data) - at)
            assert size > 0
            peer.server.send_data(1, data[at : at + size])
            at += size
        peer.down()
        assert len(await call.message() or b"") == len(message)
        peer.client.read(call)
        peer.up()
    peer.server.send_headers(1, WELL, end_stream=True)
    peer.down()
    assert await messages(call) == []


async def test_a_response_that_is_no_good_is_given_up() -> None:
    peer = Peer()
    call = peer.call()
    peer.up()
    peer.server.send_headers(1, HEAD)
    peer.server.send_data(1, framed(b"abc", flag=1))
    peer.down()
    assert resets(peer.up()) == [(1, Code.CANCEL)]
    assert await code_of(call) is StatusCode.INTERNAL
    assert peer.client.calls.running == {}


async def test_a_reset_ends_its_call_alone() -> None:
    peer = Peer()
    calls = [peer.call(), peer.call()]
    peer.up()
    peer.server.reset_stream(1, Code.REFUSED_STREAM)
    peer.answer(3, b"b")
    peer.down()
    assert await code_of(calls[0]) is StatusCode.UNAVAILABLE
    assert await messages(calls[1]) == [b"b"]
    assert resets(peer.up()) == []


async def test_a_ping_is_answered_and_a_ping_of_nobody_is_not() -> None:
    peer = Peer().meet()
    peer.server.ping(b"12345678")
    peer.down()
    (event,) = peer.up()
    assert isinstance(event, h2.events.PingAckReceived)
    assert event.ping_data == b"12345678"
    peer.client.data_received(frames.frame(PING, frames.ACK, 0, bytes(8)))
    assert not peer.pipe.written


async def test_a_block_in_many_pieces_and_padding_are_read() -> None:
    peer = Peer().meet()
    call = peer.call()
    trailers = frames.block(WELL)
    data = b"".join([
        frames.frame(HEADERS, frames.PADDED | frames.WITH_PRIORITY, 1, b"\3" + bytes(5) + BLOCK[:4] + bytes(3)),
        frames.frame(CONTINUATION, 0, 1, BLOCK[4:9]),
        frames.frame(CONTINUATION, END_HEADERS, 1, BLOCK[9:]),
        frames.frame(DATA, frames.PADDED, 1, b"\xff" + framed(b"abc") + bytes(255)),
        frames.frame(HEADERS, END_STREAM, 1, trailers[:1]),
        frames.frame(CONTINUATION, END_HEADERS, 1, trailers[1:]),
    ])  # fmt: skip
    for piece in split(data, range(0, len(data), 7)):
        peer.client.data_received(piece)
    assert await messages(call) == [b"abc"]
    assert call.credit == 256 + len(framed(b"abc"))  # padding needs no reader


async def test_frames_of_unknown_kinds_are_passed_over() -> None:
    peer = Peer().meet()
    call = peer.call()
    peer.client.data_received(
        frames.frame(77, 255, 1, b"what") + frames.frame(2, 0, 1, bytes(5)) + raw_response(1, b"a")
    )
    assert await messages(call) == [b"a"]


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


BROKEN: dict[str, tuple[bytes, Code]] = {
    "a frame longer than announced": (b"\xff\xff\xff" + bytes(6), Code.FRAME_SIZE_ERROR),
    "http/1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.FRAME_SIZE_ERROR),
    "data of stream 0": (frames.frame(DATA, 0, 0, b"a"), Code.PROTOCOL_ERROR),
    "data of a stream that never began": (frames.frame(DATA, 0, 99, b"a"), Code.PROTOCOL_ERROR),
    "data before the head": (frames.frame(DATA, 0, 1, b"a"), Code.PROTOCOL_ERROR),
    "data with too much padding": (frames.frame(DATA, frames.PADDED, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "a head of a stream of theirs": (frames.frame(HEADERS, END_HEADERS, 2, BLOCK), Code.PROTOCOL_ERROR),
    "a head of stream 0": (frames.frame(HEADERS, END_HEADERS, 0, BLOCK), Code.PROTOCOL_ERROR),
    "a priority that breaks off": (frames.frame(HEADERS, 0x24, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "garbage for a head": (frames.frame(HEADERS, END_HEADERS, 1, b"\xff" * 9), Code.COMPRESSION_ERROR),
    "a head from a table": (frames.frame(HEADERS, END_HEADERS, 1, b"\xbe"), Code.COMPRESSION_ERROR),
    "a second head": (2 * frames.frame(HEADERS, END_HEADERS, 1, BLOCK), Code.PROTOCOL_ERROR),
    "a block that breaks off": (
        frames.frame(HEADERS, 0, 1, BLOCK) + frames.frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "another stream's continuation": (
        frames.frame(HEADERS, 0, 1, BLOCK) + frames.frame(CONTINUATION, END_HEADERS, 3, b""), Code.PROTOCOL_ERROR),
    "a continuation of nothing": (frames.frame(CONTINUATION, END_HEADERS, 1, b""), Code.PROTOCOL_ERROR),
    "a push": (frames.frame(frames.PUSH_PROMISE, END_HEADERS, 1, number(2) + BLOCK), Code.PROTOCOL_ERROR),
    "a short reset": (frames.frame(RST_STREAM, 0, 1, b"abc"), Code.FRAME_SIZE_ERROR),
    "a reset of stream 0": (frames.frame(RST_STREAM, 0, 0, number(8)), Code.PROTOCOL_ERROR),
    "a reset of a stream that never began": (frames.frame(RST_STREAM, 0, 5, number(8)), Code.PROTOCOL_ERROR),
    "settings of a stream": (frames.frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    "settings of the wrong size": (frames.frame(SETTINGS, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "an acknowledgement that says something": (frames.frame(SETTINGS, frames.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "a first window beyond its limit": (frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR),
    "a window pushed beyond its limit": (
        frames.frame(WINDOW_UPDATE, 0, 1, number(2**31 - 1)), Code.FLOW_CONTROL_ERROR),
    "a window pushed beyond its limit by settings": (
        frames.frame(WINDOW_UPDATE, 0, 1, number(1000)) + frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31 - 1}),
        Code.FLOW_CONTROL_ERROR),
    "the connection's window beyond its limit": (
        2 * frames.frame(WINDOW_UPDATE, 0, 0, number(2**31 - 1)), Code.FLOW_CONTROL_ERROR),
    "a window that grows by nothing": (frames.frame(WINDOW_UPDATE, 0, 0, number(0)), Code.PROTOCOL_ERROR),
    "a window of the wrong size": (frames.frame(WINDOW_UPDATE, 0, 0, b"abc"), Code.FRAME_SIZE_ERROR),
    "a window of a stream that never began": (frames.frame(WINDOW_UPDATE, 0, 7, number(1)), Code.PROTOCOL_ERROR),
    "a ping of a stream": (frames.frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a ping of the wrong size": (frames.frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "a farewell of a stream": (frames.frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "a short farewell": (frames.frame(GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_whatever_breaks_the_protocol_ends_the_connection_and_its_calls(name: str) -> None:
    data, code = BROKEN[name]
    peer = Peer().meet()
    calls = [peer.call(), peer.call()]
    peer.up()
    peer.client.data_received(data + bytes(100))
    assert peer.pipe.closed
    assert peer.client.calls.leaving
    assert peer.said_last() is code
    assert [await code_of(call) for call in calls] == [StatusCode.UNAVAILABLE] * 2
    peer.client.data_received(b"more")  # is not looked at
    peer.client.connection_lost(None)


@pytest.mark.parametrize(
    "data", [frames.frame(SETTINGS, frames.ACK, 0), frames.frame(PING, 0, 0, bytes(8)), raw_response(1, b"a")]
)
async def test_a_server_that_does_not_begin_with_settings_is_none(data: bytes) -> None:
    peer = Peer()
    peer.client.data_received(data)
    assert peer.pipe.closed
    peer.client.connection_lost(None)
    with pytest.raises(RpcFault):
        await peer.client.ready


def endless_continuations() -> bytes:
    return frames.frame(HEADERS, 0, 1, BLOCK) + 100 * frames.frame(CONTINUATION, 0, 1, bytes(1000))


def empty_continuations() -> bytes:
    return frames.frame(HEADERS, 0, 1, BLOCK) + frames.frame(CONTINUATION, 0, 1)


def one_large_block() -> bytes:
    return frames.frame(HEADERS, END_HEADERS, 1, b"\0\1a\1b" * (frames.LARGEST_BLOCK // 5 + 1))


@pytest.mark.parametrize("flood", [endless_continuations, empty_continuations, one_large_block])
async def test_headers_without_end_are_cut_off(flood: Callable[[], bytes]) -> None:
    peer = Peer().meet()
    call = peer.call()
    peer.up()
    peer.client.data_received(flood())
    assert peer.said_last() is Code.ENHANCE_YOUR_CALM
    assert await code_of(call) is StatusCode.UNAVAILABLE


async def test_a_small_block_of_large_headers_is_cut_off() -> None:
    peer = Peer().meet()
    call = peer.call()
    peer.up()
    static = b"\x90" * frames.LARGEST_BLOCK  # "accept-encoding: gzip, deflate", 63 bytes each by RFC 7541
    peer.client.data_received(frames.frame(HEADERS, END_HEADERS, 1, static))
    assert peer.said_last() is Code.COMPRESSION_ERROR
    assert await code_of(call) is StatusCode.UNAVAILABLE


async def test_more_data_than_the_stream_may_have_ends_the_connection() -> None:
    peer = Peer().meet()
    call = peer.call(finishes=False)
    peer.up()
    call.room = 10
    peer.client.data_received(frames.frame(HEADERS, END_HEADERS, 1, BLOCK) + frames.frame(DATA, 0, 1, bytes(11)))
    assert peer.said_last() is Code.FLOW_CONTROL_ERROR
    assert await code_of(call) is StatusCode.UNAVAILABLE


@pytest.mark.slow
async def test_the_connections_own_window_never_runs_out_for_a_server_that_keeps_to_it() -> None:
    peer = Peer().meet()
    whole = peer.server.outbound_flow_control_window
    assert whole == 2**31 - 1
    calls = [peer.call() for _ in range(24)]
    peer.up()
    piece = framed(bytes(MAX_MESSAGE - 5))
    step = peer.server.max_outbound_frame_size
    for call in calls:
        peer.server.send_headers(call.id, HEAD)
        for at in range(0, len(piece), step):
            peer.server.send_data(call.id, piece[at : at + step])
            if peer.server._data_to_send:
                peer.down()
        peer.client.calls.drop(call)
        peer.up()
    assert peer.server.outbound_flow_control_window > whole // 2 - MAX_MESSAGE
    assert not peer.pipe.closed


@given(st.binary(max_size=400), CUTS)
async def test_garbage_ends_in_a_fault_and_never_hangs(garbage: bytes, cuts: list[int]) -> None:
    peer = Peer()
    calls = [peer.call(), peer.call(finishes=False)]
    peer.client.data_received(frames.settings({}))
    for piece in split(garbage, cuts):
        peer.client.data_received(piece)
    peer.client.connection_lost(None)
    assert all([await code_of(call) is not StatusCode.OK for call in calls])


FRAME = st.builds(
    frames.frame, st.integers(0, 11), st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 4, 5])),
    st.sampled_from([0, 1, 1, 1, 3, 3, 5, 2, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([BLOCK, frames.block(WELL), framed(b"abc"), number(8), number(100), bytes(8)]),
        st.builds(struct.Struct(">HI").pack, st.integers(0, 7), st.sampled_from([0, 1, 16_384, 65_535, 2**31 - 1])),
    ),
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.lists(st.one_of(FRAME, st.sampled_from([raw_response(1, b"a"), raw_response(3, b"b", b"c")])), max_size=12), CUTS
)
async def test_frames_in_any_order_end_every_call_once_and_leave_nothing(sent: list[bytes], cuts: list[int]) -> None:
    peer = Peer(said={SettingCodes.INITIAL_WINDOW_SIZE: 20})
    peer.meet()
    calls = [peer.call(bytes(50)), peer.call(), peer.call(finishes=False)]
    for piece in split(b"".join(sent), cuts):
        peer.client.data_received(piece)
    peer.client.connection_lost(None)
    for call in calls:
        assert call.status is not None
        await code_of(call)
    assert peer.client.calls.running == {}
    assert not peer.client.calls.waiting
    assert not peer.client.calls.stuck


@given(st.lists(FRAME, max_size=8), CUTS)
async def test_a_split_changes_nothing(sent: list[bytes], cuts: list[int]) -> None:
    written = []
    for split_at in (cuts, []):
        peer = Peer().meet()
        calls = [peer.call(), peer.call(finishes=False)]
        for piece in split(b"".join(sent), split_at):
            peer.client.data_received(piece)
        written.append((bytes(peer.pipe.written), peer.pipe.closed, [call.status for call in calls]))
        peer.client.connection_lost(None)
    assert written[0] == written[1]


async def test_a_server_that_reads_nothing_is_given_up() -> None:
    peer = Peer().meet()
    call = peer.call()
    assert peer.pipe.high >= MAX_MESSAGE
    peer.client.pause_writing()
    assert peer.pipe.closed
    assert await code_of(call) is StatusCode.UNAVAILABLE


async def test_an_end_of_the_connection_ends_calls_that_run_and_calls_that_wait() -> None:
    peer = Peer(said={SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    peer.meet()
    calls = [peer.call(), peer.call()]
    peer.client.connection_lost(ConnectionResetError())
    assert [await code_of(call) for call in calls] == [StatusCode.UNAVAILABLE] * 2
    assert peer.client.lost.done()
