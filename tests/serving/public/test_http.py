"""What the public port does with slow, silent, greedy and ambiguous callers; nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.public import ending, http
from serving.public.connections import Connections
from serving.public.door import Door
from serving.public.junk import JunkBudgets
from serving.public.origins import Origins
from serving.subnets.base import Task
from tests.serving.callers import ALICE, STRANGER, Request, btauth, legacy
from tests.serving.fake_triton import FakeTriton, doubled
from tests.serving.fronts import Front, Holding, opened, until
from tests.serving.processes import raw, status
from tests.serving.tiny import Plain, Tiny

HEAD_DEADLINE = "serving.public.line.HEAD_DEADLINE_S"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled)) as made:
        yield made


@pytest.fixture
def hurried(front: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The same for callers that are to be too slow, and for nobody else."""
    monkeypatch.setattr(HEAD_DEADLINE, 0.3)
    front.box.gateway.body_deadline_s = 0.3
    return front


def closing(request: Request) -> bytes:
    return raw(request, Connection="close")


def good() -> bytes:
    return closing(legacy("Plain", {"x": [1]}))


async def test_a_silent_connection_is_closed(hurried: Front) -> None:
    assert await hurried.say() == b""


@pytest.mark.parametrize(
    "pieces", [[b"POST /Pl"], [b"POST /Plain HTTP/1.1\r\n", b"a: b\r\n", b"c: d\r\n"], [b"\r\n\r\n"]]
)
async def test_a_slow_head_is_closed(hurried: Front, pieces: list[bytes]) -> None:
    assert await hurried.say(*pieces) == b""


