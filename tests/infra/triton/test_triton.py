"""Triton's control and the warm-up, on a real tritonserver: right answers in any company, and wrong models caught."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from infra.releases import Release, seal, verify
from infra.settings import Settings
from infra.triton import Triton, TritonError, requests_of, throwaway, warm
from tests.infra.bundles import BROKEN, sealed
from tests.servers import TritonServer
from tests.triton_models.synth_paths.series import hourly, minutes
from triton_models.synth_paths.model import simulate
from triton_models.synth_paths.release import export
from triton_models.synth_paths.train import fit

pytestmark = [pytest.mark.slow, pytest.mark.triton]


@pytest.fixture(scope="module", params=["synth-high", "synth-low"])
def loaded(request: pytest.FixtureRequest, triton_server: TritonServer) -> tuple[Triton, Release, Any]:
    """A GARCH-t release, loaded, with the parameters it was made of."""
    params = fit(request.param, "garch-t", {"AAPLX": {60: minutes(), 3600: hourly()}})
    export(params, triton_server.models / ".making")
    release = seal(
        triton_server.models / ".making", slot=request.param, family="synth_paths", data_digest="", rebuild={}
    )
    triton_server.triton.load(release.id)
    return triton_server.triton, release, params.as_dict()


def test_a_release_warms_at_every_batch_size(loaded: tuple[Triton, Release, Any]) -> None:
    triton, release, _ = loaded
    report = warm(triton, release)
    assert report.release == release.id
    assert [batch.size for batch in report.batches] == list(range(1, 9))
    assert all(batch.ms > 0 for batch in report.batches)
    assert max(report.formed) == 8
    verify(release.folder)  # serving it left nothing behind


def test_triton_answers_what_the_plain_function_answers(loaded: tuple[Triton, Release, Any]) -> None:
    """Up to the last bits: Triton's numpy is 1.26, and ours is 2."""
    triton, release, params = loaded
    for tensors in requests_of(release):
        got = triton.infer(release.id, tensors)
        increment, length = tensors["GRID"][0].tolist()
        expected = simulate(
            params, float(tensors["PRICE"][0, 0]), tensors["HISTORY"][0], int(tensors["START"][0, 0]), increment,
            length, int(tensors["N"][0, 0]), int(tensors["SEED"][0, 0]), tensors["ASSET"][0, 0].decode(),
        )  # fmt: skip
        np.testing.assert_allclose(got["PATHS"][0], expected, rtol=2e-6)
        assert got["RELEASE"].ravel().tolist() == [release.id.encode()]


def test_an_answer_is_the_same_in_any_company(loaded: tuple[Triton, Release, Any]) -> None:
    """Requests of other sizes, grids, priorities, and bad ones, at once: batches form, and nothing changes."""
    triton, release, _ = loaded
    requests = [dict(tensors) for tensors in requests_of(release)]
    for i, tensors in enumerate(requests):
        tensors["N"] = np.array([[1 + 37 * i]], dtype=np.int32)
    alone = [triton.infer(release.id, tensors)["PATHS"] for tensors in requests]
    bad = {**requests[0], "ASSET": np.array([[b"DOGE"]], dtype=np.object_)}

    def send(job: tuple[int, int]) -> bool:
        index, priority = job
        if index < 0:
            with pytest.raises(TritonError, match="ASSET is not in this release"):
                triton.infer(release.id, bad)
            return True
        got = triton.infer(release.id, requests[index], priority=priority)["PATHS"]
        return bool(got.tobytes() == alone[index].tobytes())

    jobs = [(i, 1 + i % 3) for i in range(len(requests))] * 5 + [(-1, 1)] * 5
    np.random.default_rng(0).shuffle(jobs)
    before = triton.batches(release.id)
    with ThreadPoolExecutor(12) as pool:
        for _ in range(20):  # until some have met
            assert all(pool.map(send, [(int(a), int(b)) for a, b in jobs]))
            now = triton.batches(release.id)
            if any(count > before.get(size, 0) for size, count in now.items() if size > 1):
                return
    raise AssertionError("Triton never formed a batch")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"PRICE": np.array([[0.0]], np.float32)}, "PRICE must be positive"),
        ({"PRICE": np.array([[np.nan]], np.float32)}, "PRICE must be positive"),
        ({"N": np.array([[0]], np.int32)}, "N must be 1 to 1000"),
        ({"N": np.array([[10_000_000]], np.int32)}, "N must be 1 to 1000"),
        ({"GRID": np.array([[7, 3600]], np.int32)}, "GRID must be"),
        ({"ASSET": np.array([[b"\xff\xfe"]], np.object_)}, "ASSET is not in this release"),
        ({"START": np.array([[-5]], np.int64)}, "START must be"),
        ({"HISTORY": np.zeros((1, 2, 512), np.float32)}, "HISTORY must run"),
        ({"HISTORY": np.zeros((1, 2, 7), np.float32)}, "unexpected shape"),
        ({"SEED": np.array([[1]], np.int64)}, "data-type"),
    ],
)
def test_a_bad_request_fails_alone_in_one_line(loaded: Any, change: dict[str, Any], says: str) -> None:
    triton, release, _ = loaded
    tensors = requests_of(release)[0]
    with pytest.raises(TritonError, match=says) as told:
        triton.infer(release.id, {**tensors, **change})
    assert "\n" not in str(told.value)
    assert np.isfinite(triton.infer(release.id, tensors)["PATHS"]).all()


def test_a_batch_must_agree_on_its_shape(loaded: tuple[Triton, Release, Any]) -> None:
    triton, release, _ = loaded
    two = {name: np.concatenate([value, value]) for name, value in requests_of(release)[0].items()}
    two["N"] = np.array([[10], [20]], np.int32)
    with pytest.raises(TritonError, match="N and GRID must be the same"):
        triton.infer(release.id, two)


