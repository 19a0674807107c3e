"""A server that is asked whether it lives, and what its word or its silence changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from serving.admission import silence
from serving.admission.breaker import Breakers
from serving.admission.silence import HOLDS_S, look, watch
from serving.errors import Refusal
from serving.types import ReleaseId
from tests.serving.admission.test_breaker import A, Time


class Log:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def warning(self, event: str) -> None:
        self.told.append(event)

    exception = warning


class Server:
    """Says that it lives, or nothing; `meanwhile` happens while it is asked."""

    def __init__(self) -> None:
        self.stopped = False
        self.broken = False
        self.asked = 0
        self.meanwhile: Callable[[], None] = lambda: None

    async def silent(self, within_s: float) -> bool:
        self.asked += 1
        self.meanwhile()
        if self.broken:
            raise ZeroDivisionError
        return self.stopped


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


async def test_newcomers_to_a_silent_server_are_refused_until_it_answers_the_question() -> None:
    scene = Scene()
    scene.server.stopped = True
    assert not scene.refused()
    await scene.look()
    assert scene.refused()
    assert not scene.breakers.closed(A)  # no shadow is sent there either
    assert scene.breakers.open_ones() == (True, 0)
    scene.server.stopped = False
    await scene.look()
    assert not scene.refused()
    assert scene.breakers.closed(A)
    assert scene.log.told == ["the model server is silent", "the model server speaks again"]


async def test_the_first_answer_to_a_call_ends_the_silence_and_the_next_question_does_not_begin_it_again() -> None:
    scene = Scene()
    scene.server.stopped = True
    await scene.look()
    scene.breakers.good(A)
    assert not scene.refused()
    seen = []
    scene.server.meanwhile = lambda: seen.append(scene.refused())
    scene.server.stopped = False
    await scene.look()
    assert seen == [False]


async def test_whoever_is_answered_while_the_question_is_not_shows_that_the_server_lives() -> None:
    scene = Scene()
    scene.server.stopped = True
    scene.server.meanwhile = lambda: scene.breakers.good(ReleaseId("another"))
    await scene.look()
    assert not scene.refused()
    assert scene.log.told == []


async def test_a_finding_that_nobody_renews_holds_no_more() -> None:
    scene = Scene()
    scene.server.stopped = True
    for _ in range(3):
        await scene.look()
        scene.time.now += HOLDS_S - 0.1
        assert scene.refused()
    scene.time.now += 0.2
    assert not scene.refused()


@pytest.mark.parametrize("broken", [False, True])
async def test_the_server_is_asked_while_calls_are_in_flight_or_it_is_silent_and_else_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    monkeypatch.setattr(silence, "ASK_EVERY_S", 0.0)
    scene, calls = Scene(), dict.fromkeys([A], 1)
    scene.server.stopped, scene.server.broken = True, broken

    async def turns() -> int:
        before = scene.server.asked
        for _ in range(20):
            await asyncio.sleep(0)
        return scene.server.asked - before

    watching = asyncio.create_task(watch(scene.server, scene.breakers, calls, scene.log))
    assert await turns() > 2
    calls.clear()
    assert (await turns() > 2) != broken
    scene.server.stopped = False
    await turns()
    assert await turns() == 0
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
