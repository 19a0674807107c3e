"""The ledger's slots as serving's ``routes.json``."""

from __future__ import annotations

import fcntl
from pathlib import Path

from infra.ledger import Ledger
from serving.errors import UserError
from serving.state import RouteTable, write_state


def publish_routes(ledger: Ledger, path: Path) -> RouteTable:
    """Write the ledger's routes to `path`, atomically, and give them back.

    The ledger is read under a lock beside the file, so that of two publishers none puts older routes over newer ones.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = ledger.route_table()
            write_state(path, table)
    except OSError as error:
        raise UserError(f"{path}: the routes cannot be written ({error})") from None
    return table