async def test_a_slow_second_head_on_a_kept_connection_is_closed(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = await front.connect()
    writer.write(plain())
    assert status(await reader.readuntil(b"}")) == 200
    monkeypatch.setattr(HEAD_DEADLINE, 0.3)
    writer.write(b"POST /Plain HT")
    assert await reader.read() == b""
    writer.close()


async def test_a_slow_body_is_408(front: Front) -> None:
    front.box.gateway.body_deadline_s = 0.3
    whole = raw(legacy("Plain", {"x": [1]}))
    assert status(await front.say(whole[:-5], whole[-5:-4])) == 408


async def test_a_head_and_body_in_many_pieces_are_answered(front: Front) -> None:
    whole = good()
    size = len(whole) // 12 + 1
    reply = await front.say(*[whole[at : at + size] for at in range(0, len(whole), size)])
    assert status(reply) == 200


async def test_slow_senders_do_not_disturb_others(hurried: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def came() -> float:
        cut = hurried.box.count("headframe_connections_cut_total", why="slow_head")
        return cut + hurried.box.gateway.door.connections.count

    slow = [asyncio.create_task(hurried.say(b"POST /Plain HTTP/1.1\r\n")) for _ in range(50)]
    await until(lambda: came() >= 50)
    monkeypatch.undo()  # whoever comes now has time
    assert status(await hurried.say(good())) == 200
    assert await asyncio.gather(*slow) == [b""] * 50


async def test_pipelined_requests_are_answered_in_order(front: Front) -> None:
    first, second = raw(legacy("Plain", {"x": [1]})), closing(legacy("Plain", {"x": [2]}))
    reply = await front.say(first + second)
    assert reply.count(b"HTTP/1.1 200") == 2
    assert reply.index(b"2.0") < reply.index(b"4.0")


async def test_a_caller_who_hangs_up_in_the_body_is_counted_and_costs_nothing(front: Front) -> None:
    _, writer = await front.connect()
    writer.write(raw(legacy("Plain", {"x": [1]}))[:-5])
    await until(lambda: any("run_asgi" in repr(task) for task in asyncio.all_tasks()))  # its head was read
    writer.transport.abort()
    await until(lambda: front.box.count("headframe_requests_total", outcome="hung_up") == 1)
    assert status(await front.say(good())) == 200


async def test_what_is_not_http_is_refused_and_counted(front: Front) -> None:
    assert status(await front.say(b"\x16\x03\x01 hello\r\n\r\n")) == 400
    assert front.box.count("headframe_refusals_total", code="bad_http") == 1


# Heads and bodies with more than one reading


def plain() -> bytes:
    return raw(legacy("Plain", {"x": [1]}))


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", request: bytes = b"") -> bytes:
    """The same request, its body in these pieces."""
    whole = request or plain()
    head = b"\r\n".join(line for line in whole.split(b"\r\n\r\n")[0].split(b"\r\n") if b"Content-Length" not in line)
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + end


def body() -> bytes:
    return plain().split(b"\r\n\r\n", 1)[1]


def piece(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def plus(line: bytes) -> bytes:
    return plain().replace(b"Host: x\r\n", b"Host: x\r\n" + line + b"\r\n")


def line(text: bytes) -> bytes:
    return plain().replace(b"POST /Plain HTTP/1.1", text)


AMBIGUOUS: dict[str, tuple[bytes, int, str]] = {
    "an absolute target": (line(b"POST http://x/Plain HTTP/1.1"), 400, "bad_target"),
    "a target without a slash": (line(b"POST Plain HTTP/1.1"), 400, "bad_http"),
    "a star for a target": (line(b"OPTIONS * HTTP/1.1"), 400, "bad_target"),
    "CONNECT": (line(b"CONNECT x:443 HTTP/1.1"), 400, "bad_target"),
    "CONNECT to a path": (line(b"CONNECT /Plain HTTP/1.1"), 405, "not_post"),
    "HTTP/2 from the start": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_http"),
    "HTTP/2.0 in the line": (line(b"POST /Plain HTTP/2.0"), 505, "http_version"),
    "HTTP/0.9 in the line": (line(b"POST /Plain HTTP/0.9"), 505, "http_version"),
    "HTTP/1.2": (line(b"POST /Plain HTTP/1.2"), 400, "bad_http"),
    "no version": (line(b"POST /Plain"), 505, "http_version"),
    "a method of its own": (line(b"STEAL /Plain HTTP/1.1"), 400, "bad_http"),
    "bare line feeds": (plain().replace(b"\r\n", b"\n"), 400, "bad_http"),
    "one bare line feed": (plus(b"A: b\nC: d"), 400, "bad_http"),
    "a bare carriage return": (plus(b"A: b\rC: d"), 400, "bad_http"),
    "a folded field": (plus(b"A: b\r\n c"), 400, "bad_http"),
    "a blank before the colon": (plus(b"A : b"), 400, "bad_http"),
    "a field without a name": (plus(b": b"), 400, "bad_http"),
    "a field without a colon": (plus(b"A"), 400, "bad_http"),
    "a field name that is not a token": (plus(b"A\xc3\xa9: b"), 400, "bad_http"),
    "an encoding on top of chunked": (chunked(piece(body())).replace(b": chunked", b": gzip, chunked"), 400,
                                      "bad_transfer_encoding"),
    "chunked twice": (chunked(piece(body())).replace(b": chunked", b": chunked, chunked"), 400, "bad_http"),
    "chunked in HTTP/1.0": (chunked(piece(body())).replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad_transfer_encoding"),
    "a signed length": (plain().replace(b"Content-Length: ", b"Content-Length: +"), 400, "bad_http"),
    "two lengths in one": (plain().replace(b"Content-Length: ", b"Content-Length: 5, "), 400, "bad_http"),
    "a length in hex": (plain().replace(b"Content-Length: ", b"Content-Length: 0x"), 400, "bad_http"),
    "a length beyond 64 bits": (plain().replace(b"Content-Length: ", b"Content-Length: 9" + b"9" * 20), 400,
                                "bad_http"),
    "a websocket": (plus(b"Connection: Upgrade\r\nUpgrade: websocket"), 400, "upgrade"),
    "HTTP/2 by upgrade": (plus(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"), 400, "upgrade"),
    "an unknown expectation": (plus(b"Expect: the-unexpected"), 417, "expectation"),
    "a field after the body": (chunked(piece(body()), end=b"0\r\nX-Late: 1\r\n\r\n"), 400, "trailers"),
    "an auth field after the body": (
        chunked(piece(body()), end=b"0\r\nbt_header_dendrite_nonce: 1\r\n\r\n"), 400, "trailers",
    ),
    "a chunk beyond 64 bits": (chunked(b"F" * 17 + b"\r\n"), 400, "bad_http"),
    "a negative chunk": (chunked(b"-5\r\n"), 400, "bad_http"),
    "a chunk longer than it says": (chunked(b"2\r\nabcdef\r\n"), 400, "bad_http"),
    "chunks of one byte": (chunked(*[piece(b" ")] * 5000), 400, "bad_chunks"),
    "a chunk with an endless extension": (chunked(piece(b" ", b";a=" + b"x" * 200_000)), 400, "bad_chunks"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(AMBIGUOUS))
async def test_what_has_two_readings_is_refused_once_and_briefly(front: Front, what: str) -> None:
    sent, expected, code = AMBIGUOUS[what]
    reply = await front.say(sent)
    assert (status(reply), reply.count(b"content-length: ")) == (expected, 1)
    assert len(reply) < 500
    assert b"connection: close" in reply
    assert front.box.count("headframe_refusals_total", code=code, status=str(expected)) == 1
    assert status(await front.say(good())) == 200


async def test_chunks_and_their_extensions_are_read_where_they_are_honest(front: Front) -> None:
    whole = closing(legacy("Plain", {"x": [1]}))
    own = whole.split(b"\r\n\r\n", 1)[1]
    pieces = [piece(own[at : at + 100], b";name=value") for at in range(0, len(own), 100)]
    assert status(await front.say(chunked(*pieces, request=whole))) == 200


async def test_http_1_0_is_answered_and_closed(front: Front) -> None:
    reply = await front.say(line(b"POST /Plain HTTP/1.0"))
    assert status(reply) == 200
    assert b"connection: close" in reply


async def test_leave_to_send_a_body_is_given_to_the_welcome_alone(front: Front) -> None:
    reader, writer = await front.connect()
    head, data = closing(legacy("Plain", {"x": [1]})).split(b"\r\n\r\n", 1)
    writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(data)
    assert status(await reader.read()) == 200
    writer.close()
    stranger = raw(legacy("Plain", {"x": [1]}, sender=STRANGER)).split(b"\r\n\r\n", 1)[0]
    reply = await front.say(stranger + b"\r\nExpect: 100-continue\r\n\r\n")
    assert (status(reply), reply.count(b"HTTP/1.1")) == (403, 1)


async def test_http_1_0_knows_no_leave_to_send_and_is_given_none(front: Front) -> None:
    head, data = line(b"POST /Plain HTTP/1.0").split(b"\r\n\r\n", 1)
    reply = await front.say(head + b"\r\nExpect: 100-continue\r\n\r\n", data)
    assert (status(reply), reply.count(b"HTTP/1.1")) == (200, 1)


async def test_requests_on_one_connection_are_answered_up_to_a_bound_and_then_it_is_closed(front: Front) -> None:
    many = [raw(legacy("Plain", {"x": [number]})) for number in range(http.MAX_PIPELINED + 10)]
    reply = await front.say(b"".join(many))
    assert reply.count(b"HTTP/1.1 200") == http.MAX_PIPELINED + 1
    assert front.box.count("headframe_refusals_total", code="pipelined") == 1


async def test_garbage_behind_a_good_request_does_not_take_its_answer(front: Front) -> None:
    reply = await front.say(plain() + b"\x16\x03\x01 what is this\r\n\r\n")
    assert (status(reply), reply.count(b"HTTP/1.1")) == (200, 1)
    assert front.box.count("headframe_refusals_total", code="bad_http") == 1


async def test_nothing_of_what_is_refused_here_is_logged(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    for sent, _, _ in AMBIGUOUS.values():
        await front.say(sent)
    assert not caplog.records


# Junk, by address


def with_door(**options: object) -> Door:
    return Door(junk=JunkBudgets(per_s=0.01, burst=3, clock=lambda: 1000.0), **options)  # type: ignore[arg-type]


async def test_an_address_that_sent_too_much_junk_is_told_so_and_validators_behind_it_are_served(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=with_door()) as front:
        junk = [b"GET /favicon.ico HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"\x16\x03\r\n\r\n",
                closing(legacy("Plain", {"x": [1]}, sender=STRANGER))]  # fmt: skip
        assert [status(await front.say(each)) for each in junk] == [404, 400, 403]
        replies = [await front.say(each) for each in (junk[0], junk[2])]
        assert [status(each) for each in replies] == [429, 429]
        assert all(b"retry-after: 100" in each for each in replies)
        assert status(await front.say(good())) == 200
        assert status(await front.say(closing(btauth("/Plain", {"x": [1]})))) == 200


async def test_false_claims_of_a_validator_from_its_own_address_run_out_before_any_signature_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=with_door()) as front:
        forged = closing(legacy("Plain", {"x": [1]}).but(bt_header_dendrite_signature="0x" + "1" * 128))
        assert [status(await front.say(forged)) for _ in range(4)] == [401, 401, 401, 429]
        assert status(await front.say(closing(legacy("Plain", {"x": [1]}, sender=ALICE)))) == 429
        other = closing(legacy("Plain", {"x": [1]}, receiver=ALICE))
        assert status(await front.say(other)) in {401, 429}


async def test_a_long_body_behind_an_early_refusal_is_not_listened_to(tmp_path: Path) -> None:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=with_door()) as front:
        head = b"POST /favicon.ico HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        replies = [await front.say(head, b"x" * 1000) for _ in range(4)]
        assert [status(reply) for reply in replies] == [404, 404, 404, 429]
        assert all(b"connection: close" in reply for reply in replies)


async def test_behind_a_trusted_proxy_each_address_has_books_of_its_own(tmp_path: Path) -> None:
    door = with_door(origins=Origins(["127.0.0.0/8"]))
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=door) as front:

        async def knock(*hops: str) -> int:
            head = "".join(f"X-Forwarded-For: {hop}\r\n" for hop in hops)
            return status(await front.say(f"GET / HTTP/1.1\r\nConnection: close\r\n{head}\r\n".encode()))

        assert [await knock("203.0.113.9") for _ in range(4)] == [404, 404, 404, 429]
        assert await knock("203.0.113.10") == 404
        assert await knock("203.0.113.10", "203.0.113.9") == 429  # the right-most is the one our proxy saw


# Connections


async def test_too_many_connections_of_one_address_are_closed_and_a_proven_one_is_kept(tmp_path: Path) -> None:
    door = Door(connections=Connections(total=100, per_address=2))
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), door=door) as front:
        reader, writer = await front.connect()
        writer.write(plain())
        assert status(await reader.readuntil(b"}")) == 200
        silent = [await front.connect() for _ in range(2)]
        await until(lambda: front.box.gateway.door.connections.count == 3)
        assert await front.say() == b""
        assert front.box.count("headframe_connections_cut_total", why="address") == 1
        writer.write(plain())
        assert status(await reader.readuntil(b"}")) == 200
        for _, each in (*silent, (reader, writer)):
            each.close()
        await until(lambda: front.box.gateway.door.connections.count == 0)


async def test_when_the_house_is_full_the_newest_of_the_heaviest_goes_and_its_work_ends(tmp_path: Path) -> None:
    triton = Holding()
    door = Door(connections=Connections(total=3, per_address=100), origins=Origins(["127.0.0.2"]))
    async with opened(tmp_path, triton, door=door) as front:
        callers = [await front.connect() for _ in range(3)]
        await until(lambda: door.connections.count == 3)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port, local_addr=("127.0.0.2", 0))
        with contextlib.suppress(ConnectionResetError):
            assert await callers[-1][0].read() == b""
        assert front.box.count("headframe_connections_cut_total", why="total") == 1
        triton.go.set()
        writer.write(good())
        assert status(await reader.read()) == 200
        for _, each in (*callers, (reader, writer)):
            each.close()


# Callers that hang up, and callers that do not listen


async def test_a_caller_who_hangs_up_while_the_model_runs_takes_its_request_back(tmp_path: Path) -> None:
    triton = Holding()
    async with opened(tmp_path, triton, in_flight=1) as front:
        _, writer = await front.connect()
        writer.write(plain())
        await until(lambda: triton.inside == 1)
        writer.transport.abort()
        await until(lambda: triton.taken_back == 1)
        await until(lambda: front.box.gateway.admission.in_flight == 0)
        assert front.box.count("headframe_requests_total", outcome="hung_up", caller="upper") == 1
        assert front.box.codes() == ["hung_up"]
        triton.go.set()
        assert status(await front.say(good())) == 200
        assert front.box.codes() == ["hung_up", "ok"]


async def test_a_caller_who_hangs_up_in_the_queue_frees_its_seat_at_once(tmp_path: Path) -> None:
    triton = Holding()
    async with opened(tmp_path, triton, in_flight=1, waiting=1) as front:
        first, waits = [await front.connect() for _ in range(2)]
        first[1].write(plain())
        await until(lambda: triton.inside == 1)
        waits[1].write(plain())
        await until(lambda: front.box.gateway.admission.waiting == 1)
        assert status(await front.say(good())) == 503
        waits[1].close()
        await until(lambda: front.box.gateway.admission.waiting == 0)
        assert triton.taken_back == 0
        third = asyncio.create_task(front.say(good()))
        await until(lambda: front.box.gateway.admission.waiting == 1)
        triton.go.set()
        assert status(await third) == 200
        assert status(await first[0].readuntil(b"}")) == 200
        first[1].close()


async def test_a_drain_is_not_taken_for_a_caller_who_hung_up(tmp_path: Path) -> None:
    triton = Holding()
    async with opened(tmp_path, triton) as front:
        reply = asyncio.create_task(front.say(good()))
        await until(lambda: triton.inside == 1)
        (task,) = [each for each in asyncio.all_tasks() if "run_asgi" in repr(each)]
        task.cancel()
        assert status(await reply) == 503
        assert front.box.codes() == ["draining"]


class Long(Plain):
    """Answers with 32 MB."""

    synapse = "Long"
    SIZE = 32 * 1024 * 1024

    def reply(self, task: Task, answer: object, *, legacy: bool) -> bytes:
        return bytes(self.SIZE)


class LongSubnet(Tiny):
    """The tiny subnet with a long answer."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = (Long(),)


async def ask_for_much(front: Front) -> socket.socket:
    """A connection that asked for 32 MB and has taken nothing yet."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(("127.0.0.1", front.port))
    caller.sendall(raw(legacy("Long", {"x": [1]})))
    caller.setblocking(False)
    await until(lambda: front.box.count("headframe_requests_total", route="Long") == 1)
    return caller


def take_all(caller: socket.socket) -> None:
    while caller.recv(1 << 20):
        pass


async def test_a_caller_who_takes_nothing_of_its_reply_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "TAKE_DEADLINE_S", 0.2)
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), subnet=LongSubnet()) as front:
        with await ask_for_much(front) as caller:
            await until(lambda: front.box.count("headframe_connections_cut_total", why="slow_reader") == 1)
            await until(lambda: front.box.gateway.door.connections.count == 0)
            with pytest.raises(ConnectionResetError):
                take_all(caller)


