"""The `Ledger`: every read and write, each in one transaction."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from infra.ledger import engine as database
from infra.ledger.entries import GateEntry, Kind, Outcome, ReleaseEntry, SlotState, TransitionEntry, Verdict
from infra.ledger.errors import Fenced, LedgerError
from infra.ledger.models import GateRow, ReleaseRow, SlotRow, TransitionRow
from infra.ledger.moves import Move
from infra.ledger.rows import gate_entry, release_entry, slot_route, slot_row, slot_state, transition_entry
from infra.settings import Settings
from serving.state import RouteTable
from serving.types import ReleaseId, Sha256, SlotName

CHAMPIONLESS = ("integrity", "load", "validity", "latency")
"""The checks of the gate that need no champion: a slot's first release must pass them all."""


def open_ledger(settings: Settings) -> Ledger:
    """The ledger of these settings, migrated."""
    ledger = Ledger(settings.ledger_url or f"sqlite:///{settings.paths.ledger}")
    ledger.migrate()
    return ledger


class Ledger:
    """Releases, gate reports, slot states and transitions.

    Every failure of the database is a LedgerError of one line. Times are unix seconds, UTC.
    """

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        self._engine = database.make_engine(url)
        self._now = now

    def migrate(self) -> None:
        """Bring the tables up to date; does nothing when they are."""
        database.migrate(self._engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    # releases

    def record_release(
        self,
        *,
        sha256: Sha256,
        id: ReleaseId,
        slot: SlotName,
        family: str,
        data_digest: str,
        actor: str,
        mlflow_run_id: str | None = None,
        rebuild: Mapping[str, Any] | None = None,
    ) -> ReleaseEntry:
        """Append a release; the same hash a second time gives the first entry back."""
        row = ReleaseRow(
            sha256=sha256, id=id, slot=slot, family=family, data_digest=data_digest, mlflow_run_id=mlflow_run_id,
            rebuild=dict(rebuild or {}), actor=actor, at=self._now(),
        )  # fmt: skip
        with database.plainly(self._engine), Session(self._engine) as session:
            known = session.get(ReleaseRow, sha256)
            if known is None:
                session.add(row)
                try:
                    session.commit()
                except IntegrityError as error:
                    raise LedgerError(f"release {id} exists with another hash than {sha256[:12]}") from error
                known = row
            return release_entry(known)

    def releases(self, slot: str | None = None) -> list[ReleaseEntry]:
        """All releases, or a slot's, oldest first."""
        query = select(ReleaseRow).order_by(ReleaseRow.at, ReleaseRow.id)
        if slot is not None:
            query = query.where(ReleaseRow.slot == slot)
        with self._reading() as session:
            return [release_entry(row) for row in session.scalars(query)]

    def release(self, name: str) -> ReleaseEntry:
        """One release by its id or full sha256; raises LedgerError when there is none."""
        query = select(ReleaseRow).where((ReleaseRow.id == name) | (ReleaseRow.sha256 == name))
        with self._reading() as session:
            row = session.scalars(query).first()
            if row is None:
                raise LedgerError(f"the ledger knows no release {name}; 'headframe releases' lists them")
            return release_entry(row)

    def newest_ungated(self, slot: str) -> ReleaseEntry | None:
        """The slot's newest release that no gate report exists for and that is not live, if any."""
        gated = select(GateRow.release_sha256)
        query = (
            select(ReleaseRow)
            .where(ReleaseRow.slot == slot, ReleaseRow.sha256.not_in(gated))
            .order_by(ReleaseRow.at.desc(), ReleaseRow.id)
        )
        live = self.slot(slot).live
        with self._reading() as session:
            return next((release_entry(row) for row in session.scalars(query) if row.id not in live), None)

    # gate reports

    def record_gate(
        self,
        *,
        release_sha256: Sha256,
        champion_sha256: Sha256 | None,
        verdict: Verdict,
        checks: Mapping[str, Outcome],
        report: Mapping[str, Any],
        actor: str,
    ) -> GateEntry:
        """Append a gate report; `report` must be JSON-able, and its digest is stored beside it."""
        if verdict == "pass" and checks.get("score") != "pass":
            raise LedgerError("a gate report cannot pass without a score that passes")
        if verdict == "pass" and "fail" in checks.values():
            raise LedgerError("a gate report cannot pass with a check that fails")
        text = json.dumps(report, sort_keys=True, separators=(",", ":"))
        row = GateRow(
            release_sha256=release_sha256, champion_sha256=champion_sha256, verdict=verdict, checks=dict(checks),
            report=json.loads(text), report_sha256=hashlib.sha256(text.encode()).hexdigest(), actor=actor,
            at=self._now(),
        )  # fmt: skip
        with database.plainly(self._engine), Session(self._engine) as session:
            session.add(row)
            session.commit()
            return gate_entry(row)

    def latest_gate(self, release_sha256: str) -> GateEntry | None:
        """The newest report on a release, if any."""
        with self._reading() as session:
            return _latest_gate(session, release_sha256)

    def gates(self, slot: str) -> list[GateEntry]:
        """All reports on a slot's releases, oldest first."""
        query = select(GateRow).join(ReleaseRow, ReleaseRow.sha256 == GateRow.release_sha256)
        query = query.where(ReleaseRow.slot == slot).order_by(GateRow.number)
        with self._reading() as session:
            return [gate_entry(row) for row in session.scalars(query)]

    # slots

    def slot(self, slot: str) -> SlotState:
        """A slot's state; ``empty`` when nothing was ever adopted."""
        with self._reading() as session:
            return slot_state(session.get(SlotRow, slot), slot)

    def take(self, slot: str, actor: str) -> SlotState:
        """Raise the slot's fencing token, so that whoever held it before can write no more."""
        with database.plainly(self._engine), Session(self._engine) as session:
            state = slot_state(session.get(SlotRow, slot, with_for_update=True), slot)
            state = msgspec.structs.replace(state, token=state.token + 1, holder=actor)
            session.merge(slot_row(state))
            session.commit()
            return state

    def move(
        self,
        slot: str,
        move: Move,
        *,
        kind: Kind,
        release: ReleaseId,
        actor: str,
        reason: str,
        token: int | None = None,
    ) -> SlotState:
        """Make one change of a slot and append its transition, in one transaction.

        With a `token`, raises Fenced when someone took the slot since. A release becomes stable only with a stored
        passing gate report for its hash, or by `adopt`, or because it was stable before.
        """
        with database.plainly(self._engine), Session(self._engine) as session:
            before = slot_state(session.get(SlotRow, slot, with_for_update=True), slot)
            if token is not None and before.token != token:
                raise Fenced(slot, before.holder)
            after = msgspec.structs.replace(
                move(before),
                since=self._now(),
                generation=before.generation + 1,
                token=before.token if token is not None else before.token + 1,
                holder=actor,
            )
            if after.stable != before.stable:
                _may_be_stable(session, after, kind)
            session.merge(slot_row(after))
            session.add(
                TransitionRow(
                    slot=slot,
                    kind=kind,
                    before=before.stage,
                    after=after.stage,
                    release=release,
                    stable=after.stable,
                    actor=actor,
                    reason=reason[:1000],
                    token=after.token,
                    at=after.since,
                )
            )
            session.commit()
            return after

    def transitions(self, slot: str | None = None) -> list[TransitionEntry]:
        """The changes of a slot, or of all, oldest first."""
        query = select(TransitionRow).order_by(TransitionRow.number)
        if slot is not None:
            query = query.where(TransitionRow.slot == slot)
        with self._reading() as session:
            return [transition_entry(row) for row in session.scalars(query)]

    def route_table(self) -> RouteTable:
        """What serving needs to know of every slot; the generation is the last transition's number."""
        with self._reading() as session:
            generation = session.scalar(select(func.max(TransitionRow.number))) or 0
            states = [slot_state(row, row.slot) for row in session.scalars(select(SlotRow).order_by(SlotRow.slot))]
        return RouteTable(generation, self._now(), {state.slot: slot_route(state) for state in states})

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with database.plainly(self._engine), Session(self._engine.execution_options(reading=True)) as session:
            yield session


def _may_be_stable(session: Session, after: SlotState, kind: Kind) -> None:
    """Promise 2: nothing becomes stable without a stored passing gate report for that very hash."""
    row = session.scalars(select(ReleaseRow).where(ReleaseRow.id == after.stable)).one_or_none()
    if row is None or row.slot != after.slot:
        raise LedgerError(f"slot {after.slot}: {after.stable} is no release of this slot")
    if kind == "rollback":
        was = select(TransitionRow.number).where(TransitionRow.slot == after.slot, TransitionRow.stable == after.stable)
        if session.scalars(was).first() is None:
            raise LedgerError(f"slot {after.slot}: {after.stable} was never stable")
        return
    gate = _latest_gate(session, row.sha256)
    if gate is None:
        raise LedgerError(f"{after.stable} has no gate report: run 'headframe gate --slot {after.slot}'")
    if kind == "adopt":
        if any(gate.checks.get(name) != "pass" for name in CHAMPIONLESS) or "fail" in gate.checks.values():
            raise LedgerError(f"{after.stable} does not pass every check that needs no champion: {gate.checks}")
    elif gate.verdict != "pass":
        raise LedgerError(f"{after.stable}: its newest gate report says {gate.verdict}, not pass")


def _latest_gate(session: Session, release_sha256: str) -> GateEntry | None:
    query = select(GateRow).where(GateRow.release_sha256 == release_sha256).order_by(GateRow.number.desc())
    row = session.scalars(query).first()
    return None if row is None else gate_entry(row)
