"""What a worker does beside its requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serving.workers import worker
from serving.workers.acks import Desk, living


class Log:
    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, event: str, **facts: Any) -> None:
        self.said.append(event)

    error = info


async def test_a_worker_says_how_it_fares_after_whatever_went_wrong(tmp_path: Path) -> None:
    troubles: list[Exception] = [ValueError("a pin that is garbled"), MemoryError(), OSError(24, "Too many open files")]

    def held(now: float) -> set[str]:
        if troubles:
            raise troubles.pop(0)
        return {"release"}

    answerer = SimpleNamespace(
        routes=SimpleNamespace(get=lambda: None), in_flight={}, pins=SimpleNamespace(held=held)
    )  # fmt: skip
    gateway, log = SimpleNamespace(paused=True, answerer=answerer), Log()
    server, config = SimpleNamespace(started=True, should_exit=False), SimpleNamespace(pause=None)
    desk = Desk(tmp_path, parent=1)
    telling = asyncio.create_task(worker._tell(gateway, config, server, desk, log))  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        while not living(tmp_path):
            assert not telling.done()
            await asyncio.sleep(0.01)
    telling.cancel()
    assert not troubles
    assert gateway.paused is False
    assert living(tmp_path)[0].held == ("release",)
    assert log.said == ["worker ready", "a worker cannot say how it fares"]  # once
