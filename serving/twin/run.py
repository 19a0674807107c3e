"""The twin at work: set the time, ask, judge, wait for the prices, score."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from serving.clock import Clock
from serving.state import PriceBook
from serving.subnets.synth.request import Request, SimulationInput, utc_text
from serving.subnets.synth.rules import MAX_TIMEOUT, PROMPTS
from serving.subnets.synth.validity import verdict
from serving.twin.book import Book
from serving.twin.callers import Caller, Dialect, Signed, btauth, legacy
from serving.twin.report import PromptRow, Report, report
from serving.twin.schedule import Ask, Round, pause
from serving.twin.score import Scoreboard, Truth
from serving.twin.send import Reply, Sender, simulation_output
from serving.types import Hotkey

_SYNAPSE, _TARGET, _OUTPUTS = "Simulation", "/Simulation", ("simulation_output",)
_SHORTEST_TIMEOUT = 60.0
_TRUTH_POLL = 15.0
_UNJUDGED = 48
"""Answers that may wait to be judged; a day's answer is 20 MB once parsed."""


@dataclass(frozen=True)
class Target:
    """Whom to ask."""

    url: str
    hotkey: Hotkey
    allow_remote: bool = False


@dataclass(frozen=True)
class World:
    """What the twin knows of the subnet."""

    clock: Clock
    book: Book
    truth: Truth


@dataclass(frozen=True)
class Options:
    """How to ask."""

    callers: Sequence[str] = ("//Alice", "//Bob")
    """Key URIs."""
    dialects: Sequence[Dialect] = ("legacy", "btauth")
    requests: int | None = None
    """Stop after so many."""
    concurrency: int = 4
    simulations: int = 1000
    live: bool = False
    """Wait for each prompt's price to be published before scoring it, rather than score all at once."""
    score: bool = True
    """Keep each valid answer until its price is known; without it an answer is judged, and only its row stays."""
    truth_wait: float | None = None
    """Live only: longest wait (s) for prices after the last request; None waits as long as it takes."""
    on_row: Callable[[PromptRow], None] = field(default=lambda row: None)
    """Called after each request."""


class _Asked(NamedTuple):
    """A request that was answered, or not, and waits to be judged."""

    row: PromptRow
    request: Request
    limit_s: float
    reply: Reply
    book: PriceBook


async def run_twin(
    target: Target, rounds: AsyncIterator[Round], world: World, options: Options, stop: asyncio.Event | None = None
) -> Report:
    """Send every round's prompts, judge and score the answers, and report; `stop` ends it early with what there is.

    Raises UserError for a target that is not on loopback, and when the world (clock, price book, truth) fails.
    """
    stop = stop or asyncio.Event()
    board = Scoreboard(world.truth)
    # One thread, so that judging runs beside the next requests and the scoreboard needs no lock.
    thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
    judge = _Judge(thread, board, options)
    try:
        async with Sender(target.url, allow_remote=target.allow_remote) as sender:
            asker = _Asker(sender, target.hotkey, world, options, judge)
            await asker.ask_all(rounds, stop)
            await judge.wait_for_truth(world.clock, stop)
        return report(
            asker.rows,
            incentive=board.incentive(),
            scores=board.means(),
            scored=board.scored,
            unscored=board.unscored,
            interrupted=stop.is_set(),
        )
    finally:
        await judge.drop()
        thread.shutdown(cancel_futures=True)
        board.close()


class _Judge:
    """Judges and scores answers in a thread of its own."""

    def __init__(self, thread: ThreadPoolExecutor, board: Scoreboard, options: Options) -> None:
        self._thread, self._board, self._options = thread, board, options
        self._places = asyncio.Semaphore(_UNJUDGED)
        self._tasks: set[asyncio.Task[None]] = set()

    async def place(self) -> None:
        """Wait until one more answer may be held."""
        await self._places.acquire()

    def take(self, asked: _Asked) -> None:
        """Judge an answer soon; each needs a `place` before."""
        self._tasks.add(asyncio.create_task(self._take(asked)))

    async def done(self, *, all_of_them: bool) -> None:
        """Raise what judging raised so far, or wait for all of it."""
        finished = {task for task in self._tasks if all_of_them or task.done()}
        self._tasks -= finished
        await asyncio.gather(*finished)

    async def drop(self) -> None:
        """Let go of what is not judged yet, and of errors that come after the one that was raised."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self, now: float) -> int:
        """Score the answers whose prices are out at subnet time `now` (unix s); how many still wait."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._board.settle, now)

    async def wait_for_truth(self, clock: Clock, stop: asyncio.Event) -> None:
        """Live: score prompts as their prices come, until none waits, the limit passed, or the twin is stopped."""
        limit = self._options.truth_wait
        end = time.monotonic() + (math.inf if limit is None else limit)
        while self._options.live and await self.settle(clock.subnet()) and time.monotonic() < end:
            if await pause(_TRUTH_POLL, stop):
                break

    async def _take(self, asked: _Asked) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._judge, asked)
        finally:
            self._places.release()
        self._options.on_row(asked.row)

    def _judge(self, asked: _Asked) -> None:
        row, reply = asked.row, asked.reply
        row.ms, row.error = round(reply.elapsed * 1000, 3), reply.error
        paths = None
        if reply.content is not None:
            response, row.error = simulation_output(reply.content, _inputs(asked.request), _dialect(row))
            if row.error is None:
                elapsed = str(reply.elapsed) if reply.elapsed <= asked.limit_s else None
                row.verdict, paths = verdict(asked.request, elapsed, response)
        if row.error is not None:
            row.verdict = "error"
        if self._options.score:
            self._board.add(row, paths, asked.book, self._options.simulations)
            if not self._options.live:
                self._board.settle()


