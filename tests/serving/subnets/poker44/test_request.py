"""Poker44's requests: accepted as the validator's own check accepts them, refused in one line, odd ones named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.subnets.poker44.request import dataset_hash, drift, parse

DATA = Path(__file__).resolve().parents[3] / "data"
CASES: list[dict[str, Any]] = json.loads((DATA / "poker44_requests.json").read_text())["cases"]
HASHES: list[dict[str, Any]] = json.loads((DATA / "poker44_hashes.json").read_text())["cases"]
GOOD: dict[str, Any] = CASES[0]["request"]
OTHER_ITEMS = "dataset_hash_of_other_items"
ODD = {
    "dataset_hash upper case": ["dataset_hash_spelling"],
    "dataset_hash with blanks around": ["dataset_hash_spelling"],
    "schema_version a float 4.1": ["schema_version_type"],
    "decision_number 0": ["decision_number"],
    "decision_number negative": ["decision_number"],
    "decision_number True": ["decision_number", "decision_number_repeats"],  # True is 1
    "item window differs from request window": ["item_window"],
    "same item_id twice": ["item_id_repeats"],
    "item_id an int": ["item_id_type"],
    "item_id very long": ["item_id_type"],
    "decision numbers repeat": ["decision_number_repeats"],
    "unknown top-level field": ["unknown_field"],
}
"""What an accepted golden case is odd in; the others are not."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_requests(case: dict[str, Any]) -> None:
    if case["accepted"]:
        request = parse(case["request"])
        assert request.items == case["request"]["items"]
        return
    with pytest.raises(Refusal) as caught:
        parse(case["request"])
    assert caught.value.status == 400
    assert caught.value.message.isascii()
    assert len(caught.value.message) <= 200


def test_all_cases_are_there() -> None:
    assert len(CASES) == 74
    assert sum(case["accepted"] for case in CASES) == 23


@pytest.mark.parametrize("case", [case for case in CASES if case["accepted"]], ids=lambda case: case["name"])
def test_what_is_odd_about_an_accepted_request_is_named(case: dict[str, Any]) -> None:
    signs = drift(parse(case["request"]), case["request"])
    named = [sign for sign in signs if sign != OTHER_ITEMS]  # most cases were changed after their hash was made
    assert named == ODD.get(case["name"], [])
    assert named or case["json_schema_valid_items"] is not False


def test_a_hash_of_other_items_is_odd() -> None:
    signs = {case["name"]: drift(parse(case["request"]), case["request"]) for case in CASES if case["accepted"]}
    assert OTHER_ITEMS in signs["dataset_hash not of these items"]
    assert signs["plain, 2 items"] == signs["plain, 1 item"] == signs["plain, many items"] == []


@pytest.mark.parametrize("case", HASHES, ids=range(len(HASHES)))
def test_the_dataset_hash_is_the_subnets(case: dict[str, Any]) -> None:
    assert dataset_hash(case["items"]) == case["dataset_hash"]


def test_a_list_for_a_word_is_refused_and_no_error_of_ours() -> None:
    body = copy.deepcopy(GOOD)
    body["items"][0]["decisions"][1]["pressure"] = ["no_call"]
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert caught.value.message == "items[0] has a decision that has an unknown pressure"


@pytest.mark.parametrize("place", ["item_id", "window_id"])
def test_a_key_that_tells_the_truth_is_found_at_any_depth(place: str) -> None:
    body = copy.deepcopy(GOOD)
    deep: Any = {"Is_Bot": 1}
    for _ in range(5_000):
        deep = [deep]
    body["items"][1][place] = deep
    with pytest.raises(Refusal, match="tells the truth"):
        parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    ("contract_version",), ("window_id",), ("dataset_hash",), ("query_id",), ("items",), ("items", 0),
    ("items", 0, "schema_version"), ("items", 1, "item_id"), ("items", 0, "window_id"), ("items", 0, "decisions"),
    ("items", 1, "decisions", 2), *(("items", 0, "decisions", 3, key) for key in GOOD["items"][0]["decisions"][0]),
]  # fmt: skip


@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_understood_or_refused(path: tuple[Any, ...], value: Any) -> None:
    body = copy.deepcopy(GOOD)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    try:
        request = parse(body)
    except Refusal as error:
        refusal = error
    else:
        drift(request, body)
        assert json.loads(request.spelt())["items"] == body["items"]
        return
    assert refusal.status == 400
    assert refusal.message.isascii()
