"""Samples of real processes, their table, and the file that keeps them."""

from __future__ import annotations

import csv
import mmap
import os
from pathlib import Path

from bench.soaking.memory import CLIENT, EVERY_S, Memory, own_mb


def sampled(tmp_path: Path) -> Memory:
    """Ten minutes of a gateway and of another part that both took 20 MB in the last of them, having given back 60."""
    memory = Memory(tmp_path)
    for number in range(int(600 / EVERY_S) + 1):
        at = number * EVERY_S
        size = 200.0 + 60.0 * (at < 200.0) + 20.0 * (at >= 500.0)
        memory.samples["gateway"].append((at, size))
        memory.samples["flows"].append((at, size))
        memory.samples["s3"].append((at, 80.0))
    return memory


def test_the_table_is_strict_with_the_road_alone(tmp_path: Path) -> None:
    table = sampled(tmp_path).table()
    assert {part: row["flat"] for part, row in table.items()} == {"flows": True, "gateway": False, "s3": True}
    assert table["s3"] == {
        "first_mb": 80.0, "last_mb": 80.0, "floors_mb": 0.0, "line_mb": 0.0, "breath_mb": 0.0,
        "given_back_mb": 0.0, "flat": True,
    }  # fmt: skip
    assert (table["flows"]["first_mb"], table["flows"]["last_mb"], table["flows"]["given_back_mb"]) == (260, 220, 60)


def test_every_sample_is_kept(tmp_path: Path) -> None:
    memory = sampled(tmp_path)
    memory.write(tmp_path / "memory.csv")
    with (tmp_path / "memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(memory.samples["s3"])
    assert rows[0] == {"part": "flows", "s": "0.0", "mb": "260.0"}


def test_a_home_without_processes_has_this_one_alone(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.start()
    memory.stop()
    assert set(memory.samples) == {CLIENT}
    assert memory.samples[CLIENT][0][1] > 10


def test_a_processs_own_memory_leaves_out_the_pages_of_files(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(bytes(40_000_000))
    before = own_mb(os.getpid())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[::4096])
        assert own_mb(os.getpid()) - before < 20
    taken = bytearray(b"x") * 40_000_000
    assert own_mb(os.getpid()) - before > 30
    assert len(taken) == 40_000_000
