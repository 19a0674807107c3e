"""The road of a request, top to bottom, as a raw ASGI application."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.admission import Admission, Budgets
from serving.answering import Answerer
from serving.call import Call, Stages
from serving.clock import Clock
from serving.errors import Refusal
from serving.identity import Identity
from serving.metrics import Metrics
from serving.nonces import ReplayStore
from serving.subnets.base import Route, Task
from serving.traffic import TrafficWriter
from serving.types import Hotkey, Seconds
from serving.wire import btauth, legacy, reply
from serving.wire.body import READ_DEADLINE_S, HungUp, decode, read_body
from serving.wire.claim import Claim, DialectName, ReadClaim, dialect_of
from serving.wire.head import Head, read_head

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CLAIMS: Mapping[DialectName, ReadClaim] = {"legacy": legacy.read_claim, "btauth": btauth.read_claim}
_DRAINABLE = 64 * 1024
"""Bytes of an unread body that are not worth closing a connection for."""


class Ping:
    """``POST /Synapse``: the base class without fields, by which validators of SDK 6 to 10 ask who is there."""

    synapse = "Synapse"
    hash_fields: Sequence[str] = ()
    model_order: Sequence[str] = ()
    monotonic_nonces = False
    max_body = 64 * 1024
    max_timeout = Seconds(12.0)

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        """Nothing is hashed."""
        return []


@dataclass(slots=True)
class Exchange:
    """One request and what is known of it so far."""

    stages: Stages
    route: str = "other"
    head: Head | None = None
    dialect: DialectName | None = None
    body_read: bool = False
    call: Call | None = None
    shadow: tuple[Call, Route, Task] | None = None

    def unread(self) -> bool:
        """Whether a long or endless body is still to come."""
        if self.body_read or self.head is None:
            return False
        declared = self.head.fields.get(b"content-length", b"0")
        return b"transfer-encoding" in self.head.fields or not declared.isdigit() or int(declared) > _DRAINABLE


class Gateway:
    """Answers validators; everything it needs is handed in, and nothing is ever signed."""

    def __init__(
        self, *, hotkey: Hotkey, routes: Mapping[bytes, Route | Ping], identity: Identity, nonces: ReplayStore,
        budgets: Budgets, admission: Admission, answerer: Answerer, traffic: TrafficWriter, metrics: Metrics,
        clock: Clock, log: Any, wall_ns: Callable[[], int] = time.time_ns, body_deadline_s: float = READ_DEADLINE_S,
    ) -> None:  # fmt: skip
        self.hotkey = hotkey
        self.routes = routes
        self.identity = identity
        self.nonces = nonces
        self.budgets = budgets
        self.admission = admission
        self.answerer = answerer
        self.traffic = traffic
        self.metrics = metrics
        self.clock = clock
        self.log = log
        self.wall_ns = wall_ns
        self.body_deadline_s = body_deadline_s
        self._ids = itertools.count()
        self._life = os.urandom(6).hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: its road, its answer, its record, in this order, so that no answer goes out unrecorded."""
        if scope["type"] != "http":
            return
        x = Exchange(Stages())
        try:
            body = await self.road(x, scope, receive)
            answer, code = reply.success(x.dialect, body, x.stages.total_s()), "ok"
        except Refusal as refused:
            answer, code = self._refuse(x, refused)
        except HungUp:
            self._account(x, "hung_up")
            return
        except asyncio.CancelledError:  # the drain's limit is over
            answer, code = self._refuse(x, Refusal(503, "draining", "this miner is stopping", retry_after=5))
        except Exception:
            self.log.exception("the gateway failed", request_id=x.call.request_id if x.call else None)
            answer, code = self._refuse(x, Refusal(500, "internal", "internal error"))
        if x.call is not None and x.route != "ping":
            self.traffic.append(x.call.record(answer.status, code))
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})
        x.stages.mark("send")
        self._account(x, code)
        if x.shadow is not None:
            self.answerer.shadow(*x.shadow, busy=self.admission.busy)

    async def road(self, x: Exchange, scope: Scope, receive: Receive) -> bytes:
        """The body of a 200, or a Refusal. Cheap refusals stand before dear ones, state changes after the signature."""
        head = x.head = read_head(scope)  # 431, 400: size, count, duplicates
        route = self._route(x, head)  # 404, 405
        x.dialect = dialect_of(head)  # 400 mixed, 401 unsigned
        claim = CLAIMS[x.dialect](head, self.hotkey)  # 400, 401: the headers' shape
        x.stages.mark("head")
        caller = self.identity.welcome(claim.hotkey)  # 403, 401 alias: no crypto yet
        now_ns = self.wall_ns()
        claim.check_fresh(now_ns, route.max_timeout)  # 401
        x.stages.mark("identity")
        body = await read_body(receive, head.fields, route.max_body, self.body_deadline_s)  # 413, 408, 415
        x.body_read = True
        x.stages.mark("body")
        claim.check_signature(head, body)  # 401
        x.stages.mark("signature")
        self.nonces.spend(caller.key, claim.nonce, now_ns)  # 401 replayed: the first state that is written
        timeout_s = min(claim.timeout or route.max_timeout, route.max_timeout)
        call = x.call = Call(
            request_id=f"{self._life}-{next(self._ids):x}", dialect=x.dialect, synapse=route.synapse, caller=caller,
            at=now_ns / 1e9, subnet_at=self.clock.subnet(), timeout_s=timeout_s, stages=x.stages,
            deadline=time.monotonic() - x.stages.total_s() + timeout_s - min(1.0, 0.1 * timeout_s),
        )  # fmt: skip
        self.metrics.caller_clock((now_ns - claim.nonce) / 1e9)
        self.budgets.spend(caller.key, now_ns)  # 429
        x.stages.mark("nonce")
        task = call.task = self._understand(claim, route, body, call)  # 400, 401 body hash
        x.stages.mark("parse")
        if task is None or isinstance(route, Ping):
            return b"{}"
        self.answerer.routes.slot(task.slot)  # 503 without a release, before any waiting
        async with self.admission.enter(stake=caller.stake, deadline=call.deadline):  # 503
            x.stages.mark("queue")
            answered = await self.answerer.answer(call, route, task)  # 503, 500
        x.shadow = (call, route, task)
        return answered

    def _route(self, x: Exchange, head: Head) -> Route | Ping:
        route = self.routes.get(head.path)
        if route is None:
            raise Refusal(404, "no_route", "no such route")
        x.route = "ping" if isinstance(route, Ping) else route.synapse
        if head.method != "POST":
            raise Refusal(405, "not_post", "only POST is served here")
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
        return reply.refusal(x.dialect, refused, x.stages.total_s(), close=x.unread()), refused.code

    def _account(self, x: Exchange, code: str) -> None:
        self.metrics.request(dialect=x.dialect, route=x.route, outcome=code, call=x.call, stages=x.stages)
        if x.call is None:  # refusals before the signature are counted, not logged: a flood must not fill the disk
            return
        self.log.info(
            "request", request_id=x.call.request_id, dialect=x.dialect, route=x.route, code=code,
            caller=x.call.caller.hotkey, slot=x.call.task.slot if x.call.task else None, role=x.call.role,
            release=x.call.release, ms=round(x.stages.total_s() * 1e3, 3),
        )  # fmt: skip

    def keep(self) -> None:
        """Housekeeping, every second."""
        self.nonces.tick(self.wall_ns())
        self.metrics.levels(in_flight=self.admission.in_flight, waiting=self.admission.waiting, lost=self.traffic.lost)
