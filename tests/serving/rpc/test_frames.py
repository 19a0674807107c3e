"""Frames and header blocks: what we write is what others read, and nothing that they write does more than break."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from serving.rpc import frames
from serving.rpc.frames import Broken, Code, Setting

NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=300)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=70_000))
def test_a_frame_is_read_as_it_was_written(kind: int, flags: int, number: int, payload: bytes) -> None:
    whole = memoryview(frames.frame(kind, flags, number, payload))
    assert frames.length_of(whole[: frames.HEAD]) == len(payload)
    *told, read = frames.parts(whole)
    assert told == [kind, flags, number]
    assert bytes(read) == payload


def test_the_reserved_bit_of_a_stream_is_left_out() -> None:
    whole = bytearray(frames.frame(frames.DATA, 0, 5))
    whole[5] |= 0x80
    assert frames.parts(memoryview(whole))[2] == 5


def test_a_frame_longer_than_announced_is_refused() -> None:
    longest = frames.LARGEST_FRAME.to_bytes(3, "big") + bytes(6)
    assert frames.length_of(memoryview(longest)) == frames.LARGEST_FRAME
    with pytest.raises(Broken) as broken:
        frames.length_of(memoryview((frames.LARGEST_FRAME + 1).to_bytes(3, "big") + bytes(6)))
    assert broken.value.code is Code.FRAME_SIZE_ERROR


@given(st.binary(max_size=300), st.integers(0, 255))
def test_padding_is_taken_off(data: bytes, padding: int) -> None:
    padded = memoryview(bytes([padding]) + data + bytes(padding))
    assert frames.unpadded(frames.PADDED, padded) == data
    assert frames.unpadded(0, padded) is padded


@pytest.mark.parametrize("payload", [b"", b"\1", b"\5abcd", b"\xff" + bytes(254)])
def test_padding_without_end_is_refused(payload: bytes) -> None:
    with pytest.raises(Broken):
        frames.unpadded(frames.PADDED, memoryview(payload))


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_our_header_blocks_are_read_right_and_leave_no_trace(fields: list[tuple[str, str]]) -> None:
    decoder = Decoder()
    made = frames.block(fields)
    for _ in range(2):
        read = [(name.decode(), value.decode()) for name, value in decoder.decode(made, raw=True)]
        assert read == fields
    assert len(decoder.header_table.dynamic_entries) == 0


@given(st.lists(st.tuples(NAMES, VALUES), max_size=10), st.booleans())
def test_blocks_of_an_encoder_without_table_are_read(fields: list[tuple[str, str]], huffman: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0  # says so at the beginning of its first block
    for _ in range(2):
        made = encoder.encode(fields, huffman=huffman)
        assert frames.fields_of(made) == {name.encode(): value.encode() for name, value in fields}


def test_a_block_that_needs_a_table_is_refused() -> None:
    encoder = Encoder()
    encoder.encode([("a", "b")])
    with pytest.raises(Broken) as broken:
        frames.fields_of(encoder.encode([("a", "b")]))  # by its place in a table
    assert broken.value.code is Code.COMPRESSION_ERROR
    with pytest.raises(Broken):
        frames.fields_of(b"\x3f\xe1\x1f")  # a table of 4096 bytes, which we did not allow


@given(st.binary(max_size=200))
def test_garbage_in_a_block_is_refused_or_read_and_nothing_else(block: bytes) -> None:
    with suppress(Broken):
        read = frames.fields_of(block)
        assert all(type(name) is bytes and type(value) is bytes for name, value in read.items())


@given(st.dictionaries(st.integers(7, 65_535), st.integers(0, 2**32 - 1)))
def test_settings_are_read_as_they_were_written(said: dict[int, int]) -> None:
    assert frames.settings_in(frames.parts(memoryview(frames.settings(said)))[3]) == said


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({Setting.INITIAL_WINDOW_SIZE: 2**31}, Code.FLOW_CONTROL_ERROR),
        ({Setting.MAX_FRAME_SIZE: 2**14 - 1}, Code.PROTOCOL_ERROR),
        ({Setting.MAX_FRAME_SIZE: 2**24}, Code.PROTOCOL_ERROR),
        ({Setting.ENABLE_PUSH: 1}, Code.PROTOCOL_ERROR),
    ],
)
def test_settings_that_may_not_be_are_refused(said: dict[int, int], code: Code) -> None:
    with pytest.raises(Broken) as broken:
        frames.settings_in(frames.parts(memoryview(frames.settings(said)))[3])
    assert broken.value.code is code
    with pytest.raises(Broken):
        frames.settings_in(memoryview(bytes(7)))


def test_a_number_has_its_size_and_no_reserved_bit() -> None:
    assert frames.number(memoryview(b"\xff\xff\xff\xff")) == 2**31 - 1
    for wrong in (b"", bytes(3), bytes(5)):
        with pytest.raises(Broken):
            frames.number(memoryview(wrong))
