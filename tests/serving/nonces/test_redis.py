"""Redis as the replay store of several boxes: away, emptied, started anew, short of memory."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid1

import pytest
from redis import Redis
from structlog.testing import CapturingLogger

from serving.errors import Refusal, UserError
from serving.nonces import redis as nonces_redis
from serving.nonces.redis import AWAY_S, LEAD_NS, LIMIT_S, RedisNonces, check_redis, evicts
from serving.types import NonceNs
from serving.wire.keys import PublicKey
from tests.ports import free_port
from tests.servers import redis
from tests.serving.callers import ALICE, BOB, MINER, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import gateway, until

pytestmark = pytest.mark.slow
S = 10**9
A, B, RECEIVER = (PublicKey(pair.public_key) for pair in (ALICE, BOB, MINER))


class Box:
    """A box with a clock of its own."""

    def __init__(self, port: int) -> None:
        self.now = time.time_ns()
        self.log = CapturingLogger()
        self.store = RedisNonces(
            f"redis://127.0.0.1:{port}", retention_s=300.0, log=self.log, wall_ns=lambda: self.now
        )  # fmt: skip

    async def spend(self, nonce: int, sender: PublicKey = A) -> str | None:
        try:
            await self.store.spend(sender, RECEIVER, NonceNs(nonce), self.now)
        except Refusal as refused:
            return refused.code
        return None

    async def ready(self) -> None:
        """Wait until Redis is asked again, with its first barrier behind us."""
        for _ in range(100):
            if await self.spend(self.now) != "replay_store_down":
                return
            await asyncio.sleep(AWAY_S / 2)
        raise AssertionError("Redis does not answer")


@pytest.fixture
async def boxes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Box]]:
    """Boxes that wait long for a Redis that is there, whatever else this machine does."""
    monkeypatch.setattr(nonces_redis, "LIMIT_S", 30.0)
    made: list[Box] = []
    yield made
    for box in made:
        await box.store.close()


def new(boxes: list[Box], port: int) -> Box:
    boxes.append(Box(port))
    return boxes[-1]


async def test_while_redis_is_away_nothing_is_accepted_and_when_it_is_back_all_is(
    boxes: list[Box], tmp_path: Path
) -> None:
    port = free_port()
    box = new(boxes, port)
    assert await box.spend(box.now) == "replay_store_down"
    with redis(tmp_path, port):
        await box.ready()
        box.now += LEAD_NS + S
        assert await box.spend(box.now) is None
        assert await box.spend(box.now) == "replayed"
    assert await box.spend(box.now + 1) == "replay_store_down"
    assert [call.args for call in box.log.calls] == [
        ("the replay store does not answer",), ("the replay store answers again",),
        ("the replay store does not answer",),
    ]  # fmt: skip


async def test_a_redis_that_hangs_is_given_up_on(boxes: list[Box], monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIMIT_S < 0.5
    monkeypatch.setattr(nonces_redis, "LIMIT_S", LIMIT_S)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(1)
        box = new(boxes, mute.getsockname()[1])
        assert await box.spend(box.now) == "replay_store_down"
        assert await box.spend(box.now) == "replay_store_down"  # at once, without asking


async def test_a_stopped_redis_is_given_up_on_and_taken_up_again(
    boxes: list[Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with redis(tmp_path, port) as pid:
        box = new(boxes, port)
        await box.ready()
        box.now += LEAD_NS + S
        os.kill(pid, signal.SIGSTOP)
        with monkeypatch.context() as hurried:
            hurried.setattr(nonces_redis, "LIMIT_S", LIMIT_S)
            assert await box.spend(box.now) == "replay_store_down"
        os.kill(pid, signal.SIGCONT)
        box.now += 1
        await box.ready()
        assert await box.spend(box.now) == "replayed"


@pytest.mark.parametrize("persists", [False, True], ids=["empty", "with an old snapshot"])
async def test_a_redis_that_lost_its_memory_reopens_no_window(boxes: list[Box], tmp_path: Path, persists: bool) -> None:
    port = free_port()
    accepted = []
    with redis(tmp_path, port, "--save", "", "--dbfilename", "dump.rdb") as pid:
        box, other = new(boxes, port), new(boxes, port)
        await box.ready()
        box.now += LEAD_NS + S
        accepted.append(box.now)
        assert await box.spend(box.now) is None
        if persists:
            with Redis(port=port) as plain:
                plain.save()
        for ahead in range(1, 4):  # after the snapshot; the last one by a caller that is ahead
            accepted.append(box.now + ahead * S)
            assert await box.spend(accepted[-1]) is None
        os.kill(pid, signal.SIGKILL)
    with redis(tmp_path, port, "--save", "", "--dbfilename", "dump.rdb"):
        other.now = box.now - 2 * S  # the first to come back is a box whose clock is behind
        await other.ready()
        await box.ready()
        for nonce in accepted:
            assert await other.spend(nonce) in {"replayed", "before_start"}
            assert await box.spend(nonce) in {"replayed", "before_start"}
        box.now += LEAD_NS + 5 * S
        assert await box.spend(box.now) is None


async def test_a_box_that_knows_of_a_later_nonce_puts_the_barrier_above_it(boxes: list[Box], tmp_path: Path) -> None:
    port = free_port()
    with redis(tmp_path, port) as pid:
        box = new(boxes, port)
        await box.ready()
        late = box.now + 3600 * S  # its clock was an hour ahead then
        assert await box.spend(late) is None
        os.kill(pid, signal.SIGKILL)
    with redis(tmp_path, port):
        other = new(boxes, port)
        await other.ready()
        await box.ready()
        assert await other.spend(late) == "before_start"


async def test_an_emptied_redis_reopens_no_window(boxes: list[Box], tmp_path: Path) -> None:
    port = free_port()
    with redis(tmp_path, port), Redis(port=port) as plain:
        box = new(boxes, port)
        await box.ready()
        box.now += LEAD_NS + S
        assert await box.spend(box.now) is None
        plain.flushall()
        assert await box.spend(box.now) == "replay_store_down"
        assert await box.spend(box.now) == "before_start"
        assert await box.spend(box.now + LEAD_NS + 1) is None


async def test_a_redis_without_memory_left_refuses(boxes: list[Box], tmp_path: Path) -> None:
    port = free_port()
    with redis(tmp_path, port), Redis(port=port) as plain:
        box = new(boxes, port)
        await box.ready()
        box.now += LEAD_NS + S
        plain.config_set("maxmemory", "1")
        assert await box.spend(box.now) == "replay_store_down"
        plain.config_set("maxmemory", "0")
        await box.ready()
        assert await box.spend(box.now) == "replayed"


async def test_an_evicting_redis_is_warned_of_once(boxes: list[Box], tmp_path: Path) -> None:
    port = free_port()
    with redis(tmp_path, port, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"):
        box = new(boxes, port)
        await box.ready()
        await asyncio.gather(*(box.spend(box.now + n) for n in range(20)))
        (call,) = box.log.calls
        assert "set it to noeviction" in call.kwargs["problem"]
    assert evicts({"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}) is None
    assert evicts({"maxmemory": "5", "maxmemory_policy": "volatile-lru"}) is None  # our keys never have a time to live


async def test_what_is_expired_is_forgotten_only_when_redis_agrees_on_the_time(
    boxes: list[Box], tmp_path: Path
) -> None:
    port = free_port()
    with redis(tmp_path, port):
        box = new(boxes, port)
        await box.ready()
        box.now += LEAD_NS + S
        assert await box.spend(box.now) is None
        await box.store.tick(box.now + 3600 * S)
        assert await box.store.count() == 1
        assert await box.spend(box.now) == "replayed"


async def test_after_a_restart_of_redis_monotonic_callers_must_be_new(
    boxes: list[Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonces_redis, "LEAD_NS", -S)
    port = free_port()
    uuid = str(uuid1())

    async def advance(box: Box, uuid: str, nonce: int) -> str | None:
        for _ in range(20):
            try:
                await box.store.advance(A, RECEIVER, uuid, nonce)
            except Refusal as refused:
                if refused.code != "replay_store_down":
                    return refused.code
                await asyncio.sleep(AWAY_S)
            else:
                return None
        return "away"

    with redis(tmp_path, port) as pid:
        box = new(boxes, port)
        assert await advance(box, uuid, 5) is None
        assert await advance(box, uuid, 5) == "replayed"
        os.kill(pid, signal.SIGKILL)
    with redis(tmp_path, port):
        box.now = time.time_ns() + 2 * S
        assert await advance(box, uuid, 5) == "uuid_too_old"
        assert await advance(box, uuid, 6) == "uuid_too_old"


def test_a_setting_that_names_no_redis_is_one_clear_line() -> None:
    check_redis("redis://127.0.0.1:6379/0")
    check_redis("rediss://user:word@example.org:6380/1")
    with pytest.raises(UserError, match="redis_url") as refused:
        check_redis("127.0.0.1:6379")
    assert "\n" not in str(refused.value)


def test_two_boxes_run_the_same_request_once(tmp_path: Path) -> None:
    port, triton = free_port(), FakeTritonServer(tiny_a=doubled)
    url = f"redis://127.0.0.1:{port}"
    try:
        with redis(tmp_path, port), Redis(port=port) as plain, ExitStack() as stack:
            boxes = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                boxes.append(stack.enter_context(gateway(tmp_path / name, triton.address, redis=url)))
            until(lambda: plain.exists(nonces_redis.BARRIER))
            barrier = time.time_ns() - 60 * S
            plain.set(nonces_redis.BARRIER, f"{barrier:020d}")  # as if it had been set a minute ago

            def round_of_four() -> bool:
                """Whether Redis answered all in time; whatever it did, the request runs once at most."""
                request = legacy("Plain", {"x": [1.0]})
                with ThreadPoolExecutor(4) as pool:
                    statuses = sorted(pool.map(lambda box: box.ask(request).status_code, boxes * 2))
                if statuses == [200, 401, 401, 401]:
                    return True
                assert set(statuses) <= {200, 401, 503}
                assert 503 in statuses
                assert statuses.count(200) <= 1
                return False

            for _ in range(20):
                until(round_of_four)
            plain.shutdown(nosave=True)
            refused = boxes[0].ask(legacy("Plain", {"x": [1.0]}))
            assert (refused.status_code, refused.json()["message"]) == (503, "the replay store does not answer")
            assert int(refused.headers["retry-after"]) >= 1
    finally:
        triton.stop()
