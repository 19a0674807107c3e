"""Learns within seconds that the model server says nothing any more, and within a moment that it is back.

While calls are in flight the server is asked every second whether it lives. One that is slow answers that at once; one
that is stopped, or whose box is gone, does not. Then newcomers are refused, those who wait may go on waiting, and the
first word of the server, to them or to the question, ends it. One that was away so long that nobody asks any more is
asked several times a second, so that no caller is refused for longer than that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Any, Protocol

from serving.admission.breaker import Breakers
from serving.types import Life

ASK_EVERY_S = 1.0
ASK_GONE_EVERY_S = 0.2
SILENT_S = 3.0
"""How long the question waits for a word, and nothing else may come meanwhile either."""
HOLDS_S = 2 * (ASK_EVERY_S + SILENT_S)
"""A finding that is not renewed for so long holds no more."""


class Answers(Protocol):
    """A server that can be asked whether it lives."""

    async def life(self, within_s: float) -> Life:
        """What it says of itself in this time."""
        ...


async def watch(server: Answers, breakers: Breakers, calls: Sized, log: Any) -> None:
    """Ask for as long as this is not cancelled; `calls` are those in flight."""
    while True:
        await asyncio.sleep(ASK_GONE_EVERY_S if breakers.gone else ASK_EVERY_S)
        if calls or breakers.silent or breakers.gone:
            try:
                await look(server, breakers, log)
            except Exception:
                log.exception("the model server could not be asked whether it lives")


async def look(server: Answers, breakers: Breakers, log: Any) -> None:
    """Ask once."""
    silent, gone = breakers.silent, breakers.gone
    breakers.listen()
    life = await server.life(SILENT_S)
    if life == "silent":
        breakers.nothing_came(HOLDS_S)
    else:
        breakers.heard(there=life == "lives")
    if breakers.silent != silent:
        log.warning("the model server is silent" if breakers.silent else "the model server speaks again")
    if gone and not breakers.gone:
        log.warning("the model server is back")
