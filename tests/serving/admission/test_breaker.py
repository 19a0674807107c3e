"""Breakers: when they open, who may probe, and what closes them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.admission.breaker import FAILURES, PAUSE_S, SERVER_FAILURES, Breaker, Breakers
from serving.errors import Refusal
from serving.types import ReleaseId

A, B = ReleaseId("tiny-a"), ReleaseId("tiny-b")


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Breaker:
    breaker = Breaker(3, clock=time)
    for _ in range(3):
        breaker.bad()
    return breaker


def test_a_few_failures_in_a_row_open_it_and_a_good_answer_in_between_does_not() -> None:
    breaker = Breaker(3, clock=Time())
    for _ in range(2):
        breaker.bad()
        breaker.bad()
        assert breaker.state == "closed"
        breaker.good()
    for _ in range(3):
        breaker.bad()
    assert (breaker.state, breaker.opened) == ("open", 1)


def test_while_it_is_open_nobody_asks_and_everybody_hears_when_to_come_back() -> None:
    breaker = opened(Time())
    with pytest.raises(Refusal) as refused, breaker.asking():
        raise AssertionError("asked")
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "breaker_open", PAUSE_S)


def test_after_the_pause_one_asks_at_a_time_until_one_is_answered() -> None:
    time = Time()
    breaker = opened(time)
    time.now += PAUSE_S
    with breaker.asking():
        assert breaker.wait_s() > 0
        with pytest.raises(Refusal), breaker.asking():
            raise AssertionError("two at once")
    assert breaker.wait_s() == 0  # it left without a word: hung up
    with breaker.asking():
        breaker.bad()
    assert breaker.wait_s() == PAUSE_S
    time.now += PAUSE_S
    with breaker.asking():
        breaker.good()
    assert breaker.wait_s() == 0
    assert breaker.opened == 1


def test_one_release_that_hangs_does_not_close_the_way_to_another() -> None:
    breakers = Breakers(clock=Time())
    for _ in range(10 * FAILURES):
        breakers.late(A, 10.0, None)
    assert not breakers.closed(A)
    assert breakers.closed(B)
    breakers.check([A, B])
    with pytest.raises(Refusal):
        breakers.check([A])
    assert breakers.open_ones() == (False, 1)


def test_two_releases_that_hang_with_no_answer_between_are_the_servers_fault() -> None:
    breakers = Breakers(clock=Time())
    for number in range(SERVER_FAILURES + 1):
        breakers.late((A, B)[number % 2], 10.0, None)
    assert breakers.open_ones() == (True, 0)
    with pytest.raises(Refusal):
        breakers.check([ReleaseId("tiny-c")])
    breakers.good(A)  # one that was asked before answers after all
    assert breakers.open_ones() == (False, 0)


def test_a_server_that_is_away_for_whole_requests_opens_its_breaker() -> None:
    breakers = Breakers(clock=Time())
    for _ in range(SERVER_FAILURES):
        breakers.check([A])
        assert not breakers.gone
        breakers.away(10.0)
    assert breakers.gone
    assert breakers.open_ones() == (True, 0)


@pytest.mark.parametrize(("waited", "usual"), [(0.5, None), (3.0, 2.0)])
def test_an_impatient_caller_proves_nothing(waited: float, usual: float | None) -> None:
    breakers = Breakers(clock=Time())
    for _ in range(10 * FAILURES):
        breakers.late(A, waited, usual)
        breakers.away(0.5)
    assert breakers.open_ones() == (False, 0)


def test_breakers_of_old_releases_are_forgotten() -> None:
    breakers = Breakers(clock=Time())
    for _ in range(FAILURES):
        breakers.late(A, 10.0, None)
    for number in range(1000):
        breakers.good(ReleaseId(f"tiny-{number}"))
    assert len(breakers._releases) <= 65
    assert not breakers.closed(A)


class Asking(RuleBasedStateMachine):
    """Whatever comes of the asks, an open breaker lets nobody in, and a half-open one lets one in at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.breaker = Breaker(3, clock=self.time)
        self.asks: list[contextlib.AbstractContextManager[None]] = []
        self.probes: list[contextlib.AbstractContextManager[None]] = []

    @rule()
    def ask(self) -> None:
        state = self.breaker.state
        try:
            ask = self.breaker.asking()
            ask.__enter__()
        except Refusal:
            assert state == "open" or self.probes
            return
        assert state != "open"
        if state == "half_open":
            assert not self.probes
            self.probes.append(ask)
        self.asks.append(ask)

    @precondition(lambda self: self.asks)
    @rule(pick=st.integers(0, 9), word=st.sampled_from(["good", "bad", ""]))
    def end(self, pick: int, word: str) -> None:
        ask = self.asks.pop(pick % len(self.asks))
        if word:
            getattr(self.breaker, word)()
        ask.__exit__(None, None, None)
        if ask in self.probes:
            self.probes.remove(ask)
        if word == "good":
            assert self.breaker.state == "closed"

    @rule(seconds=st.floats(0, 2 * PAUSE_S))
    def time_passes(self, seconds: float) -> None:
        self.time.now += seconds

    @invariant()
    def somebody_may_ask_unless_it_is_open_or_being_probed(self) -> None:
        assert (self.breaker.wait_s() > 0) == (
            self.breaker.state == "open" or (self.breaker.state == "half_open" and bool(self.probes))
        )


Asking.TestCase.settings = settings(max_examples=100, deadline=None)
TestAsking = Asking.TestCase
