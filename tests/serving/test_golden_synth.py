"""Requests captured from Synth's own validator client, and tampered copies, through the whole gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.clock import Clock
from serving.state import AssetPrices, Neuron, NeuronTable, PriceBook, RouteTable, SlotRoute, write_state
from serving.subnets.base import Tensors
from serving.subnets.synth.protocol import synth
from serving.traffic.writer import read_records
from serving.types import Asset, Hotkey, ReleaseId, SlotName
from tests.serving import callers
from tests.serving.fake_triton import FakeTriton
from tests.serving.gateways import Box

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "wire_synth.json").read_text())
REQUESTS: list[dict[str, Any]] = GOLDEN["requests"]
TAMPERED: list[dict[str, Any]] = GOLDEN["tampered"]
STRICTER = {
    "signature header absent",
    "timeout header raised to 1e9, one day later",
    "version header lowered below 7.2, one day later",
}


def paths(tensors: Tensors) -> Tensors:
    """Flat paths of the shape asked for: valid, if dull."""
    increment, length = (int(value) for value in tensors["GRID"][0])
    n = int(tensors["N"].reshape(-1)[0])
    price = np.float32(tensors["PRICE"].reshape(-1)[0])
    return {"PATHS": np.full((1, n, length // increment + 1), price, np.float32)}


def request_of(case: dict[str, Any]) -> callers.Request:
    return callers.Request(case["path"], dict(case["headers"]), case["body_utf8"].encode(), case["method"])


@pytest.fixture
def box(tmp_path: Path, case: dict[str, Any]) -> Iterator[Box]:
    """The miner at which a case arrives."""
    senders = {one["sender_ss58"] for one in REQUESTS}
    neurons = [Neuron(Hotkey(sender), uid, 50_000.0, True) for uid, sender in enumerate(sorted(senders))]
    write_state(tmp_path / "neurons.json", NeuronTable(50, 0.0, neurons))
    route = SlotRoute(stable=ReleaseId("synth-a"))
    write_state(
        tmp_path / "routes.json", RouteTable(1, 0.0, {SlotName("synth-low"): route, SlotName("synth-high"): route})
    )
    start = int(REQUESTS[0]["nonce_ns"]) // 10**9
    assets = {
        Asset(json.loads(one["body_utf8"])["simulation_input"]["asset"]): AssetPrices(
            100.0, start, "test", simulated=True, proxy=False, history={}
        )
        for one in REQUESTS
    }
    write_state(tmp_path / "prices.json", PriceBook(float(start), 0.0, assets))
    clock = Clock(tmp_path / "clock.json")
    clock.set(start, rate=0.0)
    made = Box(
        tmp_path, FakeTriton(synth_a=paths), subnet=synth(use_stale=True),
        receiver=SimpleNamespace(ss58_address=case["receiver_ss58"]), started_ns=start * 10**9 - 10**12, clock=clock,
    )  # fmt: skip
    yield made
    made.close()


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case["case"])
async def test_every_captured_request_is_answered(box: Box, case: dict[str, Any]) -> None:
    box.wall.at = int(case["wall_time_ns"])
    reply = await box.ask(request_of(case))
    assert reply.status == 200
    assert reply.headers["bt_header_axon_status_code"] == "200"
    asked = json.loads(case["body_utf8"])["simulation_input"]
    answered = json.loads(reply.body)
    assert answered["simulation_input"] == asked
    assert len(answered["simulation_output"]) == asked["num_simulations"] + 2
    (record,) = read_records(box.home / "traffic")
    assert record.deadline_s == pytest.approx(min(case["timeout_s"], 120.0))


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case["case"])
async def test_the_window_is_the_sdks_and_closed_ahead(box: Box, case: dict[str, Any]) -> None:
    for moment in case["clock"]:
        box.wall.at = int(moment["now_ns"])
        status = (await box.ask(request_of(case))).status
        if "future" in moment["case"]:
            assert status == 401  # the SDK has no bound ahead
        elif moment["signature_step_accepts"]:
            assert status in {200, 401}
            if status == 401:  # the second moment inside the window: a replay, which the SDK refuses as well
                assert moment is not case["clock"][0]
        else:
            assert status == 401


@pytest.mark.parametrize("case", TAMPERED, ids=lambda case: case["case"])
async def test_tampered_copies(box: Box, case: dict[str, Any]) -> None:
    base = request_of(REQUESTS[case["base"]])
    if case["body_utf8"] is not None:
        base = base._replace(body=case["body_utf8"].encode())
    box.wall.at = int(case["now_ns"])
    status = (await box.ask(base.but(**case["header_changes"]))).status
    if case["case"] in STRICTER:
        assert case["signature_step_accepts"]
        assert status == 401
    elif case["signature_step_accepts"] and case["body_step_accepts"]:
        assert status == 200
    else:
        assert status in {400, 401, 403}
        assert not list(read_records(box.home / "traffic"))
