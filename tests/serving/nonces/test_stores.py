"""What every replay store promises, on LMDB and on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch
from uuid import uuid1

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from redis import Redis

from serving.errors import Refusal
from serving.nonces.monotonic import MonotonicStore
from serving.nonces.redis import RedisNonces
from serving.nonces.store import NonceStore, ReplayStore, open_store, prepare_store
from serving.types import NonceNs
from serving.wire.keys import PublicKey
from tests.ports import free_port
from tests.servers import redis
from tests.serving.callers import ALICE, BOB, CHARLIE, MINER

S = 10**9
RETENTION_S = 300.0
NOW = time.time_ns() - 6 * 3600 * S
"""The stores' present: hours before the real one, so that by Redis' own clock it is never too early to forget."""
A, B, RECEIVER, OTHER = (PublicKey(pair.public_key) for pair in (ALICE, BOB, MINER, CHARLIE))


class Many(Protocol):
    """Makes stores over one memory, as several workers or boxes have them."""

    def __call__(self) -> ReplayStore: ...


class Kind(NamedTuple):
    """One kind of store, empty."""

    open: Many
    run: Any
    """Runs a coroutine in the loop that the stores live in."""


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with redis(tmp_path_factory.mktemp("redis"), port):
        yield port


@contextlib.contextmanager
def lmdb_kind(folder: Path) -> Iterator[Kind]:
    prepare_store(folder, NOW - 3600 * S)
    with asyncio.Runner() as runner, open_store(folder) as env:
        made: list[NonceStore] = []
        monotonic = MonotonicStore(folder / "monotonic")

        def open_one() -> NonceStore:
            made.append(NonceStore(env, folder, retention_s=RETENTION_S, monotonic=monotonic))
            return made[-1]

        yield Kind(open_one, runner.run)
        monotonic.close()


@contextlib.contextmanager
def redis_kind(port: int) -> Iterator[Kind]:
    with Redis(port=port) as plain:
        plain.flushall()
    with asyncio.Runner() as runner, patch("serving.nonces.redis.LIMIT_S", 30.0):  # whatever else this machine does
        made: list[RedisNonces] = []

        def open_one() -> RedisNonces:
            url, log = f"redis://127.0.0.1:{port}", structlog.get_logger()
            made.append(RedisNonces(url, retention_s=RETENTION_S, log=log, wall_ns=lambda: NOW - 3600 * S))
            return made[-1]

        yield Kind(open_one, runner.run)
        for store in made:
            runner.run(store.close())


@pytest.fixture(params=["lmdb", pytest.param("redis", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "lmdb":
        with lmdb_kind(tmp_path / "nonces") as made:
            yield made
    else:
        with redis_kind(request.getfixturevalue("redis_port")) as made:
            yield made


def code(kind: Kind, work: Any) -> str | None:
    """The refusal's code, None when accepted."""
    try:
        kind.run(work)
    except Refusal as refused:
        return refused.code
    return None


def spend(
    kind: Kind, store: ReplayStore, nonce: int, *, sender: PublicKey = A, receiver: PublicKey = RECEIVER, now: int = NOW
) -> str | None:
    return code(kind, store.spend(sender, receiver, NonceNs(nonce), now))


def advance(kind: Kind, store: ReplayStore, uuid: str, nonce: int, receiver: PublicKey = RECEIVER) -> str | None:
    return code(kind, store.advance(A, receiver, uuid, nonce))


def test_each_of_sender_receiver_and_nonce_counts(kind: Kind) -> None:
    store = kind.open()
    assert spend(kind, store, NOW) is None
    assert spend(kind, store, NOW) == "replayed"
    assert spend(kind, store, NOW, sender=B) is None
    assert spend(kind, store, NOW, receiver=OTHER) is None
    assert spend(kind, store, NOW + 1) is None
    assert spend(kind, store, NOW, receiver=OTHER) == "replayed"


def test_one_callers_parallel_requests_come_in_any_order_to_several_workers(kind: Kind) -> None:
    stores = [kind.open() for _ in range(3)]
    nonces = [NOW + offset for offset in (7, 1, 9, 3, 8, 2, 5, 4, 6, 0)]

    async def all_at_once() -> list[BaseException | None]:
        tries = [stores[i % 3].spend(A, RECEIVER, NonceNs(nonce), NOW) for i, nonce in enumerate(nonces)]
        return await asyncio.gather(*tries, return_exceptions=True)

    assert kind.run(all_at_once()) == [None] * 10
    assert [spend(kind, stores[0], nonce) for nonce in nonces] == ["replayed"] * 10


def test_the_same_request_sent_to_all_workers_at_once_is_accepted_by_one(kind: Kind) -> None:
    stores = [kind.open() for _ in range(4)]

    async def race(nonce: int) -> int:
        tries = [store.spend(A, RECEIVER, NonceNs(nonce), NOW) for store in stores * 4]
        return sum(result is None for result in await asyncio.gather(*tries, return_exceptions=True))

    assert [kind.run(race(NOW + number)) for number in range(20)] == [1] * 20


