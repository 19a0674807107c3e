"""Homes whose parts are real servers: the session's S3 and MLflow, and a live Triton of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from flows import rollout
from flows.gate import gate
from flows.ingest import ingest
from flows.retrain import retrain
from infra.settings import S3, Settings
from infra.triton import throwaway
from tests.servers import store_at

SLOT = "synth-high"
MakeHome = Callable[..., Settings]


@pytest.fixture(scope="module")
def clean_s3(s3_server: str) -> str:
    """The session's SeaweedFS, without what other modules left there."""
    store = store_at(int(s3_server.rpartition(":")[2]))
    for key in store.list(""):
        store.delete(key)
    return s3_server


@pytest.fixture(scope="module")
def make_home(tmp_path_factory: pytest.TempPathFactory, clean_s3: str, mlflow_url: str) -> MakeHome:
    """Settings of a new home with S3 and MLflow, prices ingested; more settings by name."""

    def make(**more: object) -> Settings:
        given = {"home": tmp_path_factory.mktemp("home"), "s3": S3(endpoint=clean_s3), "mlflow_url": mlflow_url}
        settings = Settings(**{**given, **more})  # type: ignore[arg-type]
        ingest(settings)
        return settings

    return make


@pytest.fixture(scope="module")
def with_triton(make_home: MakeHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Settings]]:
    """New homes whose live Triton is one server, which the module shares."""
    models = tmp_path_factory.mktemp("live")
    with throwaway(Settings().venv_triton, models / "models", models) as triton:

        def make() -> Settings:
            settings = make_home(triton_grpc=triton.address)
            settings.paths.triton.mkdir(parents=True)
            settings.paths.models.symlink_to(models / "models")
            return settings

        yield make


@pytest.fixture(scope="module")
def stand(with_triton: Callable[[], Settings]) -> tuple[Settings, str]:
    """A home whose slot has the reference miner's model as its champion, and that champion's id."""
    settings = with_triton()
    return settings, first_release(settings)


def first_release(settings: Settings, sigma_scale: float = 1.0) -> str:
    """Train, gate and adopt a slot's first release."""
    made = retrain(settings, SLOT, "gaussian", sigma_scale)
    assert gate(settings, SLOT).verdict == "inconclusive"
    rollout.adopt(settings, SLOT)
    return made.release
