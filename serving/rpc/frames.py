"""The frames of HTTP/2 (RFC 9113) that a client meets, and the header blocks in them.

Neither side of ours keeps a table of headers: we send literals alone and announce a table of size 0, so a block means
the same whenever it comes, and what one means is remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

from serving.rpc.cutting import Bytes

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20
HEAD = 9
"""Bytes before each frame's payload."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_FRAME = 256 * 1024
"""What we take; RFC 9113 lets everybody send 16 KiB."""
LARGEST_BLOCK = 16 * 1024
LARGEST_NUMBER = 2**31 - 1
"""Of a stream, and of bytes in a window."""
_HEAD = struct.Struct(">HBBBI")


class Setting(IntEnum):
    """RFC 9113, section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class Broken(Exception):
    """The peer broke the protocol; nothing more it says can be trusted."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def require(holds: bool, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
    """Raise Broken unless a rule of the protocol holds."""
    if not holds:
        raise Broken(code, text)


def frame(kind: int, flags: int, stream: int, payload: Bytes = b"") -> bytes:
    """A frame's bytes."""
    size = len(payload)
    return b"".join((_HEAD.pack(size >> 8, size & 255, kind, flags, stream), payload))


def length_of(head: memoryview) -> int:
    """Bytes of payload after a frame's head; raises Broken for more than we take."""
    length = int.from_bytes(head[:3], "big")
    require(length <= LARGEST_FRAME, "a frame is longer than announced", Code.FRAME_SIZE_ERROR)
    return length


def parts(whole: memoryview) -> tuple[int, int, int, memoryview]:
    """Kind, flags, stream and payload of a frame."""
    _, _, kind, flags, stream = _HEAD.unpack_from(whole)
    return kind, flags, stream & LARGEST_NUMBER, whole[HEAD:]


def unpadded(flags: int, payload: memoryview) -> memoryview:
    """The payload of DATA or HEADERS without padding; raises Broken when there is less of it than padding."""
    if not flags & PADDED:
        return payload
    require(len(payload) > 0 and payload[0] < len(payload), "padding without end")
    return payload[1 : len(payload) - payload[0]]


def number(payload: memoryview, size: int = 4) -> int:
    """The only number of a frame, its reserved bit left out; raises Broken for a payload of another size."""
    require(len(payload) == size, "a frame of the wrong size", Code.FRAME_SIZE_ERROR)
    return int.from_bytes(payload[:4], "big") & LARGEST_NUMBER


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in values.items()))


def settings_in(payload: memoryview) -> dict[int, int]:
    """The settings of a frame's payload, by number; raises Broken for values that may not be."""
    require(len(payload) % 6 == 0, "settings of the wrong size", Code.FRAME_SIZE_ERROR)
    found = {key: value for key, value in struct.iter_unpack(">HI", payload)}
    window, largest = found.get(Setting.INITIAL_WINDOW_SIZE, 0), found.get(Setting.MAX_FRAME_SIZE, 2**14)
    require(window <= LARGEST_NUMBER, "a window beyond its limit", Code.FLOW_CONTROL_ERROR)
    require(2**14 <= largest < 2**24, "a frame size beyond its limits")
    require(found.get(Setting.ENABLE_PUSH, 0) == 0, "a server that wants pushes")
    return found


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block that leaves no trace in the server's table."""
    made: bytes = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
    return made


@lru_cache(maxsize=64)
def fields_of(block: bytes) -> Mapping[bytes, bytes]:
    """The fields of a header block, the last of a name; raises Broken for one that needs a table, or is none."""
    decoder = Decoder(max_header_list_size=LARGEST_BLOCK)
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        return {bytes(name): bytes(value) for name, value in decoder.decode(block, raw=True)}
    except HPACKError as error:
        raise Broken(Code.COMPRESSION_ERROR, f"a header block that cannot be read: {type(error).__name__}") from None