def test_what_expired_leaves_and_never_comes_back(kind: Kind) -> None:
    store = kind.open()
    for number in range(5):
        assert spend(kind, store, NOW + number * S) is None
    later = NOW + int(RETENTION_S * S) + 120 * S
    kind.run(store.tick(later))
    assert spend(kind, store, NOW, now=later) == "before_start"
    assert spend(kind, store, NOW + 4 * S, now=NOW) == "before_start"  # nor for a clock that has stepped back
    assert spend(kind, store, later, now=later) is None
    kind.run(store.tick(later + S))
    assert spend(kind, store, later, now=later) == "replayed"


def test_within_the_retention_all_stays(kind: Kind) -> None:
    store = kind.open()
    assert spend(kind, store, NOW) is None
    kind.run(store.tick(NOW + int(RETENTION_S * S) - S))
    assert spend(kind, store, NOW) == "replayed"


def test_a_clock_that_steps_an_hour_back_reopens_nothing_and_one_that_returns_is_served(kind: Kind) -> None:
    store = kind.open()
    for minute in range(0, 60, 5):
        assert spend(kind, store, NOW + minute * 60 * S, now=NOW + minute * 60 * S) is None
        kind.run(store.tick(NOW + minute * 60 * S))
    kind.run(store.tick(NOW))
    for minute in range(0, 60, 5):
        assert spend(kind, store, NOW + minute * 60 * S, now=NOW) in {"replayed", "before_start"}
    assert spend(kind, store, NOW + 3600 * S, now=NOW + 3600 * S) is None


def test_a_clock_that_steps_an_hour_ahead_and_returns_costs_no_new_request(kind: Kind) -> None:
    store = kind.open()
    assert spend(kind, store, NOW) is None
    kind.run(store.tick(NOW + 3600 * S))
    assert spend(kind, store, NOW) is not None
    kind.run(store.tick(NOW + 61 * S))
    assert spend(kind, store, NOW + 61 * S, now=NOW + 61 * S) is None
    assert spend(kind, store, NOW + 61 * S, now=NOW + 61 * S) == "replayed"


def test_monotonic_nonces_only_rise(kind: Kind) -> None:
    first, second = kind.open(), kind.open()
    uuid = str(uuid1())
    assert advance(kind, first, uuid, 5) is None
    assert advance(kind, second, uuid, 5) == "replayed"
    assert advance(kind, second, uuid, 4) == "replayed"
    assert advance(kind, second, uuid, 6) is None
    assert advance(kind, first, uuid, 6) == "replayed"
    assert advance(kind, first, uuid, 5, receiver=OTHER) is None
    assert advance(kind, first, str(uuid1()), 1) is None


def test_parallel_advances_of_one_uuid_never_accept_one_nonce_twice(kind: Kind) -> None:
    stores = [kind.open() for _ in range(3)]
    uuid = str(uuid1())

    async def race() -> list[BaseException | None]:
        tries = [store.advance(A, RECEIVER, uuid, 7) for store in stores]
        return await asyncio.gather(*tries, return_exceptions=True)

    assert [result is None for result in kind.run(race())].count(True) == 1
    assert advance(kind, stores[0], uuid, 7) == "replayed"


class Model(RuleBasedStateMachine):
    """Two workers over one memory, against a plain set."""

    kind: Kind
    fresh = itertools.count()

    @initialize()
    def begin(self) -> None:
        self.base = NOW + next(self.fresh) * 3600 * S  # an hour of its own for every example
        self.now = self.base
        self.accepted: set[tuple[bytes, bytes, int]] = set()
        self.stores = [self.kind.open(), self.kind.open()]

    @rule(worker=st.integers(0, 1), sender=st.sampled_from([A, B]), receiver=st.sampled_from([RECEIVER, OTHER]),
          age_s=st.integers(-4, 128))  # fmt: skip
    def request(self, worker: int, sender: PublicKey, receiver: PublicKey, age_s: int) -> None:
        nonce = self.now - age_s * S
        refused = spend(self.kind, self.stores[worker], nonce, sender=sender, receiver=receiver, now=self.now)
        if (sender, receiver, nonce) in self.accepted:
            assert refused in {"replayed", "before_start"}
        elif nonce > self.base - 200 * S and self.now <= self.base + 100 * S:
            assert refused is None  # nothing has expired yet: whatever is fresh is taken
        if refused is None:
            self.accepted.add((sender, receiver, nonce))

    @rule(step_s=st.integers(0, 40))
    def time_passes(self, step_s: int) -> None:
        self.now = min(self.now + step_s * S, self.base + 1500 * S)

    @rule(worker=st.integers(0, 1))
    def housekeeping(self, worker: int) -> None:
        self.kind.run(self.stores[worker].tick(self.now))

    @rule(worker=st.integers(0, 1))
    def restart(self, worker: int) -> None:
        self.kind.run(self.stores[worker].close())
        self.stores[worker] = self.kind.open()


def test_two_workers_are_as_good_as_a_plain_set(kind: Kind) -> None:
    class Here(Model):
        pass

    Here.kind = kind
    run_state_machine_as_test(Here, settings=settings(max_examples=20, stateful_step_count=30, deadline=None))
