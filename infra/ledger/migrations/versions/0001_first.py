"""The first tables: releases, gates, slots, transitions; three of them append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("releases", "gates", "transitions")


def upgrade() -> None:
    op.create_table(
        "releases",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("slot", sa.String(64), nullable=False, index=True),
        sa.Column("family", sa.String(64), nullable=False),
        sa.Column("data_digest", sa.String(64), nullable=False),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.Column("rebuild", sa.JSON, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "gates",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("release_sha256", sa.String(64), sa.ForeignKey("releases.sha256"), nullable=False, index=True),
        sa.Column("champion_sha256", sa.String(64), sa.ForeignKey("releases.sha256")),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("checks", sa.JSON, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("report_sha256", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.CheckConstraint("verdict IN ('pass', 'fail', 'inconclusive')", name="gates_verdict"),
    )
    op.create_table(
        "slots",
        sa.Column("slot", sa.String(64), primary_key=True),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("stable", sa.String(128), sa.ForeignKey("releases.id")),
        sa.Column("candidate", sa.String(128), sa.ForeignKey("releases.id")),
        sa.Column("fallback", sa.String(128), sa.ForeignKey("releases.id")),
        sa.Column("canary_bp", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.CheckConstraint("stage IN ('empty', 'settled', 'starting', 'shadow', 'canary')", name="slots_stage"),
        sa.CheckConstraint("(stage = 'empty') = (stable IS NULL)", name="slots_one_stable"),
        sa.CheckConstraint("(stage IN ('empty', 'settled')) = (candidate IS NULL)", name="slots_candidate"),
        sa.CheckConstraint("canary_bp BETWEEN 0 AND 10000", name="slots_canary_bp"),
    )
    op.create_table(
        "transitions",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("slot", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("before", sa.String(16), nullable=False),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("release", sa.String(128), sa.ForeignKey("releases.id"), nullable=False),
        sa.Column("stable", sa.String(128), sa.ForeignKey("releases.id")),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_index("transitions_slot_at", "transitions", ["slot", "at"])
    for table in _APPEND_ONLY:
        _refuse_changes(table)


def _refuse_changes(table: str) -> None:
    """Let the database itself refuse an UPDATE or DELETE of the table."""
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    elif dialect == "postgresql":
        op.execute(
            f"CREATE FUNCTION {table}_append_only() RETURNS trigger AS $$ "
            f"BEGIN RAISE EXCEPTION '{table} is append-only'; END $$ LANGUAGE plpgsql"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )


def downgrade() -> None:
    for table in ("transitions", "slots", "gates", "releases"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for table in _APPEND_ONLY:
            op.execute(f"DROP FUNCTION {table}_append_only()")
