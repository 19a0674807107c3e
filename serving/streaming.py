"""Answers that go out in chunks, as a model makes them.

Everything that can be refused is refused before the first chunk, as an ordinary error; the headers wait for a first
chunk that is valid. After it the status is spent, and the only honest sign of a fault is to break the connection off:
the last chunk of HTTP/1.1, the empty one, never comes, and no caller takes what it has for the whole answer.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from hashlib import sha256
from typing import Any, Literal

from serving.answering import Answerer, Infers, try_answer
from serving.call import Call
from serving.errors import Refusal
from serving.subnets.base import StreamRoute, Task, Tensors
from serving.triton import ReleaseFault, TooLate, TritonFault
from serving.types import Body, ReleaseId
from serving.wire import reply

WRITE_DEADLINE_S = 10.0
"""How long a caller may leave a chunk unread while the next one waits behind it."""
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Aborted(Exception):
    """A streamed answer ended too early, with part of it gone out; the text says why, for the record.

    `blame`: what the release that answered is counted for, None when it was not at fault.
    """

    def __init__(self, reason: str, blame: Literal["invalid", "error", "late", "away"] | None = None) -> None:
        super().__init__(reason[:500])
        self.blame = blame


class Outlet:
    """Where a streamed answer goes out: its headers with the first chunk, and a deadline on each."""

    def __init__(self, send: Send, http_version: str, write_deadline_s: float = WRITE_DEADLINE_S) -> None:
        """Raises Refusal (400) for HTTP/1.0, which cannot tell a short answer from a whole one."""
        if http_version == "1.0":
            raise Refusal(400, "needs_http_1_1", "a streamed answer needs HTTP/1.1")
        self._send = send
        self._deadline_s = write_deadline_s
        self.started = False
        self.chunks = 0

    async def put(self, call: Call, chunk: Body) -> None:
        """One chunk; raises Aborted when the caller does not take it in time, or the call's time is over."""
        left_s = call.left_s()
        try:
            async with asyncio.timeout(min(self._deadline_s, left_s)):
                if not self.started:
                    self.started = True
                    headers = reply.stream_headers(call.dialect, call.stages.total_s())
                    await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                await self._send({"type": "http.response.body", "body": bytes(chunk), "more_body": True})
        except TimeoutError:
            raise Aborted("too_late" if left_s <= self._deadline_s else "slow_reader") from None
        self.chunks += bool(chunk)


class _Opening:
    """Gives the first response of a stream as if it were an inference, and keeps the stream open behind it."""

    def __init__(self, triton: Infers) -> None:
        self._triton = triton
        self.rest: AsyncGenerator[Tensors, None] | None = None

    async def infer(self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Tensors:
        await self.aclose()  # of a release whose first chunk was not valid
        self.rest = self._triton.stream(release, tensors, priority=priority, timeout_s=timeout_s)
        try:
            return await anext(self.rest)
        except StopAsyncIteration:
            raise ReleaseFault("empty_stream", "the stream ended without any response") from None

    def stream(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> AsyncGenerator[Tensors, None]:
        return self._triton.stream(release, tensors, priority=priority, timeout_s=timeout_s)

    async def aclose(self) -> None:
        if self.rest is not None:
            await self.rest.aclose()


async def stream_answer(answerer: Answerer, call: Call, route: StreamRoute, task: Task, out: Outlet) -> None:
    """Answer `call` chunk by chunk, all but the empty chunk that says that it is whole.

    Raises Refusal before the first chunk, as `Answerer.answer` does, fallbacks tried; Aborted after it.
    """
    opening = _Opening(answerer.triton)
    async with aclosing(opening):
        first = await answerer.asking(opening).answer(call, route, task)
        assert call.release is not None
        assert opening.rest is not None
        try:
            with answerer.holding(call.release):
                await out.put(call, first)
                await _rest(call, route, task, opening.rest, out)
                await out.put(call, b"")  # the caller has taken all but the last few KiB
        except Aborted as aborted:
            if aborted.blame is not None:
                answerer.broke_off(call, task, aborted.blame)
            raise
        except asyncio.CancelledError:  # the caller left, or the drain ended
            raise Aborted("cancelled") from None
        except Exception as error:
            raise Aborted("internal") from error


async def _rest(
    call: Call, route: StreamRoute, task: Task, responses: AsyncGenerator[Tensors, None], out: Outlet
) -> None:
    """Everything after the first chunk; `call` then knows the digest, size and checksum of all of it."""
    digest = sha256((call.digest or "").encode())
    try:
        async for outputs in responses:
            tried = try_answer(route, task, outputs, legacy=call.dialect == "legacy")
            if tried.body is None:
                raise Aborted(f"invalid: {tried.reason}", "invalid")
            await out.put(call, tried.body)
            digest.update(tried.digest.encode())
            call.answer_bytes += len(tried.body)
            call.answer_crc = zlib.crc32(tried.body, call.answer_crc or 0)
    except TooLate as fault:
        raise Aborted(str(fault), "late") from None
    except ReleaseFault as fault:
        raise Aborted(str(fault), "error") from None
    except TritonFault as fault:
        raise Aborted(str(fault), "away") from None
    call.digest = digest.hexdigest()
    missing = route.whole(task, out.chunks)
    if missing is not None:
        raise Aborted(f"invalid: {missing}", "invalid")
