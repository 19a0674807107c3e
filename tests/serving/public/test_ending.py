"""What a caller hears that is still sending when it is refused, and for how long it may go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.public import connections, ending
from serving.public.connections import Connections
from serving.public.door import Door
from serving.public.ending import LEAST_TAKEN, TAKE_DEADLINE_S, Ending
from serving.public.origins import Origins
from tests.serving.callers import legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.fronts import Front, opened, until
from tests.serving.processes import raw, status
from tests.serving.public.test_deadline import Time

BODY = b"x" * 750_000
"""Seven hundred times what the route takes."""


def too_long() -> bytes:
    """The head of a request of a welcome caller, its length honest."""
    whole = raw(legacy("Plain", {"x": [1]}), **{"Content-Length": str(len(BODY))})
    return whole.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n"


WRONG = {
    "a body that is too long": (b"", 413),
    "a head that is too long": (b"POST /Plain HTTP/1.1\r\nA: " + b"x" * 32_768, 431),
    "a broken chunk": (b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    "no route": (b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", 404),
}


@pytest.fixture
async def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    """A front that hears everybody out for as long as the test takes."""
    monkeypatch.setattr(ending, "LINGER_S", 600.0)
    async with opened(tmp_path, FakeTriton(tiny_a=doubled)) as made:
        yield made


class Slow:
    """A transport that still has so much to write."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.closing, self.aborted = waiting, False, False

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> Any:
        return self

    def setsockopt(self, *option: object) -> None:
        pass


async def test_a_connection_that_closes_is_cut_over_the_last_little_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "TAKE_DEADLINE_S", 0.01)
    slow, why = Slow(200_000), list[str]()
    one = ending.Ending(slow, asyncio.get_running_loop(), why.append)  # type: ignore[arg-type]
    one.close()
    slow.waiting = 10_000
    one.rest()  # a loop says so below a quarter of what is too much
    await until(lambda: slow.aborted)
    assert why == ["slow_reader"]


class Sender:
    """A caller that says what it likes, whatever it hears."""

    def __init__(self, front: Front) -> None:
        self.loop = asyncio.get_running_loop()
        self.socket = socket.create_connection(("127.0.0.1", front.port))
        self.socket.setblocking(False)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def say(self, data: bytes) -> None:
        await asyncio.wait_for(self.loop.sock_sendall(self.socket, data), 60)

    async def first_byte(self) -> None:
        """Wait until something of the reply is here, and leave it there."""

        def here() -> bool:
            with contextlib.suppress(BlockingIOError):
                return bool(self.socket.recv(1, socket.MSG_PEEK))
            return False

        await until(here)

    async def hear(self) -> bytes:
        """Everything up to the end."""
        found = b""
        while data := await asyncio.wait_for(self.loop.sock_recv(self.socket, 65536), 60):
            found += data
        return found


@pytest.mark.parametrize("taken", [LEAST_TAKEN, LEAST_TAKEN - 1])
def test_a_caller_that_takes_so_much_in_each_turn_may_take_its_time(taken: int) -> None:
    slow, time, cut = Slow(100 * LEAST_TAKEN), Time(), list[str]()
    end = Ending(slow, time, cut.append)  # type: ignore[arg-type]
    end.watch()
    for turn in range(1, 100):
        slow.waiting -= taken
        time.go_on(TAKE_DEADLINE_S)
        assert slow.aborted == (taken < LEAST_TAKEN), turn
    assert cut == ([] if taken == LEAST_TAKEN else ["slow_reader"])


def held(front: Front) -> int:
    return front.box.gateway.door.connections.count


@pytest.mark.parametrize("what", list(WRONG))
async def test_who_sends_all_before_it_reads_gets_the_refusal_whole(patient: Front, what: str) -> None:
    start, expected = WRONG[what]
    with Sender(patient) as caller:
        await caller.say(start or too_long())
        await caller.first_byte()
        for at in range(0, len(BODY), 65536):
            await caller.say(BODY[at : at + 65536])
        reply = await caller.hear()
    assert status(reply) == expected
    assert b"connection: close" in reply
    assert reply.endswith(b'"}')
    await until(lambda: held(patient) == 0)


