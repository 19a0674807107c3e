"""The replay store: once each, across processes, kills, restarts and clock steps."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import Refusal, UserError
from serving.nonces import store as nonces
from serving.nonces.store import AHEAD_BYTES, LEAD_NS, NonceStore, open_store, prepare_store
from serving.types import NonceNs
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, BOB, MINER

T0 = 1_795_370_737_000_000_000
S = 10**9
A, B, RECEIVER = (PublicKey(pair.public_key) for pair in (ALICE, BOB, MINER))


@contextmanager
def opened(folder: Path, *, retention_s: float = 60.0) -> Iterator[NonceStore]:
    with open_store(folder) as env:
        yield NonceStore(env, folder, retention_s=retention_s)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare_store(tmp_path / "nonces", T0 - 60 * S)
    return tmp_path / "nonces"


def accepts(store: NonceStore, sender: PublicKey, nonce: int, now_ns: int = T0, receiver: PublicKey = RECEIVER) -> bool:
    try:
        asyncio.run(store.spend(sender, receiver, NonceNs(nonce), now_ns))
    except Refusal:
        return False
    return True


def code(store: NonceStore, nonce: int, now_ns: int = T0) -> str | None:
    """The refusal's code, None when accepted."""
    try:
        asyncio.run(store.spend(A, RECEIVER, NonceNs(nonce), now_ns))
    except Refusal as refused:
        return refused.code
    return None


def test_a_pair_is_accepted_once(folder: Path) -> None:
    with opened(folder) as store:
        assert accepts(store, A, T0)
        assert not accepts(store, A, T0)
        assert accepts(store, B, T0)
        assert store.count() == 2


def test_parallel_requests_may_come_in_any_order(folder: Path) -> None:
    with opened(folder) as store:
        assert all(accepts(store, A, T0 - offset) for offset in (5, 1, 3, 2, 4))
        assert not any(accepts(store, A, T0 - offset) for offset in (1, 2, 3, 4, 5))


def test_one_nonce_may_serve_two_miners_of_a_box(folder: Path) -> None:
    with opened(folder) as store:
        assert accepts(store, A, T0, receiver=RECEIVER)
        assert accepts(store, A, T0, receiver=B)
        assert not accepts(store, A, T0, receiver=B)


def test_a_restart_remembers(folder: Path) -> None:
    with opened(folder) as store:
        assert accepts(store, A, T0)
    prepare_store(folder, T0 + S)
    with opened(folder) as store:
        assert not accepts(store, A, T0, T0 + S)
        assert accepts(store, A, T0 - S, T0 + S)  # no floor where the set itself is there


def test_entries_expire_and_leave_a_barrier_that_a_clock_step_cannot_cross(folder: Path) -> None:
    with opened(folder, retention_s=60.0) as store:
        for number in range(1200):
            assert accepts(store, A, T0 + number)
        asyncio.run(store.tick(T0 + 61 * S))
        assert store.count() == 0
        assert not accepts(store, A, T0 + 5, T0)  # the clock stepped back by a minute
        assert accepts(store, A, T0 + 1200, T0 + 61 * S)


def test_what_is_within_the_retention_stays(folder: Path) -> None:
    with opened(folder, retention_s=60.0) as store:
        assert accepts(store, A, T0)
        asyncio.run(store.tick(T0 + 59 * S))
        assert not accepts(store, A, T0)


def test_a_first_start_refuses_what_was_signed_before_it(tmp_path: Path) -> None:
    prepare_store(tmp_path / "nonces", T0)
    with opened(tmp_path / "nonces") as store:
        assert not accepts(store, A, T0 - 1)
        assert accepts(store, A, T0 + 1)


