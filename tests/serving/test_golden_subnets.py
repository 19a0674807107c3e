"""Requests captured from the stock client for It's AI and Poker44, and tampered copies, through the whole gateway."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from bittensor_core import Keypair

from serving.state import Neuron, NeuronTable, RouteTable, SlotRoute, write_state
from serving.subnets.base import Subnet, Tensors
from serving.subnets.itsai.protocol import itsai
from serving.subnets.poker44.protocol import poker44
from serving.traffic.records import TrafficRecord
from serving.traffic.writer import read_records
from serving.types import Hotkey, ReleaseId, SlotName, UnixSeconds
from tests.serving import callers
from tests.serving.fake_triton import FakeTriton, Model
from tests.serving.gateways import Box

DATA = Path(__file__).parents[1] / "data"
STRICTER = {
    "signature header absent",
    "timeout header raised to 1e9, one day later",
    "version header lowered below 7.2, one day later",
}
"""What the stock server of some SDK accepts and we refuse."""


def words(tensors: Tensors) -> Tensors:
    """A tagger that is sure of every second word."""
    total = int(tensors["WORDS"].sum())
    return {"PROBABILITIES": (np.arange(total, dtype=np.float32) % 2)[np.newaxis] * np.float32(0.987)}


def risk(tensors: Tensors) -> Tensors:
    """The longer the text of an item's decisions, the more of a bot."""
    return {"RISK": np.array([[len(text) / 1000 for text in tensors["DECISIONS"][0]]], np.float32)}


class Golden(NamedTuple):
    subnet: Subnet
    model: Model
    requests: list[dict[str, Any]]
    tampered: list[dict[str, Any]]
    inputs: tuple[str, ...]
    """Fields that the reply must echo."""


def golden(name: str, subnet: Subnet, model: Model, *inputs: str) -> Golden:
    vectors = json.loads((DATA / f"wire_{name}.json").read_text())
    return Golden(subnet, model, vectors["requests"], vectors["tampered"], inputs)


GOLDEN = {
    "itsai": golden("itsai", itsai(), words, "texts", "version"),
    "poker44": golden(
        "poker44", poker44(), risk, "contract_version", "window_id", "dataset_hash", "query_id", "items"
    ),
}  # fmt: skip
REQUESTS = [
    pytest.param(name, case, id=f"{name}: {case['case']}") for name, data in GOLDEN.items() for case in data.requests
]
TAMPERED = [
    pytest.param(name, case, id=f"{name}: {case['case']}") for name, data in GOLDEN.items() for case in data.tampered
]


def request_of(case: dict[str, Any]) -> callers.Request:
    return callers.Request(case["path"], dict(case["headers"]), case["body_utf8"].encode(), case["method"])


MakeBox = Callable[..., Box]


def make_box(home: Path, name: str, *, released: bool = True, receiver: str | None = None) -> Box:
    data = GOLDEN[name]
    senders = sorted({case["sender_ss58"] for case in data.requests})
    neurons = [Neuron(Hotkey(sender), uid, 50_000.0, True) for uid, sender in enumerate(senders)]
    write_state(home / "neurons.json", NeuronTable(data.subnet.netuid, 0.0, neurons))
    slots = {SlotName(name): SlotRoute(stable=ReleaseId("some-release"))} if released else {}
    write_state(home / "routes.json", RouteTable(1, 0.0, slots))
    return Box(
        home, FakeTriton(some_release=data.model), subnet=data.subnet,
        receiver=SimpleNamespace(ss58_address=receiver or data.requests[0]["receiver_ss58"]),
        started_ns=int(data.requests[0]["nonce_ns"]) - 10**15,
    )  # fmt: skip


@pytest.fixture
def box_of(tmp_path: Path) -> Iterator[MakeBox]:
    """Makes the gateway of a subnet, with a release in its slot unless told otherwise."""
    made: list[Box] = []

    def make(name: str, **options: Any) -> Box:
        made.append(make_box(tmp_path, name, **options))
        return made[-1]

    yield make
    for box in made:
        box.close()


def recorded(box: Box) -> TrafficRecord:
    (record,) = read_records(box.home / "traffic")
    return record


@pytest.mark.parametrize(("name", "case"), REQUESTS)
async def test_every_captured_request_is_answered(box_of: MakeBox, name: str, case: dict[str, Any]) -> None:
    box, data = box_of(name), GOLDEN[name]
    box.wall.at = int(case["wall_time_ns"])
    reply = await box.ask(request_of(case))
    assert reply.status == 200
    assert reply.headers["bt_header_axon_status_code"] == "200"
    asked, answered = json.loads(case["body_utf8"]), json.loads(reply.body)
    assert {field: answered[field] for field in data.inputs} == {field: asked[field] for field in data.inputs}
    assert str(answered[data.inputs[-1]]) == str(asked[data.inputs[-1]])  # key order and 1 against 1.0 too
    record = recorded(box)
    assert record.deadline_s == case["timeout_s"]
    task = data.subnet.routes[0].restore(record.given or record.request, UnixSeconds(record.subnet_at))
    assert task.canonical == record.request


async def test_a_main_call_gets_a_value_for_every_word(box_of: MakeBox) -> None:
    case = GOLDEN["itsai"].requests[2]
    box = box_of("itsai")
    box.wall.at = int(case["wall_time_ns"])
    answered = json.loads((await box.ask(request_of(case))).body)
    texts = json.loads(case["body_utf8"])["texts"]
    assert [len(values) for values in answered["predictions"]] == [len(text.split()) for text in texts]
    assert {value for values in answered["predictions"] for value in values} == {0.0, 0.99}


