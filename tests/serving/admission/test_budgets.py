"""Budgets by hotkey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from serving.admission.budgets import Budgets
from serving.errors import Refusal
from serving.nonces.store import open_store, prepare_store
from serving.wire.keys import PublicKey
from tests.serving.callers import ALICE, BOB

S = 10**9
T0 = 1_795_370_737 * S
A, B = PublicKey(ALICE.public_key), PublicKey(BOB.public_key)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    prepare_store(tmp_path / "store", T0)
    with open_store(tmp_path / "store") as opened:
        yield opened


def spent(budgets: Budgets, key: PublicKey, now_ns: int) -> int | None:
    """None when accepted, else the seconds to wait."""
    try:
        budgets.spend(key, now_ns)
    except Refusal as refused:
        return refused.retry_after if refused.status == 429 else -1
    return None


def test_a_burst_then_the_sustained_rate(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=2.0, burst=4)
    assert [spent(budgets, A, T0) for _ in range(5)] == [None, None, None, None, 1]
    assert spent(budgets, B, T0) is None
    assert [spent(budgets, A, T0 + S) for _ in range(3)] == [None, None, 1]


def test_a_budget_is_shared_by_whoever_has_the_store(env: lmdb.Environment) -> None:
    first, second = Budgets(env, per_s=1.0, burst=2), Budgets(env, per_s=1.0, burst=2)
    assert spent(first, A, T0) is None
    assert spent(second, A, T0) is None
    assert spent(first, A, T0) == 1
    assert spent(second, A, T0) == 1


def test_a_budget_is_looked_at_without_being_charged(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=1.0, burst=2)
    for _ in range(10):
        budgets.check(A, T0)
    assert [spent(budgets, A, T0) for _ in range(2)] == [None, None]
    with pytest.raises(Refusal) as refused:
        budgets.check(A, T0)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "over_budget", 1)
    budgets.check(A, T0 + S)


def test_a_clock_that_steps_back_locks_nobody_out(env: lmdb.Environment) -> None:
    budgets = Budgets(env, per_s=1.0, burst=2)
    assert spent(budgets, A, T0 + 3600 * S) is None
    assert spent(budgets, A, T0) is None


def test_a_budget_that_cannot_be_written_down_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.nonces.store.MAP_BYTES", 64 * 1024)
    with open_store(tmp_path / "nonces") as env:
        budgets = Budgets(env, per_s=1.0, burst=5)
        codes = set()
        for number in range(3000):
            try:
                budgets.spend(PublicKey(number.to_bytes(32, "big")), 10**18)
            except Refusal as refused:
                codes.add((refused.status, refused.code))
        assert codes == {(503, "replay_store_down")}
