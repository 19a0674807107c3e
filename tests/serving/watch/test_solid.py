"""Metrics files whose bytes are all there, or in memory where the disk has none."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serving.watch.solid import ROOM, SolidDict


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter_1.db"


def opened(path: Path) -> Any:
    return closing(SolidDict(str(path)))


def test_a_file_is_whole_before_its_first_value(path: Path) -> None:
    with opened(path) as counted:
        counted.write_value("asked", 3.0, 0.0)
    assert path.stat().st_blocks * 512 >= ROOM
    with opened(path) as again:
        assert again.read_value("asked") == (3.0, 0.0)


def test_nobody_sees_a_file_before_it_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Path]] = []
    fill = os.posix_fallocate

    def filling(fd: int, start: int, length: int) -> None:
        seen.append(list(path.parent.glob("*.db")))
        fill(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", filling)
    with opened(path):
        assert (seen, os.listdir(path.parent)) == ([[]], [path.name])


def test_values_stay_in_memory_where_there_is_no_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = os.listdir("/proc/self/fd")
    with opened(path) as counted:
        counted.write_value("asked", 3.0, 0.0)
        assert counted.read_value("asked") == (3.0, 0.0)
    assert os.listdir(path.parent) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
