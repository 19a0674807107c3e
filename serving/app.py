"""The road of a request, top to bottom, as a raw ASGI application."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.addresses import NOWHERE, Address
from serving.admission import Admission, Budgets
from serving.answering import Answerer
from serving.call import Call, Stages
from serving.clock import Clock
from serving.clocks import CallerClocks
from serving.connections import Connection
from serving.door import Door
from serving.errors import Refusal
from serving.metrics import Metrics
from serving.miners import Miner, Miners, Ping
from serving.nonces import ReplayStore
from serving.request_log import RequestLog
from serving.streaming import Aborted, Outlet, stream_answer
from serving.subnets.base import Body, Route, Task, streams
from serving.traffic import TrafficWriter
from serving.wire import dialects, reply
from serving.wire.body import READ_DEADLINE_S, HungUp, decode, read_body
from serving.wire.claim import Claim, DialectName, ReadClaim, dialect_of, reads_bt_headers, receiver_named
from serving.wire.head import Head, read_head

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PAUSED_RETRY_S = 60
HUNG_UP = 499
"""The status in the record of a call whose caller did not wait; nothing goes over the wire."""
_DRAINABLE = 64 * 1024
"""Bytes of an unread body that are not worth closing a connection for."""


@dataclass(slots=True)
class Exchange:
    """One request and what is known of it so far."""

    stages: Stages
    listed: Sequence[tuple[bytes, bytes]]
    """Its headers as they came."""
    connection: Connection | None = None
    """None where the server is not our own."""
    address: Address = NOWHERE.address
    welcome: bool = False
    """Whether it claims a hotkey that may call."""
    route: str = "other"
    head: Head | None = None
    dialect: DialectName | None = None
    body_read: bool = False
    call: Call | None = None
    out: Outlet | None = None
    """Where a streamed answer goes."""
    shadow: tuple[Call, Route, Task] | None = None

    def refused_in(self) -> DialectName | None:
        """The dialect to refuse it in, which may be plain before it was read."""
        return self.dialect or ("legacy" if reads_bt_headers(name for name, _ in self.listed) else None)

    def unread(self) -> bool:
        """Whether a long or endless body is still to come."""
        if self.body_read or self.head is None:
            return False
        declared = self.head.fields.get(b"content-length", b"0")
        if b"expect" in self.head.fields:  # it waits for leave to send, which it does not get
            return True
        return b"transfer-encoding" in self.head.fields or not declared.isdigit() or int(declared) > _DRAINABLE


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
            body = await self.road(x, scope, receive, send)
            answer, code = reply.success(x.dialect, body, x.stages.total_s()), "ok"
        except Refusal as refused:
            answer, code = self._refuse(x, refused)
        except Aborted as aborted:
            self._break_off(x, aborted)
            return
        except HungUp:
            self._hung_up(x)
            return
        except asyncio.CancelledError:
            if x.connection is not None and x.connection.gone:
                self._hung_up(x)
                return
            # the drain's limit is over
            answer, code = self._refuse(x, Refusal(503, "draining", "this miner is stopping", retry_after=5))
        except Exception:
            self.log.exception("the gateway failed", request_id=x.call.request_id if x.call else None)
            answer, code = self._refuse(x, Refusal(500, "internal", "internal error"))
        if x.call is not None and x.route != "ping":
            self.traffic.append(x.call.record(answer.status, code))
        try:
            if x.out is None or not x.out.started:
                await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body})
        except asyncio.CancelledError:  # the caller left, or the drain ended, with the answer half taken
            code = "hung_up"
        x.stages.mark("send")
        self._account(x, code)
        if x.shadow is not None:
            self.answerer.shadow(*x.shadow, busy=self.admission.busy)

    async def road(self, x: Exchange, scope: Scope, receive: Receive, send: Send) -> Body:
        """The body of a 200, or a Refusal. Cheap refusals stand before dear ones, state changes after the signature."""
        x.address = self.door.address(scope)
        self._check_address(x.address, scope)  # 429
        head = x.head = read_head(scope)  # 431, 400: size, count, duplicates
        self._route(x, head)  # 404, 405
        x.dialect = dialect_of(head)  # 400 mixed, 401 unsigned
        self._not_paused()  # 503
        miner = self.miners.named(receiver_named(x.dialect, head))  # 401: for none of our hotkeys
        route = self._own_route(miner, head)  # 404
        claim = self.claims[x.dialect](head, miner.hotkey)  # 400, 401: the headers' shape
        x.stages.mark("head")
        caller = miner.identity.welcome(claim.hotkey)  # 403, 401 alias: no crypto yet
        now_ns = self.wall_ns()
        self.door.junk.reserve(x.address, claim.hotkey)  # 429: too many false claims of this hotkey from here
        x.welcome = True
        claim.check_fresh(now_ns, route)  # 401
        x.stages.mark("identity")
        body = await read_body(receive, head.fields, route.max_body, self.body_deadline_s)  # 413, 408, 415
        x.body_read = True
        x.stages.mark("body")
        claim.check_signature(head, body)  # 401
        x.stages.mark("signature")
        await claim.spend(self.nonces, caller.key, miner.key, now_ns)  # 401 replayed: writes the first state
        self.door.junk.restore(x.address, claim.hotkey)
        if x.connection is not None:
            x.connection.prove()
        timeout_s = min(claim.timeout or route.max_timeout, route.max_timeout)
        call = x.call = Call(
            request_id=f"{self._life}-{next(self._ids):x}", dialect=x.dialect, synapse=route.synapse, caller=caller,
            at=now_ns / 1e9, subnet_at=self.clock.subnet(), timeout_s=timeout_s, stages=x.stages,
            receiver=miner.hotkey, netuid=miner.netuid, authenticated=claim.covers(route),
            deadline=time.monotonic() - x.stages.total_s() + timeout_s - min(1.0, 0.1 * timeout_s),
        )  # fmt: skip
        if claim.signed_at is not None:
            self.callers.add(caller.key, (now_ns - claim.signed_at) / 1e9)
        self.budgets.spend(caller.key, now_ns)  # 429
        x.stages.mark("nonce")
        task = call.task = self._understand(claim, route, body, call)  # 400, 401 body hash
        x.stages.mark("parse")
        if task is None or isinstance(route, Ping):
            return b"{}"
        for sign in task.drift:
            self.metrics.drift(route.synapse, sign)
        self.answerer.check(task)  # 503 without a release, or with none that answers at present
        await self.admission.enter(slot=task.slot, stake=caller.stake, deadline=call.deadline)  # 503
        try:
            x.stages.mark("queue")
            if streams(route):
                x.out = Outlet(send, scope.get("http_version", "1.1"))
                await stream_answer(self.answerer, call, route, task, x.out)  # 503, 500, or Aborted
                return b""
            answered = await self.answerer.answer(call, route, task)  # 503, 500
        finally:
            self.admission.leave()
        x.shadow = (call, route, task)
        return answered

    def _check_address(self, address: Address, scope: Scope) -> None:
        """Refuse (429) an address that has sent too much junk, but for claims of welcome hotkeys."""
        if self.door.junk.spent(address) and not self.miners.may_welcome(scope["headers"]):
            self.door.junk.check(address)

    def _route(self, x: Exchange, head: Head) -> None:
        """That some miner here has this path."""
        route = self.miners.routes.get(head.path)
        if route is None:
            raise Refusal(404, "no_route", "no such route")
        x.route = "ping" if isinstance(route, Ping) else route.synapse
        if head.method != "POST":
            raise Refusal(405, "not_post", "only POST is served here")

    def _not_paused(self) -> None:
        if self.paused:
            raise Refusal(503, "paused", "this miner is paused", retry_after=PAUSED_RETRY_S)

    def _own_route(self, miner: Miner, head: Head) -> Route | Ping:
        """The route of the miner that was named; another's may take the same path in another subnet."""
        route = miner.routes.get(head.path)
        if route is None:
            raise Refusal(404, "no_route", "no such route")
        return route

    def _understand(self, claim: Claim, route: Route | Ping, body: bytes, call: Call) -> Task | None:
        """The task in a body, checked against what was signed; None for a ping."""
        try:
            content = decode(body)
            claim.check_body(route, content)
            return None if isinstance(route, Ping) else route.parse(content, call.subnet_at)
        except RecursionError:
            raise Refusal(400, "too_deep", "the body is nested too deeply") from None

    def _refuse(self, x: Exchange, refused: Refusal) -> tuple[reply.Answer, str]:
        self.metrics.refusal(refused.status, refused.code)
        if not x.welcome and 400 <= refused.status < 500 and refused.status != 429:
            self.door.junk.charge(x.address)
        return reply.refusal(x.refused_in(), refused, x.stages.total_s(), close=x.unread()), refused.code

    def _hung_up(self, x: Exchange) -> None:
        """Nobody is there to answer; what was admitted is recorded all the same."""
        if x.call is not None and x.route != "ping":
            self.traffic.append(x.call.record(HUNG_UP, "hung_up"))
        self._account(x, "hung_up")

    def _break_off(self, x: Exchange, aborted: Aborted) -> None:
        """End a streamed answer so that nobody takes what went out for the whole of it."""
        assert x.call is not None
        if aborted.__cause__ is not None:
            self.log.exception("a stream failed", request_id=x.call.request_id)
        reason = str(aborted)
        if reason == "cancelled":
            reason = "hung_up" if x.connection is not None and x.connection.gone else "draining"
        self.traffic.append(x.call.record(200, "aborted", reason))
        self._account(x, "aborted")
        if x.connection is None:  # a server that is not our own closes on an exception, without a last chunk
            raise aborted
        x.connection.break_off()

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
