"""What is thought of how long an answer takes."""

from __future__ import annotations

import pytest

from serving.admission.estimate import FRESH_S, LEAST, ServiceTimes
from serving.types import SlotName

SLOT, OTHER = SlotName("synth-low"), SlotName("synth-high")


class Taught:
    """Times on a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.times = ServiceTimes(clock=lambda: self.now)

    def learn(self, *seconds: float, slot: SlotName = SLOT) -> None:
        for each in seconds:
            self.times.learn(slot, each)


def test_too_little_and_too_old_says_nothing() -> None:
    taught = Taught()
    taught.learn(*[1.0] * (LEAST - 1))
    assert taught.times.of(SLOT) is None
    taught.learn(1.0)
    assert taught.times.of(SLOT) == 1.0
    assert taught.times.of(OTHER) is None
    taught.now += FRESH_S
    assert taught.times.of(SLOT) is None


def test_a_slow_spell_long_ago_does_not_weigh_on_what_is_learnt_anew() -> None:
    taught = Taught()
    taught.learn(*[50.0] * 20)
    taught.now += FRESH_S
    taught.learn(1.0)
    assert taught.times.of(SLOT) is None
    taught.learn(*[1.0] * (LEAST - 1))
    assert taught.times.of(SLOT) == 1.0


def test_the_mean_of_the_first_and_then_mostly_of_the_last() -> None:
    taught = Taught()
    taught.learn(1.0, 2.0, 3.0)
    assert taught.times.of(SLOT) == pytest.approx(2.0)
    taught.learn(*[10.0] * 40)
    assert 9.9 < (taught.times.of(SLOT) or 0) < 10.0


def test_slots_are_apart() -> None:
    taught = Taught()
    taught.learn(*[0.1] * 4)
    taught.learn(*[2.1] * 4, slot=OTHER)
    assert taught.times.of(SLOT) == pytest.approx(0.1)
    assert taught.times.of(OTHER) == pytest.approx(2.1)


def test_a_time_out_teaches_only_what_is_longer_than_was_thought() -> None:
    taught = Taught()
    taught.times.late(SLOT, 9.0)
    assert taught.times.of(SLOT) is None
    taught.learn(*[1.0] * 8)
    taught.times.late(SLOT, 0.5)
    assert taught.times.of(SLOT) == 1.0
    taught.times.late(SLOT, 9.0)
    assert taught.times.of(SLOT) == pytest.approx(2.0)


def test_what_answers_usually_take_is_known_for_ever_and_time_outs_do_not_change_it() -> None:
    taught = Taught()
    assert taught.times.usual(SLOT) is None
    taught.learn(*[3.0] * 5)
    taught.now += 100 * FRESH_S
    for _ in range(20):
        taught.times.late(SLOT, 50.0)
    assert taught.times.usual(SLOT) == 3.0
    taught.learn(*[1.0] * 40)
    assert taught.times.usual(SLOT) == pytest.approx(1.0, abs=0.05)
