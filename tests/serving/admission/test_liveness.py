"""A server that is asked whether it lives, and what its word or its silence changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from serving.admission import liveness
from serving.admission.breaker import PAUSE_S, SERVER_FAILURES, Breakers
from serving.admission.liveness import HOLDS_S, look, watch
from serving.errors import Refusal
from serving.types import Life, ReleaseId
from tests.serving.admission.test_breaker import A, Time


class Log:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def warning(self, event: str) -> None:
        self.told.append(event)

    exception = warning


class Server:
    """Says that it lives, or what else is set; `meanwhile` happens while it is asked."""

    def __init__(self) -> None:
        self.says: Life = "lives"
        self.broken = False
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def life(self, within_s: float) -> Life:
        self.asked += 1
        self.meanwhile()
        if self.broken:
            raise ZeroDivisionError
        return self.says


class Scene:
    """One worker's breakers, and the server that it asks."""

    def __init__(self) -> None:
        self.time, self.server, self.log = Time(), Server(), Log()
        self.breakers = Breakers(clock=self.time)

    async def look(self) -> None:
        await look(self.server, self.breakers, self.log)

    def refused(self) -> bool:
        refused = None
        try:
            self.breakers.check([A])
        except Refusal as error:
            refused = error.status, error.code, error.retry_after
        assert refused in (None, (503, "breaker_open", 2))
        return refused is not None

    def goes_away(self) -> None:
        for _ in range(SERVER_FAILURES):
            self.breakers.away(10.0)


async def test_newcomers_to_a_silent_server_are_refused_until_it_answers_the_question() -> None:
    scene = Scene()
    scene.server.says = "silent"
    assert not scene.refused()
    await scene.look()
    assert scene.refused()
    assert not scene.breakers.closed(A)  # no shadow is sent there either
    assert scene.breakers.open_ones() == (True, 0)
    scene.server.says = "lives"
    await scene.look()
    assert not scene.refused()
    assert scene.breakers.closed(A)
    assert scene.log.told == ["the model server is silent", "the model server speaks again"]


async def test_the_first_answer_to_a_call_ends_the_silence_and_the_next_question_does_not_begin_it_again() -> None:
    scene = Scene()
    scene.server.says = "silent"
    await scene.look()
    scene.breakers.good(A)
    assert not scene.refused()
    seen = []
    scene.server.meanwhile = lambda: seen.append(scene.refused())
    scene.server.says = "lives"
    await scene.look()
    assert seen == [False]


async def test_whoever_is_answered_while_the_question_is_not_shows_that_the_server_lives() -> None:
    scene = Scene()
    scene.server.says = "silent"
    scene.server.meanwhile = lambda: scene.breakers.good(ReleaseId("another"))
    await scene.look()
    assert not scene.refused()
    assert scene.log.told == []


async def test_a_finding_that_nobody_renews_holds_no_more() -> None:
    scene = Scene()
    scene.server.says = "silent"
    for _ in range(3):
        await scene.look()
        scene.time.now += HOLDS_S - 0.1
        assert scene.refused()
    scene.time.now += 0.2
    assert not scene.refused()


async def test_a_server_that_nobody_asks_any_more_is_asked_again_as_soon_as_it_says_that_it_is_back() -> None:
    scene = Scene()
    scene.goes_away()
    scene.server.says = "away"
    for _ in range(3):
        await scene.look()
        assert scene.refused()
    scene.server.says = "lives"
    await scene.look()
    assert not scene.refused()
    assert scene.breakers.closed(A)
    assert scene.log.told == ["the model server is back"]


async def test_a_server_that_says_that_it_lives_and_answers_nobody_is_believed_once() -> None:
    scene = Scene()
    scene.goes_away()
    await scene.look()
    assert not scene.refused()
    scene.goes_away()
    for _ in range(3):
        await scene.look()
        assert scene.refused()
    scene.time.now += PAUSE_S
    assert not scene.refused()  # one at a time may try
    scene.breakers.good(A)
    scene.goes_away()
    await scene.look()
    assert not scene.refused()


async def test_that_a_server_lives_closes_no_breaker_that_its_late_answers_opened() -> None:
    scene = Scene()
    scene.breakers.away(10.0)
    for late in (A, ReleaseId("another")) * SERVER_FAILURES:
        scene.breakers.late(late, 10.0, None)
    assert scene.refused()
    await scene.look()
    assert scene.refused()
    assert scene.log.told == []


@pytest.mark.parametrize("broken", [False, True])
async def test_the_server_is_asked_while_calls_are_in_flight_or_it_is_silent_and_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr(liveness, "ASK_EVERY_S", 0.0)
    scene, calls = Scene(), dict.fromkeys([A], 1)
    scene.server.says, scene.server.broken = "silent", broken

    async def turns() -> int:
        before = scene.server.asked
        for _ in range(20):
            await asyncio.sleep(0)
        return scene.server.asked - before

    watching = asyncio.create_task(watch(scene.server, scene.breakers, calls, scene.log))
    assert await turns() > 2
    calls.clear()
    assert (await turns() > 2) != broken
    scene.server.says = "lives"
    await turns()
    assert await turns() == 0
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_a_server_that_is_gone_is_asked_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_EVERY_S", 60.0)
    monkeypatch.setattr(liveness, "ASK_GONE_EVERY_S", 0.0)
    scene = Scene()
    scene.goes_away()
    scene.server.says = "away"
    watching = asyncio.create_task(watch(scene.server, scene.breakers, {}, scene.log))
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.server.asked > 2
    scene.server.says = "lives"
    for _ in range(20):
        await asyncio.sleep(0)
    assert not scene.breakers.gone
    asked = scene.server.asked
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.server.asked == asked
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