async def test_a_caller_that_goes_on_for_ever_is_closed(patient: Front) -> None:
    with Sender(patient) as caller:
        await caller.say(too_long())
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                await caller.say(BODY)
        await until(lambda: held(patient) == 0)


@pytest.mark.parametrize("dribbles", [True, False])
async def test_a_caller_that_is_slow_or_silent_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dribbles: bool
) -> None:
    monkeypatch.setattr(ending, "LINGER_S", 0.2)
    async with opened(tmp_path, FakeTriton(tiny_a=doubled)) as front:
        with Sender(front) as caller:
            await caller.say(too_long())
            assert status(await caller.hear()) == 413
            while held(front):
                if dribbles:
                    with contextlib.suppress(ConnectionError):
                        await caller.say(b" ")
                await asyncio.sleep(0.01)


async def test_what_comes_after_a_refusal_is_not_listened_to(patient: Front) -> None:
    with Sender(patient) as caller:
        await caller.say(too_long())
        await caller.first_byte()
        await caller.say(raw(legacy("Plain", {"x": [1]})))
        assert (await caller.hear()).count(b"HTTP/1.1") == 1
        assert patient.box.count("headframe_requests_total", outcome="ok") == 0


async def test_what_is_not_http_is_closed_at_once(patient: Front) -> None:
    with Sender(patient) as caller:
        await caller.say(b"\x16\x03\x01 hello\r\n\r\n")
        await caller.first_byte()
        await until(lambda: held(patient) == 0)


async def test_nobody_works_for_a_caller_that_lingers(patient: Front) -> None:
    chunked = too_long().replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    with Sender(patient) as caller:
        await caller.say(chunked + b"1\r\n{\r\n")
        await until(lambda: any("run_asgi" in repr(task) for task in asyncio.all_tasks()))
        await caller.say(b"-5\r\n")
        await caller.first_byte()
        await until(lambda: not any("run_asgi" in repr(task) for task in asyncio.all_tasks()))
        assert held(patient) == 1
        assert patient.box.count("headframe_requests_total", outcome="hung_up") == 1


async def test_behind_a_trusted_proxy_the_address_that_takes_a_place_is_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LINGER_S", 600.0)
    monkeypatch.setattr(connections, "LINGERING_EACH", 1)
    behind = {at: too_long().replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 203.0.113.%d\r\n\r\n" % at) for at in (1, 2)}
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=Door(origins=Origins(["127.0.0.0/8"]))) as front:
        with Sender(front) as first, Sender(front) as second, Sender(front) as other:
            for caller, at, lingering in ((first, 1, 1), (second, 1, 1), (other, 2, 2)):
                await caller.say(behind[at])
                assert status(await caller.hear()) == 413
                assert len(front.box.gateway.door.connections._lingering) == lingering


async def test_where_half_the_house_is_taken_nobody_lingers_and_in_a_full_one_who_does_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LINGER_S", 600.0)
    house = Connections(total=3, per_address=100)
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=Door(connections=house)) as front:
        with Sender(front) as lingers, Sender(front) as silent:
            await until(lambda: house.count == 2)
            await lingers.say(too_long())
            assert status(await lingers.hear()) == 413
            await until(lambda: house.count == 1)  # closed at once
            with Sender(front) as third:
                await until(lambda: house.count == 2)
                silent.socket.close()
                await until(lambda: house.count == 1)
                await third.say(too_long())
                assert status(await third.hear()) == 413
                with Sender(front), Sender(front):
                    await until(lambda: house.count == 3)
                    with Sender(front) as newcomer:
                        await newcomer.say(raw(legacy("Plain", {"x": [1]})))
                        await newcomer.first_byte()
                        assert house.count == 3
                        assert front.box.count("headframe_connections_cut_total", why="total") == 1
