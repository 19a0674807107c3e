"""Fixtures every test shares: a scratch HOME, no telemetry, no stray settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from infra import ports
from tests.ports import share

pytest_plugins = ["tests.servers"]

# No test fails for being slow, nor today on what nobody saw yesterday: --hypothesis-profile=explore looks for that.
PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("headframe", derandomize=True, **PATIENT)
hypothesis.settings.register_profile("explore", derandomize=False, max_examples=1000, **PATIENT)
hypothesis.settings.load_profile("headframe")
STRAY = {"http_proxy", "https_proxy", "all_proxy", "columns", "lines"}
"""Of whoever runs the tests: every server is on this machine, and words are wrapped as where nobody says how wide."""


@pytest.fixture(scope="session", autouse=True)
def _scratch_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("HEADFRAME_", "PREFECT_", "MLFLOW_")) or name.lower() in STRAY:
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