# ---- wrong candidates


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_model_that_answers_wrongly_does_not_warm(triton_server: TritonServer, name: str) -> None:
    old, new, says = BROKEN[name]
    release = sealed(triton_server.models, replace=(old, new))
    triton_server.triton.load(release.id)
    with pytest.raises(TritonError, match=says) as told:
        warm(triton_server.triton, release)
    assert release.id in str(told.value)
    assert "\n" not in str(told.value)
    triton_server.triton.unload(release.id)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("import numpy as np\n", "import numpy as np\nimport no_such_package\n", "No module named 'no_such_package'"),
        ("def simulate(", "def simulate(:", "invalid syntax"),
        ("check_params(self.params)", "raise ValueError('no luck')", "ValueError: no luck"),
        ("class TritonPythonModel", "class Model", "TritonPythonModel"),
    ],
)
def test_a_model_that_does_not_load_is_one_line(triton_server: TritonServer, old: str, new: str, says: str) -> None:
    before = triton_server.triton.loaded()
    release = sealed(triton_server.models, replace=(old, new))
    with pytest.raises(TritonError, match=says) as told:
        triton_server.triton.load(release.id)
    assert "\n" not in str(told.value)
    assert "Traceback" not in str(told.value)
    assert triton_server.triton.loaded() == before


def test_a_model_whose_process_missed_a_beat_is_loaded_again(
    triton_server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = sealed(triton_server.models, sigma_scale=1.7)
    stalled = [TritonError(f"Triton at x: load failed: Stub process '{release.id}_0_1' is not healthy.")] * 2
    ask = Triton._ask

    def once_stalled(triton: Triton, call: str, *args: Any, **options: Any) -> Any:
        if call == "load_model" and stalled:
            raise stalled.pop()
        return ask(triton, call, *args, **options)

    monkeypatch.setattr(Triton, "_ask", once_stalled)
    triton_server.triton.load(release.id)
    assert stalled == []
    assert np.isfinite(triton_server.triton.infer(release.id, requests_of(release)[0])["PATHS"]).all()
    triton_server.triton.unload(release.id)


def test_bad_parameters_are_refused_at_load(triton_server: TritonServer) -> None:
    folder = triton_server.models / ".making"
    export(fit("synth-high", "gaussian", {}), folder)
    params = folder / "1" / "params.json"
    params.write_text(params.read_text().replace("0.00259", "-0.00259"))
    release = seal(folder, slot="synth-high", family="synth_paths", data_digest="", rebuild={})
    with pytest.raises(TritonError, match="AAPLX: sigma_hourly"):
        triton_server.triton.load(release.id)


def test_a_release_under_another_name_is_noticed(triton_server: TritonServer) -> None:
    release = sealed(triton_server.models)
    alias = release.folder.with_name("synth-high-ffffffffffff")
    alias.mkdir()
    for part in ("1", "warmup", "config.pbtxt"):
        (alias / part).symlink_to(release.folder / part)
    triton_server.triton.load(alias.name)
    with pytest.raises(TritonError, match=f"{release.id} answered under the name {alias.name}"):
        triton_server.triton.infer(alias.name, requests_of(release)[0])
    triton_server.triton.unload(alias.name)


# ---- control


def test_loading_and_unloading(triton_server: TritonServer) -> None:
    triton = triton_server.triton
    release = sealed(triton_server.models, sigma_scale=1.5)
    assert release.id not in triton.loaded()
    triton.load(release.id)
    triton.load(release.id)
    assert release.id in triton.loaded()
    triton.unload(release.id)
    assert release.id not in triton.loaded()
    triton.unload(release.id)
    with pytest.raises(TritonError, match="failed to load"):
        triton.load("synth-high-000000000000")
    with pytest.raises(TritonError, match=release.id):
        triton.infer(release.id, requests_of(release)[0])


def test_nothing_answers() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # kept, so that nobody else answers there
        triton = Triton(f"127.0.0.1:{probe.getsockname()[1]}")
        assert not triton.ready()
        with pytest.raises(TritonError, match="no answer"):
            triton.loaded()


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_throwaway_server_is_its_own_and_leaves_nothing(tmp_path: Path, triton_server: TritonServer) -> None:
    before = _children()
    with throwaway(Settings().venv_triton, triton_server.models, tmp_path) as triton:
        assert triton.server_id().startswith("throwaway-")
        assert triton.server_id() != triton_server.triton.server_id()
        assert triton.loaded() == set()
        started = _children() - before
        assert started
    assert not any(psutil.pid_exists(pid) for pid in started)
    assert not triton.ready()
    assert (tmp_path / "triton.log").stat().st_size > 0


def test_a_throwaway_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from infra.triton import throwaway\n"
        "with throwaway(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[2])):\n"
        "    print('up', flush=True); sys.stdin.read()"
    )
    argv = (sys.executable, "-c", code, str(Settings().venv_triton), str(tmp_path))
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        servers = psutil.Process(parent.pid).children(recursive=True)
        assert servers
        os.kill(parent.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(servers, timeout=60)
    assert gone
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.stack.commands import Command
    from infra.triton import server

    failing = Command(("/bin/sh", "-c", "echo 'error: no such backend' >&2; exit 1"))
    monkeypatch.setattr(server, "tritonserver", lambda *_, **__: failing)
    began = time.monotonic()
    with pytest.raises(TritonError, match="did not start: error: no such backend"):  # noqa: SIM117
        with throwaway(Settings().venv_triton, tmp_path / "models", tmp_path):
            pass
    assert time.monotonic() - began < 60
