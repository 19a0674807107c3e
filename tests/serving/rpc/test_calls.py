"""What of a call goes out when, and what becomes of it, at a server that hyper-h2 keeps to the rules."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.rpc.frames import Code
from tests.serving.rpc.peers import HEAD, Peer, code_of, framed, raw_response, resets
from tests.serving.rpc.test_stream import messages


@settings(max_examples=30)
@given(
    st.integers(0, 300_000), st.integers(0, 70_000), st.integers(2**14, 2**16),
    st.lists(st.integers(1, 2**16), max_size=5),
)  # fmt: skip
async def test_a_body_goes_out_as_the_servers_windows_let_it(
    size: int, window: int, frame: int, more: list[int]
) -> None:
    peer = Peer(said={SettingCodes.INITIAL_WINDOW_SIZE: window, SettingCodes.MAX_FRAME_SIZE: frame})
    peer.meet()
    body = bytes(range(256)) * (size // 256 + 1)
    call = peer.call(body)
    sent = framed(body)
    peer.up(credit=False)  # hyper-h2 raises when a window or a frame's limit is passed
    assert len(peer.bodies.get(1, b"")) == min(len(sent), window, 65_535)
    for step in more:
        peer.server.increment_flow_control_window(step, 1)
        peer.server.increment_flow_control_window(step)
        peer.down()
        peer.up(credit=False)
    while call.unsent:
        peer.server.increment_flow_control_window(2**16, 1)
        peer.server.increment_flow_control_window(2**16)
        peer.down()
        peer.up(credit=False)
    assert peer.bodies[1] == sent


async def test_windows_that_change_while_a_body_waits_are_kept() -> None:
    peer = Peer(said={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    peer.meet()
    peer.call(bytes(100))
    peer.up(credit=False)
    assert len(peer.bodies[1]) == 10
    peer.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 4})  # the stream's window is below zero now
    peer.down()
    peer.up(credit=False)
    peer.server.increment_flow_control_window(5, 1)
    peer.down()
    peer.up(credit=False)
    assert len(peer.bodies[1]) == 10
    peer.server.increment_flow_control_window(2, 1)
    peer.down()
    peer.up(credit=False)
    assert len(peer.bodies[1]) == 11
    peer.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 60_000})
    peer.meet()
    assert peer.bodies[1] == framed(bytes(100))


async def test_no_more_calls_run_than_the_server_wants() -> None:
    peer = Peer(said={SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    peer.meet()
    calls = [peer.call(bytes([number])) for number in range(5)]
    peer.meet()
    assert sorted(peer.bodies) == [1, 3]
    peer.client.calls.drop(calls[3])  # leaves the queue, and is never sent
    peer.answer(1, b"a")
    peer.meet()
    assert sorted(peer.bodies) == [1, 3, 5]
    assert peer.bodies[5] == framed(b"\2")
    peer.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 10})
    peer.meet()
    assert peer.bodies[7] == framed(b"\4")
    assert await messages(calls[0]) == [b"a"]
    assert calls[3].id == 0


async def test_a_call_that_waits_for_a_place_is_too_late_by_its_own_deadline() -> None:
    peer = Peer(said={SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    peer.meet()
    call = peer.call(within_s=0.01)
    assert await code_of(call) is StatusCode.DEADLINE_EXCEEDED
    assert not peer.client.calls.waiting
    peer.server.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    peer.meet()
    assert peer.bodies == {}


async def test_a_call_that_nobody_waits_for_is_finished_by_the_server_and_kept_no_longer() -> None:
    peer = Peer()
    calls = [peer.call(within_s=0.01), peer.call()]
    peer.up()
    assert await code_of(calls[0]) is StatusCode.DEADLINE_EXCEEDED
    for call in calls:
        peer.client.calls.drop(call)
        peer.client.calls.drop(call)
    peer.answer(1, b"late")
    peer.answer(3, b"unwanted")
    assert len(peer.client.calls.running) == 2
    peer.down()
    assert peer.client.calls.running == {}
    assert resets(peer.up()) == []
    assert [await code_of(call) for call in calls] == [StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED]


@pytest.mark.parametrize("late", [True, False])
async def test_a_stream_that_nobody_reads_is_cancelled_at_the_server(late: bool) -> None:
    peer = Peer().meet()
    call = peer.call(finishes=False, within_s=0.01 if late else 60.0)
    peer.up()
    if late:
        assert await code_of(call) is StatusCode.DEADLINE_EXCEEDED
    peer.client.calls.drop(call)
    assert resets(peer.up()) == [(1, Code.CANCEL)]
    assert peer.client.calls.running == {}
    late_frames = raw_response(1, b"abc")
    peer.client.data_received(late_frames)  # were under way
    assert not peer.pipe.closed


async def test_a_call_not_sent_in_full_is_cancelled_at_the_server() -> None:
    peer = Peer(said={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    peer.meet()
    call = peer.call(bytes(100))
    peer.up(credit=False)
    peer.client.calls.drop(call)
    assert resets(peer.up()) == [(1, Code.CANCEL)]
    assert peer.client.calls.stuck == peer.client.calls.running == {}


async def test_a_server_that_answers_before_it_has_the_whole_request_gets_no_more_of_it() -> None:
    peer = Peer(said={SettingCodes.INITIAL_WINDOW_SIZE: 10})
    peer.meet()
    call = peer.call(bytes(100))
    peer.up(credit=False)
    peer.server.send_headers(1, [*HEAD, ("grpc-status", "8")], end_stream=True)
    peer.down()
    assert await code_of(call) is StatusCode.RESOURCE_EXHAUSTED
    assert resets(peer.up()) == [(1, Code.NO_ERROR)]


async def test_a_farewell_ends_the_calls_that_the_server_never_saw() -> None:
    peer = Peer()
    calls = [peer.call() for _ in range(3)]
    peer.up()
    peer.server.close_connection(last_stream_id=3)
    peer.client.data_received(peer.server.data_to_send())
    assert peer.client.calls.leaving
    assert await code_of(calls[2]) is StatusCode.UNAVAILABLE
    assert calls[0].status is calls[1].status is None
    peer.client.data_received(raw_response(1, b"a"))
    assert not peer.pipe.closed
    peer.client.data_received(raw_response(3, b"b"))
    assert [await messages(call) for call in calls[:2]] == [[b"a"], [b"b"]]
    assert peer.pipe.closed


async def test_numbers_of_streams_run_out() -> None:
    peer = Peer()
    peer.client.calls.next_id = 2**31 - 3
    calls = [peer.call(), peer.call()]
    assert [call.id for call in calls] == [2**31 - 3, 2**31 - 1]
    assert peer.client.calls.leaving
    peer.meet()
    for call in calls:
        peer.answer(call.id, b"a")
        peer.down()
        assert await messages(call) == [b"a"]
    assert peer.pipe.closed


async def test_giving_a_call_up_may_be_what_ends_the_connection() -> None:
    peer = Peer().meet()
    given_up, other = peer.call(finishes=False), peer.call()
    peer.pipe.write = lambda data: peer.client.pause_writing()  # type: ignore[method-assign]  # too much waits there
    peer.client.calls.drop(given_up)
    assert await code_of(other) is StatusCode.UNAVAILABLE