async def test_a_caller_who_says_no_more_and_takes_nothing_is_cut_off_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "TAKE_DEADLINE_S", 0.2)
    admit = Connections.admit

    def endless(house: Connections, address: Any, line: Any) -> str:
        line.transport.set_write_buffer_limits(high=1 << 30)  # so that nothing is too much to wait
        return admit(house, address, line)

    monkeypatch.setattr(Connections, "admit", endless)
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), subnet=LongSubnet()) as front:
        with await ask_for_much(front) as caller:
            assert front.box.gateway.door.connections.count == 1
            caller.shutdown(socket.SHUT_WR)
            await until(lambda: front.box.gateway.door.connections.count == 0)
        assert front.box.count("headframe_connections_cut_total", why="slow_reader") == 1


async def test_a_caller_who_takes_its_long_reply_in_pieces_gets_all_of_it(tmp_path: Path) -> None:
    async with opened(tmp_path, FakeTriton(tiny_a=doubled), subnet=LongSubnet()) as front:
        with await ask_for_much(front) as caller:
            loop = asyncio.get_running_loop()
            taken = 0
            while taken < Long.SIZE:
                taken += len(await asyncio.wait_for(loop.sock_recv(caller, 1 << 18), 60))
        assert front.box.count("headframe_connections_cut_total", why="slow_reader") == 0
