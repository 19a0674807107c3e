"""The database under the ledger: SQLite in WAL mode, or anything that SQLAlchemy speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from infra.ledger.errors import LedgerError

_BUSY_MS = 20_000
_MIGRATION_LOCK = 5_081_735  # any constant: PostgreSQL's advisory lock while a migration runs


def make_engine(url: str) -> Engine:
    """An engine whose every transaction on SQLite takes the write lock at its start, so none fails half-way."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise LedgerError(f"ledger_url is not usable ({error}); leave it empty for SQLite below home") from None
    except OSError as error:
        raise LedgerError(f"the ledger's folder cannot be made: {error}") from None

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would come too late
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reading") else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def plainly(engine: Engine) -> Iterator[None]:
    """Turn the database's own failures into one clear line."""
    try:
        yield
    except DatabaseError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise LedgerError(f"the ledger at {where} does not work: {error.orig}") from error


def migrations() -> Path:
    """The packaged Alembic scripts."""
    return Path(__file__).parent / "migrations"


def head() -> str:
    """The newest migration, by the file names alone, so that a ledger that is up to date needs no Alembic."""
    return max(file.stem.split("_")[0] for file in (migrations() / "versions").glob("[0-9]*.py"))


def version(connection: Connection) -> str | None:
    """The migration that the database stands at; None when it is new."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: Engine) -> None:
    """Bring the database to the newest tables: in one transaction, under a lock, and nothing when it is there."""
    with plainly(engine), engine.connect().execution_options(reading=True) as connection:
        at = version(connection)
    if at == head():
        return
    if at is not None and at > head():
        raise LedgerError(f"the ledger is at migration {at}, newer than this Headframe ({head()}): update Headframe")

    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    with plainly(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
