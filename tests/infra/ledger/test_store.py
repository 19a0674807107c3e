"""The ledger on a real SQLite file: what it keeps, what it refuses, and who wins a race."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ledger import Fenced, Ledger, LedgerError, moves, open_ledger
from infra.ledger.engine import head
from infra.ledger.models import APPEND_ONLY, Base
from infra.settings import Settings
from serving.state import Canary, SlotRoute
from tests.infra.ledger.helpers import FIRST, GOOD, add, report, sha

SLOT = "synth-high"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    times = iter(range(1_000, 100_000))
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", now=lambda: float(next(times)))
    made.migrate()
    yield made
    made.close()


def adopted(ledger: Ledger, name: str = "first") -> str:
    entry = add(ledger, name)
    report(ledger, entry, None)
    ledger.move(SLOT, moves.adopt(entry.id), kind="adopt", release=entry.id, actor="test", reason="first")
    return entry.id


def test_migrating_makes_the_tables_of_the_models_and_again_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    ledger = open_ledger(Settings(home=tmp_path, ledger_url=f"sqlite:///{path}"))
    ledger.migrate()
    ledger.close()
    with sqlite3.connect(path) as raw:
        for table in Base.metadata.tables.values():
            found = {row[1]: bool(row[3]) for row in raw.execute(f"PRAGMA table_info({table.name})")}
            assert found == {column.name: not column.nullable for column in table.columns}, table.name
        assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == (head(),)
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()


def test_many_that_migrate_at_once_all_find_the_tables(tmp_path: Path) -> None:
    url, failures = f"sqlite:///{tmp_path / 'ledger.db'}", []

    def migrate() -> None:
        ledger = Ledger(url)
        try:
            ledger.migrate()
            ledger.releases()
        except LedgerError as error:
            failures.append(error)
        finally:
            ledger.close()

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_newer_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(LedgerError, match="newer than this Headframe"):
        ledger.migrate()


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x/y", "sqlite:////proc/nowhere/ledger.db"])
def test_a_bad_url_is_one_clear_line(url: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger(url).migrate()
    assert "\n" not in str(caught.value)


def test_the_same_release_twice_is_one_entry_and_keeps_its_first_author(ledger: Ledger) -> None:
    first = add(ledger, "a", mlflow_run_id="run")
    again = ledger.record_release(
        sha256=first.sha256, id=first.id, slot=first.slot, family="other", data_digest="", actor="someone else"
    )
    assert again == first
    assert ledger.releases() == [first]
    assert ledger.release(first.id) == ledger.release(first.sha256) == first


def test_an_id_with_another_hash_is_refused(ledger: Ledger) -> None:
    first = add(ledger, "a")
    with pytest.raises(LedgerError, match="another hash"):
        ledger.record_release(sha256=sha("b"), id=first.id, slot=first.slot, family="f", data_digest="", actor="test")


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize("statement", ["UPDATE {} SET actor = 'me'", "DELETE FROM {}"])
def test_history_cannot_be_altered_even_by_sql(ledger: Ledger, tmp_path: Path, table: str, statement: str) -> None:
    adopted(ledger)
    raw = sqlite3.connect(tmp_path / "ledger.db")
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        raw.execute(statement.format(table))
    raw.close()


def test_a_report_cannot_pass_without_its_score_or_beside_a_failure(ledger: Ledger) -> None:
    entry = add(ledger, "a")
    with pytest.raises(LedgerError, match="score"):
        report(ledger, entry, entry, "pass", FIRST)
    with pytest.raises(LedgerError, match="fails"):
        report(ledger, entry, entry, "pass", {**GOOD, "latency": "fail"})
    assert ledger.latest_gate(entry.sha256) is None


def test_the_newest_report_counts(ledger: Ledger) -> None:
    first, entry = add(ledger, "champion"), add(ledger, "a")
    report(ledger, entry, first, "pass")
    report(ledger, entry, first, "fail", {**GOOD, "score": "fail"})
    newest = ledger.latest_gate(entry.sha256)
    assert newest is not None
    assert (newest.verdict, newest.champion_sha256, newest.number) == ("fail", first.sha256, 2)
    assert [gate.number for gate in ledger.gates(SLOT)] == [1, 2]


def test_the_newest_ungated_release_is_the_one_to_gate(ledger: Ledger) -> None:
    assert ledger.newest_ungated(SLOT) is None
    a, b = add(ledger, "a"), add(ledger, "b")
    add(ledger, "c", slot="synth-low")
    assert ledger.newest_ungated(SLOT) == b
    report(ledger, b, None)
    assert ledger.newest_ungated(SLOT) == a


def test_nothing_becomes_stable_without_a_report_for_that_hash(ledger: Ledger) -> None:
    entry = add(ledger, "a")
    move = moves.adopt(entry.id)
    with pytest.raises(LedgerError, match="no gate report"):
        ledger.move(SLOT, move, kind="adopt", release=entry.id, actor="test", reason="")
    report(ledger, entry, None, "fail", {**FIRST, "validity": "fail"})
    with pytest.raises(LedgerError, match="needs no champion"):
        ledger.move(SLOT, move, kind="adopt", release=entry.id, actor="test", reason="")
    assert ledger.slot(SLOT).stage == "empty"
    assert ledger.transitions() == []


def test_a_release_of_another_slot_is_refused(ledger: Ledger) -> None:
    entry = add(ledger, "a", slot="synth-low")
    report(ledger, entry, None)
    with pytest.raises(LedgerError, match="no release of this slot"):
        ledger.move(SLOT, moves.adopt(entry.id), kind="adopt", release=entry.id, actor="test", reason="")


def test_routes_follow_every_stage(ledger: Ledger) -> None:
    first = adopted(ledger)
    second = add(ledger, "second")
    report(ledger, second, ledger.release(first))

    def go(move: moves.Move, kind: str) -> SlotRoute:
        ledger.move(SLOT, move, kind=kind, release=second.id, actor="test", reason="on")  # type: ignore[arg-type]
        return ledger.route_table().slots[SLOT]  # type: ignore[index]

    assert go(moves.start(second.id), "start") == SlotRoute(stable=first)  # type: ignore[arg-type]
    assert go(moves.to_shadow, "shadow") == SlotRoute(stable=first, shadow=second.id)  # type: ignore[arg-type]
    canary = go(moves.to_canary(2_500), "canary")
    assert canary == SlotRoute(stable=first, canary=Canary(second.id, 2_500))  # type: ignore[arg-type]
    assert go(moves.promote, "promote") == SlotRoute(stable=second.id, fallback=first)  # type: ignore[arg-type]
    assert go(moves.rollback, "rollback") == SlotRoute(stable=first)  # type: ignore[arg-type]
    assert ledger.route_table().generation == len(ledger.transitions()) == 6


def test_who_takes_a_slot_fences_out_the_one_before(ledger: Ledger, tmp_path: Path) -> None:
    first = adopted(ledger)
    second = add(ledger, "second")
    report(ledger, second, ledger.release(first))
    ledger.move(SLOT, moves.start(second.id), kind="start", release=second.id, actor="test", reason="")
    other = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    mine = ledger.take(SLOT, "slow ticker")
    theirs = other.take(SLOT, "quick ticker")
    with pytest.raises(Fenced, match="quick ticker") as caught:
        ledger.move(SLOT, moves.to_shadow, kind="shadow", release=second.id, actor="slow", reason="", token=mine.token)
    assert caught.value.exit_code == 3
    other.move(SLOT, moves.to_shadow, kind="shadow", release=second.id, actor="quick", reason="", token=theirs.token)
    other.close()
    assert [t.actor for t in ledger.transitions(SLOT)][-1] == "quick"


def test_of_two_promotions_that_race_one_wins_and_the_other_is_told(tmp_path: Path, ledger: Ledger) -> None:
    first = adopted(ledger)
    second = add(ledger, "second")
    report(ledger, second, ledger.release(first))
    barrier, results = threading.Barrier(2), []

    def promote(name: str) -> None:
        mine = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
        barrier.wait()
        try:
            mine.move(SLOT, moves.start(second.id), kind="start", release=second.id, actor=name, reason="")
            results.append("won")
        except LedgerError as error:
            results.append(str(error))
        finally:
            mine.close()

    threads = [threading.Thread(target=promote, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = ledger.transitions(SLOT)[-1].actor
    assert sorted(results, key=len)[0] == "won"
    assert f"last touched by {winner}" in sorted(results, key=len)[1]
