"""It's AI on the road: words counted as the validator counts, probes left alone, answers on the coarse grid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.subnets.base import Task
from serving.subnets.itsai.protocol import itsai
from serving.subnets.itsai.rules import answerable
from serving.types import UnixSeconds

NOW = UnixSeconds(1_795_370_737.0)
(ROUTE,) = itsai().routes
TEXTS = ["one two\u00a0three", "", "zero\u200bwidth \u2003 four"]
"""Three words, none, and two: a zero-width space is no space, a no-break space is one."""


def task_of(**changes: Any) -> Task:
    return ROUTE.parse({"texts": TEXTS, "predictions": [], "version": "3.14.0", **changes}, NOW)


@pytest.mark.parametrize(
    ("version", "wants"),
    [
        ("3.8.0", True), ("3.14.0", True), ("3.9.99", True), ("3.7.99", False), ("3.14.1", False), ("4.0.0", False),
        ("2.20.20", False), ("", False), ("3.10", False), ("3.10.0.0", False), ("v3.10.0", False), ("3.10.0\n", False),
        ("٣.١٠.٠", False), ("3.10.0" + "0" * 5000, False),
    ],
)  # fmt: skip
def test_which_versions_want_an_answer(version: str, wants: bool) -> None:
    assert answerable(version) is wants
    assert task_of(version=version).needs_model is wants


def test_a_probe_gets_an_empty_answer_whatever_a_model_says() -> None:
    task = task_of(version="3.7.1")
    answer = ROUTE.answer(task, {})
    assert ROUTE.check(task, answer) is None
    assert json.loads(bytes(ROUTE.reply(task, answer, legacy=True))) == {
        "texts": TEXTS,
        "version": "3.7.1",
        "predictions": [],
    }
    assert ROUTE.check(task, np.array([0.5])) is not None


def test_without_a_version_nothing_is_answered() -> None:
    task = ROUTE.parse({"texts": TEXTS}, NOW)
    assert not task.needs_model


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_texts_without_a_word_need_no_model(texts: list[str]) -> None:
    task = task_of(texts=texts)
    assert not task.needs_model
    assert json.loads(bytes(ROUTE.reply(task, ROUTE.answer(task, {}), legacy=False))) == {"predictions": []}


def test_tensors_follow_the_contract() -> None:
    tensors, recorded = ROUTE.inputs(task_of(), 7, None, NOW)
    assert tensors["TEXTS"].tolist() == [[text.encode() for text in TEXTS]]
    assert tensors["WORDS"].tolist() == [[3, 0, 2]]
    assert tensors["WORDS"].dtype == np.int32
    assert tensors["SEED"].tolist() == [[7]]
    assert recorded == {"texts": 3, "words": 5, "drift": []}


def test_the_answer_is_a_list_for_each_text_on_the_coarse_grid() -> None:
    task = task_of()
    answer = ROUTE.answer(task, {"PROBABILITIES": np.array([[0.1249, 0.125, 0.126, 1.0, -0.0]], np.float32)})
    assert ROUTE.check(task, answer) is None
    legacy = json.loads(bytes(ROUTE.reply(task, answer, legacy=True)))
    assert legacy == {"texts": TEXTS, "version": "3.14.0", "predictions": [[0.12, 0.12, 0.13], [], [1.0, 0.0]]}
    assert b"-0" not in bytes(ROUTE.reply(task, answer, legacy=False))


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"PROBABILITIES": np.full((1, 4), 0.5, np.float32)},
        {"PROBABILITIES": np.full((1, 6), 0.5, np.float32)},
        {"PROBABILITIES": np.full((2, 5), 0.5, np.float32)},
        {"PROBABILITIES": np.full(5, 0.5, np.float32)},
        {"PROBABILITIES": np.full((1, 5), 1, np.int64)},
        {"PROBABILITIES": np.array([[0.5, 0.5, np.nan, 0.5, 0.5]], np.float32)},
        {"PROBABILITIES": np.array([[0.5, 0.5, np.inf, 0.5, 0.5]], np.float32)},
        {"PROBABILITIES": np.array([[0.5, 0.5, 1.01, 0.5, 0.5]], np.float32)},
        {"PROBABILITIES": np.array([[0.5, 0.5, -0.01, 0.5, 0.5]], np.float32)},
    ],
)
def test_a_bad_model_output_is_stopped_and_raises_nothing(outputs: dict[str, Any]) -> None:
    task = task_of()
    assert ROUTE.check(task, ROUTE.answer(task, outputs))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"texts": None}, "bad_input"),
        ({"texts": "one text"}, "bad_input"),
        ({"texts": {"0": "a"}}, "bad_input"),
        ({"texts": ["a", 1]}, "bad_input"),
        ({"texts": ["a"] * 1025}, "too_many_texts"),
        ({"texts": ["\ud800"]}, "bad_text"),
        ({"version": 3.14}, "bad_input"),
        ({"version": None}, "bad_input"),
    ],
)
def test_a_bad_field_is_refused_in_one_line(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        task_of(**changes)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert caught.value.message.isascii()


def test_fields_that_we_do_not_know_are_told_and_taken() -> None:
    assert task_of().drift == ()
    assert task_of(name="TextSynapse", timeout=20.0, dendrite={}, axon={}).drift == ()
    assert task_of(language="en").drift == ("unknown_field",)


@given(st.lists(st.text(max_size=40), max_size=6), st.sampled_from(["3.14.0", "3.7.0", "x"]))
def test_what_is_recorded_gives_the_same_task_again(texts: list[str], version: str) -> None:
    task = task_of(texts=texts, version=version)
    again = ROUTE.restore(task.given or task.canonical, NOW)
    assert again.canonical == task.canonical
    assert again.needs_model == task.needs_model
    assert task.request.words.tolist() == [len(text.split()) for text in texts]


VALUES = st.none() | st.text() | st.lists(st.text()) | st.integers()


@given(st.dictionaries(st.sampled_from(["texts", "version", "predictions"]), VALUES))
def test_any_body_is_understood_or_refused(body: dict[str, Any]) -> None:
    try:
        task = ROUTE.parse(body, NOW)
    except Refusal as error:
        refusal = error
    else:
        assert task.request.texts == body["texts"]
        return
    assert refusal.status == 400
