"""From a task to a valid answer: inputs, Triton, the subnet's answer and validity rule, and what to do when one fails.

An answer that the validator would void is never sent. A release that fails is passed over for the next one; a server
that is away is waited for until shortly before the deadline, since an inference can be repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from copy import copy
from typing import Protocol

import msgspec

from serving.admission.breaker import Breakers
from serving.admission.estimate import ServiceTimes
from serving.call import Call, answer_digest
from serving.errors import Refusal
from serving.files import StateFile
from serving.pins import Pins
from serving.routes import RouteReader, candidates
from serving.seed import seed_of
from serving.state import PriceBook
from serving.subnets.base import Inputs, Route, Task, Tensors
from serving.traffic.checksum import checksum
from serving.traffic.records import Role
from serving.traffic.writer import TrafficWriter
from serving.triton import ReleaseFault, ReleaseMissing, ServerDown, TooLate
from serving.types import Body, ReleaseId
from serving.watch.metrics import Metrics

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.25
SHADOW_TIMEOUT_S = 30.0
LEAST_PRIORITY = 3


class Infers(Protocol):
    """What is needed of Triton."""

    async def infer(self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float) -> Tensors:
        """Outputs of one inference; raises serving.triton's faults."""
        ...

    def stream(
        self, release: ReleaseId, tensors: Tensors, *, priority: int, timeout_s: float
    ) -> AsyncGenerator[Tensors, None]:
        """Outputs of each response of a decoupled release; raises serving.triton's faults."""
        ...


class Tried(msgspec.Struct, frozen=True):
    """What became of one release's outputs."""

    body: Body | None
    """The reply, None when the answer is not valid."""
    code: str
    """``ok``, ``invalid`` or ``error``."""
    reason: str | None
    digest: str


class Holding:
    """Counts a call in flight on a release, for a ``with`` block."""

    __slots__ = ("_calls", "_release")

    def __init__(self, calls: dict[ReleaseId, int], release: ReleaseId) -> None:
        self._calls = calls
        self._release = release

    def __enter__(self) -> None:
        self._calls[self._release] = self._calls.get(self._release, 0) + 1

    def __exit__(self, *exc: object) -> None:
        left = self._calls[self._release] - 1
        if left:
            self._calls[self._release] = left
        else:
            del self._calls[self._release]


