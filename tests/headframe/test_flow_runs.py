"""First releases: which slots get one when a stack starts."""

from __future__ import annotations

from pathlib import Path

from headframe.flow_runs import empty_slots
from headframe.serve import gateway_config
from infra.settings import Ports, Settings

PORTS = Ports(gateway=18091, private=18092)


def test_slots_without_a_model_family_are_served_and_left_without_a_release(tmp_path: Path) -> None:
    slots = ("synth-low", "itsai", "poker44")
    settings = Settings(home=tmp_path, ports=PORTS, triton_grpc="127.0.0.1:18001", slots=slots)
    (miner,) = gateway_config(settings).miners
    assert miner.slots == list(slots)
    assert [sorted(spec.options) for spec in miner.subnets] == [["max_price_age", "use_stale"], [], []]
    assert empty_slots(settings) == ["synth-low"]