@pytest.mark.parametrize("released", [True, False])
async def test_a_version_probe_is_left_unanswered_and_no_model_is_asked(box_of: MakeBox, released: bool) -> None:
    case = GOLDEN["itsai"].requests[1]
    box = box_of("itsai", released=released)
    box.wall.at = int(case["wall_time_ns"])
    reply = await box.ask(request_of(case))
    answered = json.loads(reply.body)
    assert answered["predictions"] == []
    assert answered["texts"] == json.loads(case["body_utf8"])["texts"]
    assert box.count("headframe_release_requests_total") == 0
    record = recorded(box)
    assert (record.status, record.code, record.release, record.answer_bytes) == (200, "ok", None, len(reply.body))


async def test_a_version_probe_needs_no_place_in_triton(box_of: MakeBox) -> None:
    case = GOLDEN["itsai"].requests[1]
    box = box_of("itsai")
    box.wall.at = int(case["wall_time_ns"])
    admission, slot = box.gateway.admission, SlotName("itsai")
    while not admission.busy(slot):
        await admission.enter(slot=slot, stake=1.0, deadline=math.inf)
    full = admission.in_flight
    async with asyncio.timeout(60):
        assert (await box.ask(request_of(case))).status == 200
    assert (admission.in_flight, admission.waiting) == (full, 0)


@pytest.mark.parametrize(("name", "case"), REQUESTS)
async def test_the_window_is_the_sdks(box_of: MakeBox, name: str, case: dict[str, Any]) -> None:
    box = box_of(name)
    accepted = 0
    for moment in case["clock"]:
        box.wall.at = int(moment["now_ns"])
        reply = await box.ask(request_of(case))
        fresh = moment["signature_step_accepts"] and "future" not in moment["case"]  # the SDK has no bound ahead
        assert reply.status == (200 if fresh and not accepted else 401)  # and each nonce once
        accepted += reply.status == 200
    assert accepted == 1


@pytest.mark.parametrize(("name", "case"), TAMPERED)
async def test_tampered_copies(box_of: MakeBox, name: str, case: dict[str, Any]) -> None:
    box = box_of(name, receiver=case["receiver_ss58"])
    base = request_of(GOLDEN[name].requests[case["base"]])
    if case["body_utf8"] is not None:
        base = base._replace(body=case["body_utf8"].encode())
    box.wall.at = int(case["now_ns"])
    status = (await box.ask(base.but(**case["header_changes"]))).status
    if case["case"] in STRICTER:
        assert status == 401
    elif case["signature_step_accepts"] and case["body_step_accepts"]:
        assert status == 200
    else:
        assert status in {400, 401, 403}


@pytest.mark.parametrize(("name", "status"), [("itsai", 422), ("poker44", 503)])
async def test_a_slot_without_a_release_says_so_by_the_status_that_is_tried_again(
    box_of: MakeBox, name: str, status: int
) -> None:
    box = box_of(name, released=False)
    case = GOLDEN[name].requests[0]
    box.wall.at = int(case["wall_time_ns"])
    reply = await box.ask(request_of(case))
    assert reply.status == status
    assert reply.headers["bt_header_axon_status_code"] == str(status)  # all that SDK 6 to 7.1 reads
    assert reply.headers["retry-after"] == "30"
    record = recorded(box)
    assert (record.status, record.code) == (503, "no_release")


FIELDS: dict[str, dict[str, Any]] = {
    name: {field: json.loads(data.requests[0]["body_utf8"])[field] for field in data.inputs}
    for name, data in GOLDEN.items()
}


@pytest.mark.parametrize(("name", "outputs"), [("itsai", ["predictions"]), ("poker44", ["risk_scores", "predictions"])])
async def test_btauth_callers_get_the_outputs_alone(box_of: MakeBox, name: str, outputs: list[str]) -> None:
    case = GOLDEN[name].requests[0]
    box = box_of(name)
    sender = Keypair.create_from_uri(case["sender_uri"])
    receiver = Keypair.create_from_uri(case["receiver_uri"])
    reply = await box.ask(callers.btauth(case["path"], FIELDS[name], sender=sender, receiver=receiver))
    assert reply.status == 200
    assert list(json.loads(reply.body)) == outputs
    assert not any(header.startswith("bt_header") for header in reply.headers)


async def test_an_odd_request_is_answered_and_counted(box_of: MakeBox) -> None:
    box = box_of("poker44")
    case = GOLDEN["poker44"].requests[0]
    sender, receiver = (Keypair.create_from_uri(case[uri]) for uri in ("sender_uri", "receiver_uri"))
    odd = {**FIELDS["poker44"], "dataset_hash": "AB" * 32, "extra": 1}
    assert (await box.ask(callers.btauth(case["path"], odd, sender=sender, receiver=receiver))).status == 200
    signs = ["unknown_field", "dataset_hash_spelling", "dataset_hash_of_other_items"]
    assert recorded(box).inputs["drift"] == signs
    for sign in signs:
        assert box.count("headframe_schema_drift_total", route=case["path"][1:], sign=sign) == 1
    assert box.count("headframe_schema_drift_total") == len(signs)
