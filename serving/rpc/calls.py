"""The calls of one connection: which may begin, how much of each may be sent, and how they end.

A server lets only so many streams be open at a time, and only so many bytes be under way, on each and on all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from grpc import StatusCode

from serving.rpc import frames as h2
from serving.rpc.frames import Code, Setting, require
from serving.rpc.stream import NOTHING, Stream

FIRST_WINDOW = 65_535
"""What everybody may send before settings and updates say otherwise."""


class Calls:
    """Begins calls in order, as the server lets them."""

    def __init__(self, send: Callable[[bytes], None], done: Callable[[], None]) -> None:
        """`send` writes frames; `done` is called when no call runs and none may begin any more."""
        self.leaving = False
        """No further call may begin."""
        self.running: dict[int, Stream] = {}
        self.waiting: deque[Stream] = deque()
        """For a place among those that the server wants at most."""
        self.stuck: dict[int, Stream] = {}
        """Running, the rest of their body waiting for a window."""
        self.next_id = 1
        self._send, self._done = send, done
        self._loop = asyncio.get_running_loop()
        self._most = h2.LARGEST_NUMBER
        self._largest, self._first_window, self._window = 2**14, FIRST_WINDOW, FIRST_WINDOW

    def find(self, number: int) -> Stream | None:
        """The call of a stream, None when it is over; raises Broken for a stream that never was."""
        require(number % 2 == 1 and number < self.next_id, "a stream that never began")
        return self.running.get(number)

    def begin(self, stream: Stream) -> None:
        """Send a call, now or as soon as the server lets us; it ends by its deadline, whatever happens."""
        stream.timer = self._loop.call_at(stream.deadline, self._late, stream)
        if self.waiting or len(self.running) >= self._most:
            self.waiting.append(stream)
        else:
            self._open(stream)

    def drop(self, stream: Stream) -> None:
        """Nobody waits for a call any more: cancel it, or let the server finish it if it `finishes`; once is enough."""
        if stream.id in self.running:
            stream.abandon()
            if stream.unsent or not stream.finishes:
                self.reset(stream)
        elif stream in self.waiting:
            stream.abandon()
            self.waiting.remove(stream)

    def reset(self, stream: Stream, code: Code = Code.CANCEL) -> None:
        """Tell the server that a stream is over."""
        self._send(h2.frame(h2.RST_STREAM, 0, stream.id, code.to_bytes(4, "big")))
        self.over(stream)

    def over(self, stream: Stream) -> None:
        """Both sides know that a stream is over."""
        self.running.pop(stream.id, None)  # telling the server may have ended the connection, and all with it
        self.stuck.pop(stream.id, None)
        self._begin_more()

    def finish(self) -> None:
        """End every call; `done` is called once the server has finished what it must."""
        self.leaving = True
        for stream in list(self.running.values()):
            stream.end(StatusCode.UNAVAILABLE, "the connection is closing")
            self.drop(stream)
        self._begin_more()

    def fail(self, why: str) -> None:
        """End every call now: nothing more will come."""
        self.leaving = True
        streams = [*self.running.values(), *self.waiting]
        self.running.clear()
        self.waiting.clear()
        self.stuck.clear()
        for stream in streams:
            stream.end(StatusCode.UNAVAILABLE, why)

    def farewell(self, last: int) -> None:
        """The server takes no stream after `last`, and never saw those that began."""
        self.leaving = True
        for stream in [stream for stream in self.running.values() if stream.id > last]:
            stream.end(StatusCode.UNAVAILABLE, "the server left before it saw the call")
            self.over(stream)
        self._begin_more()

    def agree(self, said: Mapping[int, int]) -> None:
        """Keep to new settings of the server; raises Broken when a window grows beyond its limit."""
        self._most = said.get(Setting.MAX_CONCURRENT_STREAMS, self._most)
        self._largest = said.get(Setting.MAX_FRAME_SIZE, self._largest)
        more = said.get(Setting.INITIAL_WINDOW_SIZE, self._first_window) - self._first_window
        self._first_window += more
        for stream in self.running.values():
            stream.window = _grown(stream.window, more)
        self._push_all()
        self._begin_more()

    def widen(self, number: int, more: int) -> None:
        """The server takes `more` bytes, of one stream or (0) of all together; raises Broken beyond the limit."""
        require(more > 0, "a window that grows by nothing")
        if number == 0:
            self._window = _grown(self._window, more)
        elif (stream := self.find(number)) is not None:
            stream.window = _grown(stream.window, more)
        self._push_all()

    def _open(self, stream: Stream) -> None:
        stream.id, stream.window = self.next_id, self._first_window
        self.next_id += 2
        self.leaving |= self.next_id > h2.LARGEST_NUMBER
        self.running[stream.id] = stream
        self._push(stream, [h2.frame(h2.HEADERS, h2.END_HEADERS, stream.id, stream.head)])

    def _push(self, stream: Stream, out: list[bytes]) -> None:
        """Send `out`, and as much of a body as the windows take."""
        while stream.unsent:
            size = min(len(stream.unsent), stream.window, self._window, self._largest)
            if size <= 0:
                self.stuck[stream.id] = stream
                break
            stream.window -= size
            self._window -= size
            data, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            out.append(h2.frame(h2.DATA, 0 if stream.unsent else h2.END_STREAM, stream.id, data))
        else:
            stream.head, stream.unsent = b"", NOTHING
            self.stuck.pop(stream.id, None)
        self._send(b"".join(out))

    def _push_all(self) -> None:
        for stream in list(self.stuck.values()):
            if self._window <= 0:
                return
            self._push(stream, [])

    def _late(self, stream: Stream) -> None:
        stream.end(StatusCode.DEADLINE_EXCEEDED, "no answer in time")
        self.drop(stream)

    def _begin_more(self) -> None:
        while self.waiting and len(self.running) < self._most and not self.leaving:
            self._open(self.waiting.popleft())
        if self.leaving:
            while self.waiting:
                self.waiting.popleft().end(StatusCode.UNAVAILABLE, "no further call may begin on this connection")
            if not self.running:
                self._done()


def _grown(window: int, more: int) -> int:
    require(window + more <= h2.LARGEST_NUMBER, "a window beyond its limit", Code.FLOW_CONTROL_ERROR)
    return window + more
