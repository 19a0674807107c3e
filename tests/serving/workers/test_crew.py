"""The workers as their parent sees them, where starting them goes wrong."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.public.listening import listen
from serving.workers import crew as crews
from serving.workers.crew import LONGEST_PAUSE_S, Crew
from tests.serving.processes import config_of, until


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append((event, facts))

    def info(self, event: str, **facts: Any) -> None:
        """Not looked at."""


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """Two workers, each of which ends as soon as it starts, since its module is not there."""
    (tmp_path / "run").mkdir()
    config = config_of(tmp_path, "127.0.0.1:1", workers=2)
    made = Crew(config, listen("127.0.0.1", config.port), tmp_path / "metrics", Said(), module="no.such.module")
    yield made
    made.close()


def dead(crew: Crew) -> bool:
    return all(worker.process.poll() is not None for worker in crew.workers)


def test_workers_that_die_at_once_for_days_are_started_again_after_the_longest_pause(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_fast_deaths", 50_000)  # three days of them
    crew.tick()
    until(lambda: dead(crew))
    crew.tick()
    assert crew.restarts == 2
    assert crew.workers == []
    assert [facts["pause_s"] for _, facts in crew._log.errors] == [LONGEST_PAUSE_S] * 2


def test_the_pause_grows_with_each_death_to_the_longest() -> None:
    assert [crews._pause(deaths) for deaths in range(8)] == [0.0, 0.0, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_worker_that_cannot_be_started_costs_the_others_nothing(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    begin: Any = subprocess.Popen
    begun: list[Any] = []

    def once(*args: Any, **options: Any) -> Any:
        if begun:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        begun.append(begin(*args, **options))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", once)
    crew._fill()
    assert crew.pids == [begun[0].pid]
    assert crew._log.errors == [
        ("a worker cannot be started", {"error": "Resource temporarily unavailable", "pause_s": LONGEST_PAUSE_S})
    ]
    crew._fill()
    assert len(crew._log.errors) == 1  # not before the pause is over
    monkeypatch.setattr(crew, "_not_before", 0.0)
    monkeypatch.setattr(subprocess, "Popen", begin)
    crew._fill()
    assert len(crew.pids) == 2


def test_a_shortage_of_open_files_ends_no_gateway_and_is_told_once(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(folder: Path) -> list[Any]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(crews, "LONGEST_STEP_S", 0.0)  # every tick is a look
    monkeypatch.setattr(crew, "_not_before", float("inf"))  # nobody is started
    with monkeypatch.context() as during:
        during.setattr(crews, "living", short)
        crew.tick()
        crew.tick()
    crew.tick()
    assert crew._log.errors == [("the workers cannot be looked after", {"error": "Too many open files"})]
    assert not crew._trouble
