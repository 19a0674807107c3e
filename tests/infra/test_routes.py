"""Routes on disk are the ledger's, and never older than what stood there."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from infra.ledger import Ledger, moves
from infra.routes import publish_routes
from serving.errors import UserError
from serving.state import RouteTable
from tests.infra.ledger.helpers import add, report


def test_the_file_says_what_the_ledger_says(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    path = tmp_path / "serving" / "routes.json"
    assert publish_routes(ledger, path).slots == {}
    entry = add(ledger, "a")
    report(ledger, entry, None)
    ledger.move("synth-high", moves.adopt(entry.id), kind="adopt", release=entry.id, actor="t", reason="")
    table = publish_routes(ledger, path)
    assert msgspec.json.decode(path.read_bytes(), type=RouteTable) == table
    assert table.slots["synth-high"].stable == entry.id  # type: ignore[index]
    ledger.close()


def test_publishers_that_race_never_put_older_routes_over_newer(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "routes.json"
    ledger = Ledger(url)
    ledger.migrate()
    entry = add(ledger, "a")
    report(ledger, entry, None)
    stop, seen = threading.Event(), []

    def republish() -> None:
        mine = Ledger(url)
        while not stop.is_set():
            publish_routes(mine, path)
        mine.close()

    def watch() -> None:
        while not stop.is_set():
            if path.exists():
                seen.append(msgspec.json.decode(path.read_bytes(), type=RouteTable).generation)

    threads = [threading.Thread(target=republish), threading.Thread(target=republish), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    ledger.move("synth-high", moves.adopt(entry.id), kind="adopt", release=entry.id, actor="t", reason="")
    for name in ("b", "c", "d"):
        other = add(ledger, name)
        report(ledger, other, entry)
        ledger.move("synth-high", moves.start(other.id), kind="start", release=other.id, actor="t", reason="")
        publish_routes(ledger, path)
        ledger.move("synth-high", moves.abort, kind="abort", release=other.id, actor="t", reason="")
        publish_routes(ledger, path)
    stop.set()
    for thread in threads:
        thread.join()
    ledger.close()
    assert seen == sorted(seen)
    assert msgspec.json.decode(path.read_bytes(), type=RouteTable).generation == 7


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.migrate()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"routes\.json: the routes cannot be written"):
        publish_routes(ledger, tmp_path / "file" / "routes.json")
    ledger.close()
