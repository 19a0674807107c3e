from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from infra.stack.plugin import Plugin, rotate


def test_the_first_start_is_no_restart() -> None:
    plugin = Plugin(Path("nowhere"))
    for name in ("s3", "triton", "triton", "triton"):
        plugin._on_start(SimpleNamespace(process=SimpleNamespace(config=SimpleNamespace(name=name))))
    assert plugin.restarts() == {"s3": 0, "triton": 2}


def test_a_small_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "s3.log"
    log.write_bytes(b"x" * 100)
    assert not rotate(log, max_bytes=100)
    assert [file.name for file in tmp_path.iterdir()] == ["s3.log"]


def test_a_writer_appends_on_through_rotations_and_the_oldest_copy_goes(tmp_path: Path) -> None:
    log = tmp_path / "s3.log"
    with log.open("ab", buffering=0) as writer:
        for letter in b"abcde":
            writer.write(bytes([letter]) * 200)
            assert rotate(log, max_bytes=100, keep=3)
        writer.write(b"end")
    assert log.read_bytes() == b"end"
    kept = {file.name: file.read_bytes()[:1] for file in tmp_path.iterdir() if file.name != "s3.log"}
    assert kept == {"s3.log.1": b"e", "s3.log.2": b"d", "s3.log.3": b"c"}


def test_every_log_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"")
    (tmp_path / "b.log").write_bytes(b"x")
    with (tmp_path / "b.log").open("ab") as big:
        big.truncate(20_000_001)
    Plugin(tmp_path)._on_tick(None)
    assert {file.name for file in tmp_path.iterdir()} == {"a.log", "b.log", "b.log.1"}
