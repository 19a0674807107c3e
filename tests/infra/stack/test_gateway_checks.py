"""What doctor says of miners, the clock and Redis."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from infra.stack.checks import Check
from infra.stack.gateway_checks import gateway_checks
from tests.infra.time_server import reply, time_server
from tests.ports import free_port
from tests.servers import redis


def found(folder: Path, **told: Any) -> dict[str, Check]:
    return {check.name: check for check in gateway_checks(Settings.model_validate({"home": folder, **told}))}


def test_miners_are_listed_and_a_slot_of_another_subnet_is_warned_of(tmp_path: Path) -> None:
    assert found(tmp_path) == {"miners": Check("miners", "ok", "subnet 50: synth-high, synth-low")}
    other = {"netuid": 7, "slots": ["synth-low"], "hotkey_uri": "//Other"}
    warned = found(tmp_path, miners=[other])["miners"]
    assert (warned.verdict, warned.detail) == ("warn", "synth is subnet 50, not 7")
    assert found(tmp_path, miners=[other], profile="test")["miners"].verdict == "ok"  # other numbers there
    assert found(tmp_path, slots=["chess"])["miners"].verdict == "fail"


def test_the_clock_against_time_servers(tmp_path: Path) -> None:
    def verdict(**options: Any) -> str:
        with time_server(partial(reply, **options)) as server:
            return found(tmp_path, clock={"ntp_servers": [server]})["clock skew"].verdict

    assert verdict() == "ok"
    assert verdict(ahead=30.0) == "fail"
    assert verdict(stratum=16) == "warn"


@pytest.mark.slow
def test_redis_answers_and_keeps_what_it_has(tmp_path: Path) -> None:
    port = free_port()
    told = {"redis_url": f"redis://127.0.0.1:{port}"}
    away = found(tmp_path, gateway=told)["replay store"]
    assert (away.verdict, away.detail) == ("fail", "Redis does not answer (ConnectionError)")
    with redis(tmp_path / "a", port):
        assert found(tmp_path, gateway=told)["replay store"].verdict == "ok"
    with redis(tmp_path / "b", port, "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-random"):
        evicting = found(tmp_path, gateway=told)["replay store"]
        assert (evicting.verdict, "allkeys-random" in evicting.detail) == ("warn", True)
    assert "redis_url" in found(tmp_path, gateway={"redis_url": "nonsense"})["replay store"].detail
