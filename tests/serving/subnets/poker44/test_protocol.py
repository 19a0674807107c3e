"""Poker44 on the road: what is hashed, what a model sees, and what goes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.errors import Refusal
from serving.subnets.base import Task
from serving.subnets.poker44.protocol import poker44
from serving.types import UnixSeconds

DATA = Path(__file__).resolve().parents[3] / "data"
NOW = UnixSeconds(1_795_370_737.0)
(ROUTE,) = poker44().routes
GOOD: dict[str, Any] = json.loads((DATA / "poker44_requests.json").read_text())["cases"][0]["request"]
WIRE = json.loads((DATA / "wire_poker44.json").read_text())["requests"]


def task_of(**changes: Any) -> Task:
    return ROUTE.parse({**GOOD, **changes}, NOW)


@pytest.mark.parametrize("case", WIRE, ids=lambda case: case["case"])
def test_the_hashed_texts_are_the_sdks(case: dict[str, Any]) -> None:
    assert list(ROUTE.hash_fields) == case["hash_fields"]
    values = ROUTE.hashed_values(json.loads(case["body_utf8"]))
    assert [str(value) for value in values] == case["hashed_strings"]


def test_absent_inputs_are_hashed_as_the_models_defaults() -> None:
    assert ROUTE.hashed_values({}) == ["microsession-v1", "", "", "", []]


@pytest.mark.parametrize("body", [{"items": [1]}, {"items": {}}, {"window_id": 5}, {"contract_version": None}])
def test_inputs_of_another_type_have_no_hash(body: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        ROUTE.hashed_values(body)
    assert caught.value.status == 400


def test_a_model_sees_decisions_and_no_ids() -> None:
    task = task_of()
    tensors, recorded = ROUTE.inputs(task, 9, None, NOW)
    assert set(tensors) == {"DECISIONS", "SEED"}
    seen = [json.loads(text) for text in tensors["DECISIONS"][0]]
    assert seen == [item["decisions"] for item in GOOD["items"]]
    assert tensors["DECISIONS"].shape == (1, len(GOOD["items"]))
    assert recorded == {"items": len(GOOD["items"]), "drift": []}


def test_from_tensor_to_reply() -> None:
    task = task_of()
    answer = ROUTE.answer(task, {"RISK": np.array([[0.25, 0.5]], np.float32)})
    assert ROUTE.check(task, answer) is None
    outputs = {"risk_scores": [0.25, 0.5], "predictions": [False, True]}
    assert json.loads(bytes(ROUTE.reply(task, answer, legacy=False))) == outputs
    assert json.loads(bytes(ROUTE.reply(task, answer, legacy=True))) == {**GOOD, **outputs}


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"RISK": np.array([[0.5]], np.float32)},
        {"RISK": np.array([[0.5, 0.5, 0.5]], np.float32)},
        {"RISK": np.array([0.5, 0.5], np.float32)},
        {"RISK": np.array([[0.5], [0.5]], np.float32)},
        {"RISK": np.array([[0, 1]], np.int32)},
        {"RISK": np.array([[0.5, np.nan]], np.float32)},
        {"RISK": np.array([[0.5, 1.2]], np.float32)},
        {"RISK": np.array([[0.5, -0.1]], np.float32)},
        {"RISK": np.array([[b"x", b"y"]], np.object_)},
    ],
)
def test_a_bad_model_output_is_stopped_and_raises_nothing(outputs: dict[str, Any]) -> None:
    task = task_of()
    assert ROUTE.check(task, ROUTE.answer(task, outputs))


def test_what_is_recorded_gives_the_same_task_again() -> None:
    for case in WIRE:
        task = ROUTE.parse(json.loads(case["body_utf8"]), NOW)
        again = ROUTE.restore(task.given or task.canonical, NOW)
        assert again.canonical == task.canonical
        assert again.request == task.request


def test_the_order_of_top_level_keys_and_other_fields_change_nothing() -> None:
    turned = dict(reversed(GOOD.items()))
    assert ROUTE.parse({**turned, "risk_scores": [0.1], "axon": {}}, NOW).canonical == task_of().canonical


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(Refusal, match="not Unicode"):
        task_of(window_id="\ud800")
