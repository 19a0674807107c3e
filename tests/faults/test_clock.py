"""A clock that is 5 s off: ours, or a caller's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from headframe.serve import check_clock
from infra.duties import clock_skew
from infra.settings import Settings
from serving.errors import UserError
from tests.faults.tools import S, double, metric
from tests.infra.time_server import reply, time_server
from tests.serving.callers import btauth
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import Running, gateway, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of a home whose time server says that our clock is 5 s ahead."""
    with time_server(partial(reply, ahead=-5.0)) as server:
        told = {"home": tmp_path_factory.mktemp("home"), "clock": {"ntp_servers": [server]}}
        yield Settings.model_validate(told)


@pytest.fixture(scope="module")
def running(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    triton = FakeTritonServer(tiny_a=doubled)
    home: Path = tmp_path_factory.mktemp("gateway")
    with gateway(home, triton.address, skew=str(settings.paths.skew), max_skew=settings.clock.max_skew) as made:
        yield made
    triton.stop()


def test_fault_24_a_gateway_refuses_to_start_by_such_a_clock(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"clock is [45]\.\d+ s ahead.*set it"):
        check_clock(settings)


def test_fault_24_one_that_runs_shows_the_skew_and_serves_on(running: Running, settings: Settings) -> None:
    settings.paths.skew.parent.mkdir(parents=True, exist_ok=True)
    clock_skew(settings).run()
    until(lambda: metric(running, "headframe_clock_skew_seconds") == pytest.approx(5.0, abs=1.0))
    assert running.get("/readyz").json()["clock"]["good"] is False
    assert running.ask(double()).status_code == 200  # whoever still fits is answered


@pytest.mark.parametrize(("ahead", "said"), [(30.0, r"(\d+\.\d\d) s ahead"), (-30.0, r"(\d+\.\d\d) s old")])
def test_fault_24_a_caller_is_told_by_how_much_its_clock_is_off(running: Running, ahead: float, said: str) -> None:
    """It is off by so much that no delay on the way brings it into the window."""
    nonce = time.time_ns() + int(ahead * S)
    for request in (double(nonce=nonce), btauth("/Double", {"x": [1.0]}, nonce=nonce)):
        before = nonce / S - time.time()
        found = running.ask(request)
        after = nonce / S - time.time()
        assert found.status_code == 401
        told = re.search(said, found.json()["message"])
        assert told is not None
        least, most = sorted(map(abs, (before, after)))
        assert least - 0.01 <= float(told[1]) <= most + 0.01
