"""Fixtures every test shares: a scratch HOME, no telemetry, no stray settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from infra import ports
from tests.ports import share

pytest_plugins = ["tests.servers"]

hypothesis.settings.register_profile("headframe", deadline=None)  # no test fails for being slow
hypothesis.settings.load_profile("headframe")


@pytest.fixture(scope="session", autouse=True)
def _scratch_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("HEADFRAME_", "PREFECT_", "MLFLOW_")):
            del os.environ[name]
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _own_ports() -> Iterator[None]:
    """Two stacks that two test processes start at once pick their ports from different ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ports, "_PICKED_FROM", share(*ports._PICKED_FROM))
        yield


@pytest.fixture
def data() -> Path:
    """The golden vectors."""
    return Path(__file__).parent / "data"
