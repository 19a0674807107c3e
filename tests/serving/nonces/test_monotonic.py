"""Nonces that are no times: only ever upwards, and never forgotten without a trace."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.nonces.monotonic import MOST_UUIDS, Last, MonotonicStore, advanced, made_ns
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, MINER

A, RECEIVER = PublicKey(ALICE.public_key), PublicKey(MINER.public_key)
START = 1_700_000_000 * 10**9


def uuid_of(at_ns: int, node: int = 1) -> str:
    """A uuid of version 1 made at this time."""
    steps = at_ns // 100 + 0x01B21DD213814000
    fields = (steps & 0xFFFFFFFF, steps >> 32 & 0xFFFF, (steps >> 48 & 0x0FFF) | 0x1000, 0x80, 1, node)
    return str(UUID(fields=fields))


def code(last: Last, uuid: str, nonce: int, since: int = 0) -> str:
    with pytest.raises(Refusal) as refused:
        advanced(last, uuid, nonce, since=since)
    return refused.value.code


def test_the_time_in_a_uuid() -> None:
    assert made_ns("c232ab00-9414-11ec-b3c8-9f6bdeced846") == 1_645_557_742 * 10**9  # RFC 9562, appendix A.1
    assert made_ns(uuid_of(START)) == START
    assert made_ns(str(uuid4())) is None
    assert made_ns("None") is None
    assert made_ns("") is None


def test_when_there_are_too_many_the_oldest_leaves_and_nothing_as_old_is_taken_again() -> None:
    last = Last({})
    for number in range(MOST_UUIDS):
        last = advanced(last, uuid_of(START + number * 1000), 5)
    newer = advanced(last, uuid_of(START + 10**9), 5)
    assert len(newer.nonces) == MOST_UUIDS
    assert code(newer, uuid_of(START), 10**12) == "uuid_too_old"
    assert code(newer, uuid_of(START, node=2), 5) == "uuid_too_old"
    assert code(newer, uuid_of(START + 1000), 5) == "replayed"
    assert advanced(newer, uuid_of(START + 1000), 6).nonces[uuid_of(START + 1000)] == 6
    assert code(last, uuid_of(START - 1000), 5) == "too_many_uuids"


def test_uuids_that_tell_no_time_are_kept_and_new_ones_refused() -> None:
    last = Last({})
    for _ in range(MOST_UUIDS):
        last = advanced(last, str(uuid4()), 5)
    assert code(last, str(uuid4()), 5) == "too_many_uuids"
    assert code(last, uuid_of(START), 5) == "too_many_uuids"
    assert all(code(last, uuid, 5) == "replayed" for uuid in last.nonces)


def test_after_a_loss_only_what_was_made_later_is_taken() -> None:
    assert code(Last({}), uuid_of(START), 5, since=START) == "uuid_too_old"
    assert code(Last({}), str(uuid4()), 5, since=START) == "uuid_too_old"
    assert advanced(Last({}), uuid_of(START + 100), 5, since=START).nonces


@given(st.lists(st.tuples(st.integers(0, 2 * MOST_UUIDS), st.booleans(), st.integers(0, 3)), max_size=400))
def test_no_pair_is_ever_accepted_twice(tries: list[tuple[int, bool, int]]) -> None:
    last, accepted = Last({}), set[tuple[str, int]]()
    for number, dated, nonce in tries:
        uuid = uuid_of(START + number * 100) if dated else f"caller {number}"
        try:
            last = advanced(last, uuid, nonce)
        except Refusal:
            continue
        assert (uuid, nonce) not in accepted
        accepted.add((uuid, nonce))
        assert len(last.nonces) <= MOST_UUIDS


def test_a_restart_remembers(tmp_path: Path) -> None:
    store = MonotonicStore(tmp_path)
    store.advance(A, RECEIVER, "u", 5)
    store.close()
    again = MonotonicStore(tmp_path)
    with pytest.raises(Refusal) as refused:
        again.advance(A, RECEIVER, "u", 5)
    assert refused.value.code == "replayed"
    again.advance(A, RECEIVER, "u", 6)
    again.close()


def test_a_garbled_file_refuses_and_accepts_nothing(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"garbage" * 4096)
    with pytest.raises(Refusal) as refused:
        MonotonicStore(tmp_path).advance(A, RECEIVER, "u", 5)
    assert (refused.value.status, refused.value.code) == (503, "replay_store_down")


def test_a_file_that_is_no_record_refuses(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as txn:
        txn.put(A + RECEIVER, b"\xc1")
    store = MonotonicStore(tmp_path)
    with pytest.raises(Refusal) as refused:
        store.advance(A, RECEIVER, "u", 5)
    assert refused.value.code == "replay_store_down"
    store.close()
