from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.settings import Settings
from infra.triton import Triton, requests_of, throwaway
from infra.triton.stubs import Stubs
from serving.types import ReleaseId
from tests.infra.bundles import sealed
from tests.serving.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.triton]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Triton, Path]]:
    """A server of its own: its processes are killed here."""
    folder = tmp_path_factory.mktemp("stubs")
    with throwaway(Settings().venv_triton, folder / "models", folder) as triton:
        yield triton, folder / "models"


def ours() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def stubs_of(release: ReleaseId) -> list[psutil.Process]:
    found = []
    for process in ours():
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            words = process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
            if any(f"/{release}/" in word for word in words):
                found.append(process)
    return found


def test_a_killed_stub_is_missed_and_its_release_answers_again(server: tuple[Triton, Path]) -> None:
    triton, models = server
    release = sealed(models)
    request = requests_of(release)[0]
    triton.load(release.id)
    expected = triton.infer(release.id, request)["PATHS"]
    stubs = Stubs(models, ours)
    assert stubs.tend(triton, [release.id]) == []
    assert stubs.lost() == ()
    victim = stubs_of(release.id)[0]
    victim.kill()
    until(stubs.lost)
    assert stubs.lost() == (victim.pid,)
    assert stubs.tend(triton, [release.id]) == [release.id]
    assert stubs.lost() == ()
    for _ in range(2 * triton.instances(release.id)):
        assert (triton.infer(release.id, request)["PATHS"] == expected).all()
    assert stubs.tend(triton, [release.id]) == []


def test_all_stubs_dead_before_the_first_look(server: tuple[Triton, Path]) -> None:
    triton, models = server
    release = sealed(models, "synth-low")
    triton.load(release.id)
    for stub in stubs_of(release.id):
        stub.kill()
    until(lambda: not stubs_of(release.id))
    stubs = Stubs(models, ours)
    assert stubs.tend(triton, [release.id]) == [release.id]
    assert "PATHS" in triton.infer(release.id, requests_of(release)[0])


def test_a_reload_by_others_is_no_loss(server: tuple[Triton, Path]) -> None:
    triton, models = server
    release = sealed(models, sigma_scale=2.0)
    triton.load(release.id)
    stubs = Stubs(models, ours)
    stubs.tend(triton, [release.id])
    triton.unload(release.id)
    until(lambda: not stubs_of(release.id))
    assert stubs.lost()
    triton.load(release.id)
    before = {stub.pid for stub in stubs_of(release.id)}
    assert stubs.tend(triton, [release.id]) == []
    assert {stub.pid for stub in stubs_of(release.id)} == before
    assert stubs.lost() == ()


def test_a_release_that_is_no_longer_wanted_is_forgotten(server: tuple[Triton, Path]) -> None:
    triton, models = server
    release = sealed(models, sigma_scale=3.0)
    triton.load(release.id)
    stubs = Stubs(models, ours)
    stubs.tend(triton, [release.id])
    stubs.tend(triton, [])
    stubs_of(release.id)[0].kill()
    assert stubs.lost() == ()