class _Asker:
    """Sends rounds of signed prompts, dialects and callers taking turns."""

    def __init__(self, sender: Sender, hotkey: Hotkey, world: World, options: Options, judge: _Judge) -> None:
        self.rows: list[PromptRow] = []
        self.judge = judge
        self._sender, self._hotkey, self._world, self._options = sender, hotkey, world, options
        self._callers = [Caller(uri) for uri in options.callers]
        self._places = asyncio.Semaphore(options.concurrency)
        self._turns: Counter[tuple[str, str]] = Counter()

    async def ask_all(self, rounds: AsyncIterator[Round], stop: asyncio.Event) -> None:
        """Send the rounds one after the other, each with the clock where it belongs."""
        async for one in rounds:
            left = self._options.requests
            asks = one.asks if left is None else one.asks[: left - len(self.rows)]
            if not asks or stop.is_set():
                break
            if one.at is not None:
                self._world.clock.set(one.at, rate=0.0)
            book = await asyncio.to_thread(self._world.book, one.at)
            await asyncio.gather(*(self._ask(ask, place, book) for place, ask in enumerate(asks)))
            await self.judge.done(all_of_them=False)
            if self._options.live:
                await self.judge.settle(self._world.clock.subnet())
            if len(self.rows) == left:
                break
        await self.judge.done(all_of_them=True)

    async def _ask(self, ask: Ask, place: int, book: PriceBook) -> None:
        await self.judge.place()
        async with self._places:
            caller, row = self._next(ask, place)
            wanted = ask.start - self._world.clock.subnet()
            limit_s = min(max(wanted, _SHORTEST_TIMEOUT), MAX_TIMEOUT)
            request = self._request(ask)
            signed = self._sign(caller, row, request, limit_s)
            reply = await self._sender.post(_TARGET, signed, _dialect(row), limit_s)
        self.judge.take(_Asked(row, request, limit_s, reply, book))

    def _next(self, ask: Ask, place: int) -> tuple[Caller, PromptRow]:
        """Whose turn it is: in a round by the place, and the next time in another way."""
        turn, dialects = place + self._turns[ask.slot, ask.asset], self._options.dialects
        self._turns[ask.slot, ask.asset] += 1
        caller = self._callers[turn // len(dialects) % len(self._callers)]
        dialect = dialects[turn % len(dialects)]
        row = PromptRow(slot=ask.slot, asset=ask.asset, start=ask.start, dialect=dialect, caller=caller.hotkey)
        self.rows.append(row)
        return caller, row

    def _request(self, ask: Ask) -> Request:
        prompt, n = PROMPTS[ask.slot], self._options.simulations
        given = SimulationInput(ask.asset, utc_text(ask.start), prompt.increment, prompt.length, n)
        return Request(input=given, start=ask.start)

    def _sign(self, caller: Caller, row: PromptRow, request: Request, limit_s: float) -> Signed:
        inputs = _inputs(request)
        if row.dialect == "btauth":
            return btauth(caller, self._hotkey, _TARGET, inputs)
        return legacy(
            caller, self._hotkey, address=self._sender.address, synapse=_SYNAPSE, inputs=inputs, outputs=_OUTPUTS,
            timeout=limit_s,
        )  # fmt: skip


def _inputs(request: Request) -> dict[str, object]:
    return {"simulation_input": msgspec.to_builtins(request.input)}


def _dialect(row: PromptRow) -> Dialect:
    return "btauth" if row.dialect == "btauth" else "legacy"
