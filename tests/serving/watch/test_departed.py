"""Counts of workers that are gone: one set of files, and not one count more or less."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from serving.watch.departed import depart
from serving.watch.solid import SolidDict

KINDS = ("counter", "histogram", "gauge_sum", "gauge_mostrecent", "gauge_livesum")


def key(name: str, **labels: str) -> str:
    made: str = mmap_key(name, name, list(labels), list(labels.values()), "help")
    return made


def lived(folder: Path, pid: int, **values: float) -> None:
    """The files of a worker that counted one thing of each kind."""
    for kind in KINDS:
        with closing(SolidDict(str(folder / f"{kind}_{pid}.db"))) as file:
            for number, (label, value) in enumerate(values.items()):
                file.write_value(key(f"a_{kind}", of=label), value, float(pid + number))  # type: ignore[no-untyped-call]


def told(folder: Path) -> dict[tuple[str, str], float]:
    """What a scrape would find."""
    collector = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]
    return {
        (sample.name, sample.labels["of"]): sample.value
        for metric in collector.collect()  # type: ignore[no-untyped-call]
        for sample in metric.samples
    }


def test_many_deaths_leave_one_set_of_files_and_all_counts(tmp_path: Path) -> None:
    lived(tmp_path, 7, x=1.0, z=5.0)
    for pid in range(100, 130):
        lived(tmp_path, pid, x=2.0, y=float(pid))
        before = {name: value for name, value in told(tmp_path).items() if name[0] != "a_gauge_livesum"}
        depart(tmp_path, pid)
        after = told(tmp_path)
        assert {name: value for name, value in after.items() if name[0] != "a_gauge_livesum"} == before
        assert after["a_gauge_livesum", "x"] == 1.0
    assert before["a_counter", "x"] == 61.0
    assert before["a_gauge_mostrecent", "y"] == 129.0
    assert len(os.listdir(tmp_path)) == 2 * len(KINDS) - 1
    depart(tmp_path, 7)
    assert sorted(os.listdir(tmp_path)) == sorted(f"{kind}_0.db" for kind in KINDS[:-1])


def test_the_older_of_two_most_recent_values_does_not_win(tmp_path: Path) -> None:
    lived(tmp_path, 9, x=9.0)
    lived(tmp_path, 8, x=8.0)
    depart(tmp_path, 9)
    depart(tmp_path, 8)
    assert told(tmp_path)["a_gauge_mostrecent", "x"] == 9.0


def test_another_worker_whose_pid_ends_alike_is_left_alone(tmp_path: Path) -> None:
    lived(tmp_path, 11, x=1.0)
    depart(tmp_path, 1)
    assert len(os.listdir(tmp_path)) == len(KINDS)


def test_without_room_a_file_stays_and_is_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(tmp_path, 7, x=3.0)

    def full(fd: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "posix_fallocate", full)
    depart(tmp_path, 7)
    assert told(tmp_path)["a_counter", "x"] == 3.0
    assert (tmp_path / "counter_7.db").exists()
    assert not (tmp_path / "gauge_livesum_7.db").exists()


def test_a_file_that_its_worker_never_wrote_to_goes(tmp_path: Path) -> None:
    (tmp_path / "counter_7.db").write_bytes(bytes(4096))
    depart(tmp_path, 7)
    assert os.listdir(tmp_path) == ["counter_0.db"]
    assert told(tmp_path) == {}