@pytest.mark.parametrize("loss", ["boot", "data"])
def test_after_a_crash_of_the_machine_the_floor_stands_in_for_the_set(
    folder: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = [T0, T0 + 2 * S, T0 + 4 * S]
    with opened(folder) as store:
        assert all(accepts(store, A, nonce, T0) for nonce in accepted)
    if loss == "boot":
        monkeypatch.setattr(nonces, "boot_id", lambda: "another boot")
    else:
        (folder / "data.mdb").write_bytes(b"garbage" * 4096)
    prepare_store(folder, T0 + S)
    with opened(folder) as store:
        assert not any(accepts(store, A, nonce, T0 + S) for nonce in accepted)
        assert accepts(store, A, T0 + LEAD_NS + S, T0 + LEAD_NS + S)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_the_floor_on_disk_is_never_below_an_accepted_nonce(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("nonces")
    prepare_store(folder, T0)
    now = T0
    with opened(folder) as store:
        for step in steps:
            now += step * S
            nonce = now + 4 * S
            accepts(store, A, nonce, now)
            assert json.loads((folder / "floor.json").read_bytes())["floor"] >= nonce


_RACER = """
import asyncio
import sys
from pathlib import Path
from serving.errors import Refusal
from serving.nonces.store import NonceStore, open_store
folder, key, first, count = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = NonceStore(open_store(folder), folder, retention_s=60.0)
print("ready", flush=True)
sys.stdin.readline()
won = []
async def race():
    for nonce in range(first, first + count):
        try:
            await store.spend(key, bytes(32), nonce, first)
        except Refusal:
            continue
        won.append(nonce)
asyncio.run(race())
print(*won, flush=True)
sys.stdin.readline()
"""


def _racer(folder: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _RACER, str(folder), A.hex(), str(T0), str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
def test_two_processes_share_the_store_and_a_kill_loses_nothing(folder: Path) -> None:
    racers = [_racer(folder, 3000), _racer(folder, 3000)]
    try:
        assert [_hear(racer) for racer in racers] == ["ready", "ready"]
        for racer in racers:
            _say(racer, "go")
        won = [set(map(int, _hear(racer).split())) for racer in racers]
        assert not won[0] & won[1]
        assert won[0] | won[1] == set(range(T0, T0 + 3000))
        for racer in racers:  # no goodbye: what they accepted must be there nevertheless
            os.kill(racer.pid, signal.SIGKILL)
            racer.wait()
        prepare_store(folder, T0 + S)
        with opened(folder) as store:
            assert store.count() == 3000
            nobody = PublicKey(bytes(32))
            assert not any(accepts(store, A, nonce, T0 + S, nobody) for nonce in range(T0, T0 + 3000, 100))
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


_DIES_AS_A_READER = """
import os
import sys
from pathlib import Path
from serving.nonces.store import open_store
with open_store(Path(sys.argv[1])).begin() as txn:
    txn.get(b"x")
os._exit(9)
"""


def test_workers_that_died_keep_no_place_among_the_readers(folder: Path) -> None:
    env, dead = open_store(folder), []
    with env:  # while anybody has it open, the list of readers stays
        for _ in range(3):
            worker = subprocess.Popen(
                [sys.executable, "-c", _DIES_AS_A_READER, str(folder)], cwd=Path(__file__).parents[3]
            )
            assert worker.wait(60) == 9
            dead.append(str(worker.pid))
        listed = env.readers().split()
        assert [pid for pid in dead if pid in listed] == dead[-1:]


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_accepting_blocks_nobody(folder: Path) -> None:
    racer = _racer(folder, 10**7)
    try:
        assert _hear(racer) == "ready"
        _say(racer, "go")
        with opened(folder) as store:
            end = time.monotonic() + 60
            while store.count() < 1000 and time.monotonic() < end:
                pass
            os.kill(racer.pid, signal.SIGKILL)
            racer.wait()
            before = store.count()
            assert before >= 1000
            assert accepts(store, B, T0)
            assert store.count() - before in {1, 2}  # the killed one's last may be on record, and not yet counted
    finally:
        racer.kill()
        racer.communicate()


def test_a_full_store_refuses_until_something_expired(folder: Path) -> None:
    with open_store(folder) as env:
        store = NonceStore(env, folder, retention_s=60.0, most=3)
        assert [accepts(store, A, T0 + number) for number in range(3)] == [True] * 3
        asyncio.run(store.tick(T0))
        assert code(store, T0 + 3) == "replay_store_full"
        assert code(store, T0) == "replay_store_full"  # nothing is looked up either: never a wrong "accepted"
        later = T0 + 61 * S
        asyncio.run(store.tick(later))
        assert code(store, later, later) is None
        assert code(store, T0, T0) == "before_start"


def test_a_map_without_room_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonces, "MAP_BYTES", 128 * 1024)
    with opened(folder) as store:
        codes = [code(store, T0 + number) for number in range(2000)]
        accepted = codes.index("replay_store_full")
        assert codes[:accepted] == [None] * accepted
        assert set(codes[accepted:]) == {"replay_store_full"}
    monkeypatch.undo()
    with opened(folder) as store:
        assert store.count() == accepted
        assert {code(store, T0 + number) for number in range(accepted)} == {"replayed"}


def test_a_data_file_that_was_cut_short_is_begun_anew(folder: Path) -> None:
    with opened(folder) as store:
        assert all(accepts(store, A, T0 + number) for number in range(500))
    data = folder / "data.mdb"
    os.truncate(data, 5 * 4096)
    prepare_store(folder, T0 + S)
    with opened(folder) as store:
        assert {code(store, T0 + number, T0 + S) for number in range(500)} == {"before_start"}
        assert code(store, T0 + 40 * S, T0 + 40 * S) is None


def test_a_floor_that_a_wrong_clock_put_up_comes_down_again(folder: Path) -> None:
    def floor() -> int:
        return int(json.loads((folder / "floor.json").read_bytes())["floor"])

    with opened(folder) as store:
        asyncio.run(store.tick(T0 + 3600 * S))
        assert floor() >= T0 + 3600 * S
        assert code(store, T0) is None
        asyncio.run(store.tick(T0))
        assert T0 + 3 * S < floor() <= T0 + LEAD_NS
        ahead = T0 + 3600 * S  # accepted while the clock is wrong: below that it never comes down
        assert code(store, ahead, ahead) is None
        asyncio.run(store.tick(T0))
        assert floor() >= ahead


_ON_A_DISK_THAT_FAILS = """
import asyncio, resource, sys
from pathlib import Path
from serving.errors import Refusal
from serving.nonces.store import NonceStore, open_store
folder, key, now = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
store = NonceStore(open_store(folder), folder, retention_s=60.0)
async def codes():
    for nonce in (now, now + 1, now + 2, now + 3600 * 10**9):
        if nonce == now + 1:  # every write fails, but in the room that was set aside
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        if nonce == now + 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if nonce > now + 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # the floor cannot be put up
        try:
            await store.spend(key, bytes(32), nonce, nonce)
        except Refusal as refused:
            yield refused.code
        else:
            yield "accepted"
async def main():
    print([code async for code in codes()], flush=True)
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_disk_that_takes_nothing_leaves_no_nonce_forgotten(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_DISK_THAT_FAILS, str(folder), A.hex(), str(T0)],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "['accepted', 'accepted', 'accepted', 'replay_store_down']", done.stderr
    with opened(folder) as store:
        assert store.count() == 3
        nobody = PublicKey(bytes(32))
        assert not any(accepts(store, A, T0 + number, receiver=nobody) for number in range(3))


def test_without_room_on_the_disk_requests_are_refused_until_there_is_some(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with opened(folder) as store:
        assert accepts(store, A, T0)
        with monkeypatch.context() as disk:
            disk.setattr(os, "posix_fallocate", full)
            asyncio.run(store.tick(T0))
            assert code(store, T0 + 1) == "replay_store_full"
        asyncio.run(store.tick(T0))
        assert accepts(store, A, T0 + 1)
        assert not accepts(store, A, T0)


def test_the_room_for_what_comes_next_is_on_the_disk_and_no_more(folder: Path) -> None:
    with opened(folder) as store:
        assert all(accepts(store, A, T0 + number) for number in range(1000))
        asyncio.run(store.tick(T0))
    used = (folder / "data.mdb").stat().st_blocks * 512
    assert AHEAD_BYTES <= used < AHEAD_BYTES + 1024 * 1024


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "nonces").write_text("a file")
    with pytest.raises(UserError, match="cannot be written") as refused:
        prepare_store(tmp_path / "nonces", T0)
    assert "\n" not in str(refused.value)


async def test_a_floor_that_holds_no_text_is_written_anew(folder: Path) -> None:
    prepare_store(folder, T0)
    (folder / "floor.json").write_bytes(b'{"boot":"\xff\xfe","floor":1}')
    with opened(folder) as store:
        await store.spend(A, RECEIVER, NonceNs(T0 + 40 * S), T0 + 41 * S)
    assert json.loads((folder / "floor.json").read_bytes())["floor"] == T0 + 41 * S + LEAD_NS
