"""The files that serving depends on, when those who write them are away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.config import SubnetSpec
from serving.state import NeuronTable, RouteTable, SlotRoute, write_state
from serving.subnets.registry import FACTORIES
from serving.types import ReleaseId, SlotName
from tests.faults.tools import Traffic, double, metric
from tests.serving.callers import STRANGER, btauth
from tests.serving.fake_triton import FakeTritonServer
from tests.serving.gateways import NEURONS, replace, write_neurons
from tests.serving.processes import gateway, until

pytestmark = pytest.mark.slow


def test_fault_21_while_the_chain_is_away_the_last_table_serves_and_its_age_is_shown(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address, neurons_max_age=3600.0) as running:
        traffic = Traffic(running)
        assert running.get("/readyz").json()["files"]["neurons"]["fresh"]
        write_state(tmp_path / "neurons.json", NeuronTable(1, time.time() - 7200, NEURONS))
        until(lambda: metric(running, "headframe_file_age_seconds", file="neurons") > 7200)
        page = running.get("/readyz")
        assert page.status_code == 503
        assert page.json()["files"]["neurons"]["fresh"] is False
        traffic.more()
        (tmp_path / "neurons.json").unlink()
        traffic.more()
        assert running.ask(double(sender=STRANGER)).status_code == 403  # and nobody new is let in
        write_neurons(tmp_path)
        until(lambda: running.get("/readyz").status_code == 200)
        assert set(traffic.stop()) == {200}


def test_fault_30_unknown_fields_of_a_changed_schema_are_counted_and_the_answer_is_still_checked(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    triton.models["itsai-1"] = lambda tensors: {"PROBABILITIES": np.zeros((1, 1), np.float32)}
    slot = {SlotName("itsai"): SlotRoute(stable=ReleaseId("itsai-1"))}
    options: dict[str, Any] = {"subnets": [SubnetSpec(FACTORIES["itsai"])], "slots": ["itsai"]}
    with gateway(tmp_path, triton.address, **options) as running:
        replace(tmp_path / "routes.json", RouteTable(2, time.time(), slot))
        body = {"texts": [], "predictions": [], "version": "99.0.0", "a_new_field": {"deep": [1]}}
        assert running.ask(btauth("/TextSynapse", body)).status_code == 200
        until(lambda: metric(running, "headframe_schema_drift_total", route="TextSynapse", sign="unknown_field") == 1)
        body |= {"texts": ["four words to judge"], "version": "3.14.0"}
        assert running.ask(btauth("/TextSynapse", body)).status_code == 500  # the model's answer breaks the rules