class Answerer:
    """Answers tasks from the releases that the route table names."""

    def __init__(
        self, *, routes: RouteReader, prices: StateFile[PriceBook], pins: Pins, triton: Infers, traffic: TrafficWriter,
        metrics: Metrics, shadows: int, times: ServiceTimes | None = None, breakers: Breakers | None = None,
    ) -> None:  # fmt: skip
        self.routes = routes
        self.prices = prices
        self.pins = pins
        self.times = times or ServiceTimes()
        self.breakers = breakers or Breakers()
        self.triton = triton
        self._traffic = traffic
        self._metrics = metrics
        self._shadow_limit = shadows
        self._shadows: set[asyncio.Task[None]] = set()
        self.in_flight: dict[ReleaseId, int] = {}
        """Calls by the release that Triton is answering them with now, shadow copies included."""

    def check(self, route: Route, task: Task) -> None:
        """Raise Refusal (503) when no release can be asked now, before anybody waits for one.

        Where callers are pinned, one may have a release that no route names: only the server is judged here.
        """
        slot = self.routes.slot(task.slot)
        named = () if route.pin_s else (slot.stable, slot.canary.release if slot.canary else None, slot.fallback)
        self.breakers.check(filter(None, named))

    async def answer(self, call: Call, route: Route, task: Task) -> Body:
        """The body of a 200 for `call`, which then knows seed, inputs, role and release.

        Raises Refusal: 503 when no release can answer in time or an input is missing, 500 when every release's
        answer failed the validator's rules.
        """
        call.seed = seed_of(task.slot, task.canonical)
        call.inputs = route.inputs(task, call.seed, self.prices.get(), call.subnet_at)
        call.stages.mark("inputs")
        with self.breakers.server.asking():
            return await self._rounds(call, route, task, call.inputs)

    async def _rounds(self, call: Call, route: Route, task: Task, inputs: Inputs) -> Body:
        """Ask the releases again and again, until one answers or no time is left."""
        began = time.monotonic()
        failed: set[ReleaseId] = set()
        wait_s = FIRST_WAIT_S
        while True:
            body = await self._one_round(call, route, task, inputs, failed)
            if body is not None:
                return body
            if call.left_s() <= wait_s:
                self.breakers.away(time.monotonic() - began)
                raise Refusal(503, "model_away", "the model is not there to answer in time", retry_after=5)
            await asyncio.sleep(wait_s)
            call.stages.mark("wait")
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _one_round(
        self, call: Call, route: Route, task: Task, inputs: Inputs, failed: set[ReleaseId]
    ) -> Body | None:
        """Ask each release that has not failed yet, once; None when another round may do better."""
        tries = self._tries(call, route, task)
        for role, release in tries:
            breaker = self.breakers.of(release)
            if release in failed or breaker.wait_s():
                continue
            began = time.monotonic()
            try:
                with breaker.asking(), self.holding(release):
                    outputs = await self.triton.infer(
                        release, inputs.tensors, priority=call.caller.priority, timeout_s=call.left_s()
                    )
            except ReleaseMissing:
                self.breakers.server.good()  # it says so itself
                continue
            except ServerDown:
                break
            except TooLate:
                self.breakers.late(release, time.monotonic() - began, self.times.usual(task.slot))
                self.times.late(task.slot, time.monotonic() - began)
                call.role, call.release = role, release  # whose fault it was stands in the record
                self._metrics.release(task.slot, release, role, "late")
                raise Refusal(503, "too_late", "the model did not answer in time", retry_after=5) from None
            except ReleaseFault as fault:
                self.breakers.good(release)
                self._fault(call, task, role, release, Tried(None, "error", str(fault)[:500], ""))
                failed.add(release)
                continue
            finally:
                call.stages.mark("triton")
            self.breakers.good(release)
            tried = try_answer(route, task, outputs, legacy=call.dialect == "legacy")
            call.stages.mark("answer")
            if tried.body is not None:
                call.role, call.release, call.digest = role, release, tried.digest
                call.answer_bytes, call.answer_crc = len(tried.body), checksum(tried.body)
                self._metrics.release(task.slot, release, role, "ok")
                self.times.learn(task.slot, time.monotonic() - began)
                self._pin(call, route, task, release)
                return tried.body
            self._fault(call, task, role, release, tried)
            failed.add(release)
        left = [release for _, release in tries if release not in failed]
        if not left:
            raise Refusal(500, "no_valid_answer", "the model gave no valid answer")
        self.breakers.check_releases(left)
        return None

    def _tries(self, call: Call, route: Route, task: Task) -> list[tuple[Role, ReleaseId]]:
        """The releases to ask; where a subnet compares a caller's answers, its inputs have no part in the choice."""
        slot = self.routes.slot(task.slot)
        if not route.pin_s:
            return candidates(slot, task.slot, call.caller.hotkey, task.canonical)
        pinned = self.pins.get(task.slot, call.receiver, call.caller.key, call.at)
        return candidates(slot, task.slot, call.caller.hotkey, b"", pinned)

    def _pin(self, call: Call, route: Route, task: Task, release: ReleaseId) -> None:
        """Let the round that this answer begins go on with its release."""
        where = (task.slot, call.receiver, call.caller.key)
        if route.pin_s and self.pins.get(*where, call.at) != release:
            self.pins.put(*where, release, until=call.at + route.pin_s)

    def holding(self, release: ReleaseId) -> Holding:
        """A call is in flight on this release, which must not be unloaded meanwhile."""
        return Holding(self.in_flight, release)

    def asking(self, triton: Infers) -> Answerer:
        """The same answerer, asking Triton by other means."""
        other = copy(self)
        other.triton = triton
        return other

    def broke_off(self, call: Call, task: Task, outcome: str) -> None:
        """Count against the release that answered `call` what came of it after its first chunk."""
        if call.release is not None:
            self._metrics.release(task.slot, call.release, call.role, outcome)

    def _fault(self, call: Call, task: Task, role: Role, release: ReleaseId, tried: Tried) -> None:
        """Count a fault against the release and keep its evidence."""
        self._metrics.release(task.slot, release, role, tried.code)
        self._side(call, role, release, tried)

    def _side(self, call: Call, role: Role, release: ReleaseId, tried: Tried, model_ms: float | None = None) -> None:
        record = call.side_record(
            role=role, release=release, code=tried.code, reason=tried.reason, digest=tried.digest or None,
            model_ms=model_ms,
        )  # fmt: skip
        self._traffic.append(record)

    def shadow(self, call: Call, route: Route, task: Task, *, busy: bool) -> None:
        """Give the shadow release a copy of an answered call, in the background; dropped when there is no room."""
        try:
            release = self.routes.slot(task.slot).shadow
        except Refusal:  # the slot was taken off the table meanwhile
            return
        if release is None or release == call.release or call.inputs is None:
            return
        if busy or len(self._shadows) >= self._shadow_limit or not self.breakers.closed(release):
            self._metrics.release(task.slot, release, "shadow", "dropped")
            return
        running = asyncio.get_running_loop().create_task(self._shadow(call, route, task, call.inputs, release))
        self._shadows.add(running)
        running.add_done_callback(self._shadows.discard)

    async def _shadow(self, call: Call, route: Route, task: Task, inputs: Inputs, release: ReleaseId) -> None:
        began, took = time.perf_counter(), 0.0
        try:
            with self.holding(release):
                outputs = await self.triton.infer(
                    release, inputs.tensors, priority=LEAST_PRIORITY, timeout_s=SHADOW_TIMEOUT_S
                )
        except ReleaseFault as fault:
            tried = Tried(None, "error", str(fault)[:500], "")
        except (ReleaseMissing, ServerDown, TooLate):
            self._metrics.release(task.slot, release, "shadow", "away")
            return
        else:
            took = (time.perf_counter() - began) * 1e3
            tried = try_answer(route, task, outputs, legacy=False)
        self._metrics.release(task.slot, release, "shadow", tried.code)
        self._side(call, "shadow", release, tried, took)

    async def close(self) -> None:
        """Drop the shadows that still run."""
        for running in list(self._shadows):
            running.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)


def without_model(call: Call, route: Route, task: Task) -> Body:
    """The reply to a task that wants an empty answer; no release is asked, and none stands in the record."""
    tried = try_answer(route, task, {}, legacy=call.dialect == "legacy")
    if tried.body is None:
        raise Refusal(500, "no_valid_answer", "there is no valid answer")
    call.answer_bytes, call.answer_crc = len(tried.body), checksum(tried.body)
    return tried.body


def try_answer(route: Route, task: Task, outputs: Tensors, *, legacy: bool) -> Tried:
    """The reply that a release's outputs make, if the validator's own rules would accept it."""
    digest = answer_digest(outputs)
    try:
        answer = route.answer(task, outputs)
        reason = route.check(task, answer)
        if reason is not None:
            return Tried(None, "invalid", reason[:500], digest)
        return Tried(route.reply(task, answer, legacy=legacy), "ok", None, digest)
    except Exception as error:  # outputs that the subnet's code cannot even read are the release's fault
        return Tried(None, "invalid", f"{type(error).__name__}: {error}"[:500], digest)
