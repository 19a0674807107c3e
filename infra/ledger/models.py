"""The ledger's tables. Releases, gates and transitions are append-only: triggers refuse anything else."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, CheckConstraint, Float, ForeignKey, Index, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of the ledger."""


class ReleaseRow(Base):
    """A published release."""

    __tablename__ = "releases"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(128), unique=True)
    slot: Mapped[str] = mapped_column(String(64), index=True)
    family: Mapped[str] = mapped_column(String(64))
    data_digest: Mapped[str] = mapped_column(String(64))
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    rebuild: Mapped[dict[str, Any]] = mapped_column(JSON)
    actor: Mapped[str] = mapped_column(String(128))
    at: Mapped[float] = mapped_column(Float)


class GateRow(Base):
    """A stored report of the gate."""

    __tablename__ = "gates"
    __table_args__ = (CheckConstraint("verdict IN ('pass', 'fail', 'inconclusive')", name="gates_verdict"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    release_sha256: Mapped[str] = mapped_column(ForeignKey("releases.sha256"), index=True)
    champion_sha256: Mapped[str | None] = mapped_column(ForeignKey("releases.sha256"))
    verdict: Mapped[str] = mapped_column(String(16))
    checks: Mapped[dict[str, Any]] = mapped_column(JSON)
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    report_sha256: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(128))
    at: Mapped[float] = mapped_column(Float)


class SlotRow(Base):
    """A slot's state now: one row a slot, so one stable a slot."""

    __tablename__ = "slots"
    __table_args__ = (
        CheckConstraint("stage IN ('empty', 'settled', 'starting', 'shadow', 'canary')", name="slots_stage"),
        CheckConstraint("(stage = 'empty') = (stable IS NULL)", name="slots_one_stable"),
        CheckConstraint("(stage IN ('empty', 'settled')) = (candidate IS NULL)", name="slots_candidate"),
        CheckConstraint("canary_bp BETWEEN 0 AND 10000", name="slots_canary_bp"),
    )

    slot: Mapped[str] = mapped_column(String(64), primary_key=True)
    stage: Mapped[str] = mapped_column(String(16))
    stable: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    candidate: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    fallback: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    canary_bp: Mapped[int] = mapped_column(Integer)
    since: Mapped[float] = mapped_column(Float)
    generation: Mapped[int] = mapped_column(Integer)
    token: Mapped[int] = mapped_column(Integer)
    holder: Mapped[str] = mapped_column(String(128))


class TransitionRow(Base):
    """A change of a slot."""

    __tablename__ = "transitions"
    __table_args__ = (Index("transitions_slot_at", "slot", "at"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    slot: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    before: Mapped[str] = mapped_column(String(16))
    after: Mapped[str] = mapped_column(String(16))
    release: Mapped[str] = mapped_column(ForeignKey("releases.id"))
    stable: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(String(1000))
    token: Mapped[int] = mapped_column(Integer)
    at: Mapped[float] = mapped_column(Float)


APPEND_ONLY = ("releases", "gates", "transitions")
