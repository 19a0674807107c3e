from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from infra.stack.processes import SUPERVISOR, marked, markers, stop_marked

_POLITE = "print('up', flush=True); import time; time.sleep(600)"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _POLITE
_PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {_STUBBORN!r}]).wait()"


@contextmanager
def process(code: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        yield started
    finally:
        started.kill()
        started.wait()
        if started.stdout:
            started.stdout.close()


def test_parts_are_told_by_their_markers(tmp_path: Path) -> None:
    with process(_POLITE, **markers(tmp_path, "s3")) as one, process(_POLITE, **markers(tmp_path, "s3")) as two:
        found = marked(tmp_path)
    assert {name: sorted(p.pid for p in ps) for name, ps in found.items()} == {"s3": sorted([one.pid, two.pid])}


def test_a_home_is_the_same_by_whatever_path(tmp_path: Path) -> None:
    link = tmp_path / "link"
    home = tmp_path / "home"
    home.mkdir()
    link.symlink_to(home)
    with process(_POLITE, **markers(link, "s3")) as one:
        assert [p.pid for p in marked(home)["s3"]] == [one.pid]


@pytest.mark.slow
def test_children_and_those_that_ignore_sigterm_end_too(tmp_path: Path) -> None:
    with process(_PARENT, **markers(tmp_path, "flows")) as parent:
        children = psutil.Process(parent.pid).children()
        assert len(children) == 1
        assert stop_marked(tmp_path, grace=0.3) == ["flows"]
        assert not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE
        assert marked(tmp_path) == {}


def test_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shell = {"HEADFRAME_HOME": str(tmp_path)}  # a person's shell: the home, and no part
    with (
        process(_POLITE, **shell) as person,
        process(_POLITE, **markers(tmp_path / "other", "s3")) as other,
        process(_POLITE, **markers(tmp_path, "s3")) as mine,
        process(_POLITE, **markers(tmp_path, "mlflow")) as spared,
    ):
        assert stop_marked(tmp_path, {"s3"}) == ["s3"]
        assert mine.poll() is not None
        assert [p.poll() for p in (person, other, spared)] == [None, None, None]


def test_the_supervisor_goes_first_and_at_once(tmp_path: Path) -> None:
    with process(_STUBBORN, **markers(tmp_path, SUPERVISOR)) as one, process(_POLITE, **markers(tmp_path, "s3")):
        assert stop_marked(tmp_path) == ["s3", SUPERVISOR]
        assert one.poll() is not None


def test_nothing_to_stop(tmp_path: Path) -> None:
    assert stop_marked(tmp_path) == []


def test_it_never_stops_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from infra.stack.processes import marked; from pathlib import Path; import sys;"
        "print(sorted(marked(Path(sys.argv[1]))))"
    )
    env = {**os.environ, **markers(tmp_path, "sidecar")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
