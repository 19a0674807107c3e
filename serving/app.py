"""The road of a request, top to bottom, as a raw ASGI application."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

from serving.admission.budgets import Budgets
from serving.admission.queue import Admission
from serving.answering import Answerer, without_model
from serving.call import Call, Stages
from serving.clock import Clock
from serving.errors import Refusal
from serving.exchange import Exchange
from serving.identity import Caller
from serving.miners import Miner, Miners, Ping
from serving.nonces.store import ReplayStore
from serving.public.door import Door
from serving.streaming import Aborted, Outlet, stream_answer
from serving.subnets.base import Body, Route, Task, streams
from serving.traffic.writer import TrafficWriter
from serving.watch.clocks import CallerClocks
from serving.watch.metrics import Metrics
from serving.watch.request_log import RequestLog
from serving.wire import dialects, reply
from serving.wire.body import READ_DEADLINE_S, HungUp, decode, read_body
from serving.wire.claim import Claim, DialectName, ReadClaim, dialect_of, receiver_named
from serving.wire.head import Head, read_head

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PAUSED_RETRY_S = 60
HUNG_UP = 499
"""The status in the record of a call whose caller did not wait; nothing goes over the wire."""
DRAINING = Refusal(503, "draining", "this miner is stopping", retry_after=5)


class Gateway:
    """Answers validators; everything it needs is handed in, and nothing is ever signed."""

    def __init__(
        self, *, miners: Miners, nonces: ReplayStore, budgets: Budgets, admission: Admission, answerer: Answerer,
        traffic: TrafficWriter, metrics: Metrics, door: Door, clock: Clock, log: Any, requests: RequestLog,
        wall_ns: Callable[[], int] = time.time_ns, body_deadline_s: float = READ_DEADLINE_S,
        claims: Mapping[DialectName, ReadClaim] | None = None,
    ) -> None:  # fmt: skip
        self.miners = miners
        self.claims = claims or dialects.claims()
        self.nonces = nonces
        self.door = door
        self.budgets = budgets
        self.admission = admission
        self.answerer = answerer
        self.traffic = traffic
        self.metrics = metrics
        self.clock = clock
        self.log = log
        self.requests = requests
        self.wall_ns = wall_ns
        self.body_deadline_s = body_deadline_s
        self.paused = False
        """Set by whoever watches ``pause.json``; what was admitted before is finished."""
        self.callers = CallerClocks()
        self._ids = itertools.count()
        self._life = os.urandom(6).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: its road, its answer, its record, in this order, so that no answer goes out unrecorded."""
        if scope["type"] != "http":
            return
        x = Exchange(Stages(), scope["headers"], scope.get("headframe.connection"))
        try:
            await self._exchange(x, scope, receive, send)
        finally:
            self.door.bodies.drop(x.held)

    async def _exchange(self, x: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self.road(x, scope, receive, send)
            answer, status, code = reply.success(x.dialect, body, x.stages.total_s()), 200, "ok"
        except Refusal as refused:
            answer, status, code = self._refuse(x, refused)
        except Aborted as aborted:
            self._break_off(x, aborted)
            return
        except (HungUp, asyncio.CancelledError) as end:
            if x.gone or isinstance(end, HungUp):
                self._hung_up(x)
                return
            answer, status, code = self._refuse(x, DRAINING)  # the drain's limit is over
        except Exception:
            self.log.exception("the gateway failed", request_id=x.call.request_id if x.call else None)
            answer, status, code = self._refuse(x, Refusal(500, "internal", "internal error"))
        self._record(x, status, code)
        try:
            if x.out is None or not x.out.started:
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body})
        except asyncio.CancelledError:  # the caller left, or the drain ended, with the answer half taken
            code = "hung_up"
        x.stages.mark("send")
        self._account(x, code)
        if x.shadow is not None:
            self.answerer.shadow(*x.shadow, busy=self.admission.busy(x.shadow[2].slot))

    async def road(self, x: Exchange, scope: Scope, receive: Receive, send: Send) -> Body:
        """The body of a 200, or a Refusal. Cheap refusals stand before dear ones, state changes after the signature."""
        x.address = self.door.address(scope)
        self._check_address(x)  # 429
        head = read_head(scope)  # 431, 400: size, count, duplicates
        self._check_path(x, head)  # 404, 405
        x.dialect = dialect_of(head)  # 400 mixed, 401 unsigned
        self._check_pause()  # 503
        miner = self.miners.named(receiver_named(x.dialect, head))  # 401: for none of our hotkeys
        route = _own_route(miner, head)  # 404
        x.retry_status = route.retry_status
        claim = self.claims[x.dialect](head, miner.hotkey)  # 400, 401: the headers' shape
        x.stages.mark("head")
        caller = miner.identity.welcome(claim.hotkey)  # 403, 401 alias: no crypto yet
        now_ns = self.wall_ns()
        self.budgets.check(caller.key, now_ns)  # 429: whoever has no budget left costs no crypto and no nonce
        self.door.junk.reserve(x.address, claim.hotkey)  # 429: too many false claims of this hotkey from here
        x.welcome = True
        claim.check_fresh(now_ns, route)  # 401
        x.stages.mark("identity")
        body = await read_body(  # 413, 408, 415, 503
            receive, head.fields, route.max_body, self.body_deadline_s,
            arrived=scope.get("headframe.arrived"), hold=partial(self._hold, x),
        )  # fmt: skip
        x.body_read = True
        x.stages.mark("body")
        claim.check_signature(head, body)  # 401
        x.stages.mark("signature")
        await self._spend(x, claim, caller, miner, now_ns)  # 401 replayed: writes the first state
        call = x.call = self._call(x, claim, caller=caller, miner=miner, route=route, now_ns=now_ns)
        self.budgets.spend(caller.key, now_ns)  # 429
        x.stages.mark("nonce")
        task = call.task = self._understand(claim, route, body, call)  # 400, 401 body hash
        x.stages.mark("parse")
        if task is None or isinstance(route, Ping):
            return b"{}"
        if not task.needs_model:
            return without_model(call, route, task)  # and so without a place in Triton
        self.answerer.check(route, task)  # 503 without a release, or with none that answers at present
        await self.admission.enter(slot=task.slot, stake=caller.stake, deadline=call.deadline)  # 503
        try:
            x.stages.mark("queue")
            if not streams(route):
                answer = await self.answerer.answer(call, route, task)  # 503, 500
                x.shadow = (call, route, task)
                return answer
            x.out = Outlet(send, scope.get("http_version", "1.1"))
            await stream_answer(self.answerer, call, route, task, x.out)  # 503, 500, or Aborted
            return b""
        finally:
            self.admission.leave(task.slot)

    def _check_address(self, x: Exchange) -> None:
        """Refuse an address that has sent too much junk, but for claims of welcome hotkeys."""
        if self.door.junk.spent(x.address) and not self.miners.may_welcome(x.listed):
            self.door.junk.check(x.address)

    def _check_path(self, x: Exchange, head: Head) -> None:
        """Refuse what no miner here has."""
        route = self.miners.routes.get(head.path)
        if route is None:
            raise Refusal(404, "no_route", "no such route")
        x.route = "ping" if isinstance(route, Ping) else route.synapse
        if head.method != "POST":
            raise Refusal(405, "not_post", "only POST is served here")

    def _check_pause(self) -> None:
        if self.paused:
            raise Refusal(503, "paused", "this miner is paused", retry_after=PAUSED_RETRY_S)

    def _hold(self, x: Exchange, size: int) -> None:
        x.held = self.door.bodies.hold(x.held, size, proven=x.connection is not None and x.connection.proven)

    async def _spend(self, x: Exchange, claim: Claim, caller: Caller, miner: Miner, now_ns: int) -> None:
        """Use the claim up. A store that cannot (503) is our fault, and no caller's junk."""
        try:
            await claim.spend(self.nonces, caller.key, miner.key, now_ns)
        except Refusal as refused:
            if refused.status >= 500:
                self.door.junk.restore(x.address, claim.hotkey)
            raise
        self._believe(x, claim)

    def _believe(self, x: Exchange, claim: Claim) -> None:
        """The claim was true: it was no junk, and its connection is a validator's."""
        self.door.junk.restore(x.address, claim.hotkey)
        if x.connection is not None:
            x.connection.prove()

    def _call(
        self, x: Exchange, claim: Claim, *, caller: Caller, miner: Miner, route: Route | Ping, now_ns: int
    ) -> Call:  # fmt: skip
        if claim.signed_at is not None:
            self.callers.add(caller.key, (now_ns - claim.signed_at) / 1e9)
        timeout_s = min(claim.timeout or route.max_timeout, route.max_timeout)
        return Call(
            request_id=f"{self._life}-{next(self._ids):x}", dialect=claim.dialect, synapse=route.synapse,
            caller=caller, receiver=miner.hotkey, netuid=miner.netuid, authenticated=claim.covers(route),
            at=now_ns / 1e9, subnet_at=self.clock.subnet(), timeout_s=timeout_s, stages=x.stages,
            deadline=time.monotonic() - x.stages.total_s() + timeout_s - min(1.0, 0.1 * timeout_s),
        )  # fmt: skip

    def _understand(self, claim: Claim, route: Route | Ping, body: bytes, call: Call) -> Task | None:
        """The task in a body, checked against what was signed; None for a ping."""
        try:
            content = decode(body)
            claim.check_body(route, content)
            if isinstance(route, Ping):
                return None
            task = route.parse(content, call.subnet_at)
        except RecursionError:
            raise Refusal(400, "too_deep", "the body is nested too deeply") from None
        for sign in task.drift:
            self.metrics.drift(route.synapse, sign)
        return task

    def _refuse(self, x: Exchange, refused: Refusal) -> tuple[reply.Answer, int, str]:
        """The reply, which may tell another status than the books keep, with the status and code for these."""
        self.metrics.refusal(refused.status, refused.code)
        if not x.welcome and 400 <= refused.status < 500 and refused.status != 429:
            self.door.junk.charge(x.address)
        answer = reply.refusal(
            x.refused_in(), refused, x.stages.total_s(), close=x.unread(), retry_status=x.retry_status
        )
        return answer, refused.status, refused.code

    def _hung_up(self, x: Exchange) -> None:
        """Nobody is there to answer; what was admitted is recorded all the same."""
        self._record(x, HUNG_UP, "hung_up")
        self._account(x, "hung_up")

    def _break_off(self, x: Exchange, aborted: Aborted) -> None:
        """End a streamed answer so that nobody takes what went out for the whole of it."""
        assert x.call is not None
        if aborted.__cause__ is not None:
            self.log.exception("a stream failed", request_id=x.call.request_id)
        reason = str(aborted)
        if reason == "cancelled":
            reason = "hung_up" if x.gone else "draining"
        self._record(x, 200, "aborted", reason)
        self._account(x, "aborted")
        if x.connection is None:  # a server that is not our own closes on an exception, without a last chunk
            raise aborted
        x.connection.break_off()

    def _record(self, x: Exchange, status: int, code: str, reason: str | None = None) -> None:
        """Put a call on record; whatever goes wrong there must not cost the caller its answer."""
        if x.call is None or x.route == "ping":
            return
        try:
            self.traffic.append(x.call.record(status, code, reason))
        except Exception:
            self.traffic.lost += 1
            self.log.exception("a call could not be recorded", request_id=x.call.request_id)

    def _account(self, x: Exchange, code: str) -> None:
        self.metrics.request(dialect=x.dialect, route=x.route, outcome=code, call=x.call, stages=x.stages)
        if x.call is None:  # refusals before the signature are counted, not logged: a flood must not fill the disk
            return
        self.requests.add(
            request_id=x.call.request_id, dialect=x.dialect, route=x.route, code=code, caller=x.call.caller.hotkey,
            slot=x.call.task.slot if x.call.task else None, role=x.call.role, release=x.call.release,
            seconds=x.stages.total_s(),
        )  # fmt: skip

    def keep(self) -> None:
        """Housekeeping, every second."""
        if (age_s := self.callers.median()) is not None:
            self.metrics.caller_clock(age_s)
        self.metrics.flush()
        self.requests.flush()
        self.metrics.levels(in_flight=self.admission.in_flight, waiting=self.admission.waiting, lost=self.traffic.lost)
        self.metrics.door(connections=self.door.connections.count, addresses=len(self.door.junk))
        self.metrics.breakers(*self.answerer.breakers.open_ones())
        self.answerer.pins.forget(self.wall_ns() / 1e9)


def _own_route(miner: Miner, head: Head) -> Route | Ping:
    """The route of the miner that was named; another's may take the same path in another subnet."""
    route = miner.routes.get(head.path)
    if route is None:
        raise Refusal(404, "no_route", "no such route")
    return route
