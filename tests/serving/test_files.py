"""State files as serving sees them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from serving.files import StateFile
from serving.state import RouteTable, write_state


def generation(file: StateFile[RouteTable]) -> int | None:
    table = file.get()
    return None if table is None else table.generation


def test_a_replaced_file_takes_effect_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    file = StateFile(path, RouteTable)
    assert generation(file) is None
    for number in (1, 2):
        write_state(path, RouteTable(number, 0.0, {}))
        assert generation(file) == number


def test_between_two_looks_the_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("serving.files.time.monotonic", lambda: now)
    path = tmp_path / "routes.json"
    write_state(path, RouteTable(1, 0.0, {}))
    file = StateFile(path, RouteTable, look_every_s=0.5)
    assert generation(file) == 1
    write_state(path, RouteTable(2, 0.0, {}))
    now = 100.4
    assert generation(file) == 1
    now = 100.5
    assert generation(file) == 2


def test_a_file_that_could_not_be_read_for_a_moment_is_read_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "routes.json"
    file = StateFile(path, RouteTable)
    write_state(path, RouteTable(1, 0.0, {}))
    assert generation(file) == 1
    write_state(path, RouteTable(2, 0.0, {}))

    def short_of_files(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as now:
        now.setattr(Path, "read_bytes", short_of_files)
        assert generation(file) == 1
        assert file.problem == "routes.json cannot be read (OSError)"
    assert generation(file) == 2
    assert file.problem is None


def test_a_file_that_vanishes_after_it_could_not_be_read_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "routes.json"
    file = StateFile(path, RouteTable)
    write_state(path, RouteTable(1, 0.0, {}))

    def gone(path: Path) -> bytes:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as now:
        now.setattr(Path, "read_bytes", gone)  # between the look and the reading
        assert file.get() is None
    path.unlink()
    for _ in range(3):
        assert file.get() is None
    assert (file.problem, file.faults) == ("routes.json is missing", 2)


def test_a_file_that_vanishes_or_is_garbled_leaves_the_last_good_copy_in_force(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    file = StateFile(path, RouteTable)
    write_state(path, RouteTable(1, 0.0, {}))
    assert generation(file) == 1
    path.write_bytes(b"{")
    assert generation(file) == 1
    assert file.problem is not None
    path.unlink()
    assert generation(file) == 1
    assert file.problem == "routes.json is missing"
    assert file.faults == 2
