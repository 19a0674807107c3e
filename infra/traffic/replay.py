"""Requests of the traffic record answered again, byte for byte: the same release, the same tensors, the same reply.

What is compared is the digest of the model's tensors, and length and checksum of the body that went over the wire.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from infra.settings import Settings
from infra.traffic.selection import Wanted, choose
from infra.traffic.tritons import Places, placed
from serving.answering import Infers, Tried, try_answer
from serving.errors import Refusal, UserError
from serving.subnets.base import Route, Task, streams
from serving.subnets.registry import make, specs
from serving.traffic.checksum import checksum
from serving.traffic.records import TrafficRecord
from serving.traffic.writer import has_body
from serving.triton import Triton, TritonFault, unpack
from serving.types import ReleaseId, UnixSeconds

TIMEOUT_S = 60.0
AT_ONCE = 4
PRIORITY = 3
"""The least: validators come first."""

Verdict = Literal["matched", "differs", "cannot"]
Why = Literal["", "refused", "no body", "release gone", "not restored", "tensors", "length", "checksum", "no answer"]
Progress = Callable[[int, int], None]


class Replayed(msgspec.Struct, frozen=True):
    """What became of one request."""

    request_id: str
    at: float
    """Arrival of the original, wall time, unix s."""
    slot: str
    dialect: str
    release: str | None
    """Which answered now; None where the request needs no model."""
    verdict: Verdict
    why: Why
    detail: str
    bytes: int
    """Length of the body made now; 0 where there is none."""


class Report(msgspec.Struct, frozen=True):
    """Every request that was looked at, in order of arrival."""

    matched: int
    differ: int
    cannot: dict[str, int]
    """By reason."""
    requests: list[Replayed]
    notes: list[str]
    """What was not looked at, and why."""

    @property
    def exit_code(self) -> int:
        """1 when an answer differs; 0 when every answered request matched, and there was one; else 3."""
        if self.differ:
            return 1
        held = sum(count for why, count in self.cannot.items() if why != "refused")
        return 0 if self.matched and not held else 3


class Remade(NamedTuple):
    """A reply made again."""

    outcome: Replayed
    body: bytes


def replay(
    settings: Settings, wanted: Wanted, *, release: str | None = None,
    progress: Progress = lambda done, total: None, keep: Callable[[Remade], None] = lambda made: None,
) -> Report:  # fmt: skip
    """Answer the wanted requests again; `keep` gets each reply that was made.

    `release` answers instead of the recorded ones, for a comparison. Releases that no running Triton has are loaded
    into a throw-away one. Raises UserError when there is nothing to look at or no Triton can be had.
    """
    found = choose(settings, wanted)
    needed = [ReleaseId(release or str(each.release)) for each in found.records if each.release and has_body(each)]
    outcomes: list[Replayed] = []
    with placed(settings, needed) as places:

        def done(made: Remade) -> None:
            outcomes.append(made.outcome)
            if made.body:
                keep(made)
            progress(len(outcomes), len(found.records))

        asyncio.run(_all(found.records, places, release, done))
    outcomes.sort(key=lambda each: each.at)
    cannot: dict[str, int] = {}
    for each in outcomes:
        if each.verdict == "cannot":
            cannot[each.why] = cannot.get(each.why, 0) + 1
    count = [each.verdict for each in outcomes].count
    return Report(count("matched"), count("differs"), cannot, outcomes, found.notes)


async def _all(
    records: Sequence[TrafficRecord], places: Places, release: str | None, done: Callable[[Remade], None]
) -> None:
    """Every record, a few at once."""
    servers = {address: Triton(address) for address in set(places.address.values())}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(record: TrafficRecord) -> None:
        async with gate:
            name = ReleaseId(release or str(record.release)) if record.release else None
            triton = servers.get(places.address.get(name, "")) if name else None
            reason = places.missing.get(name, "") if name else ""
            done(await again(record, name, triton, reason))

    try:
        await asyncio.gather(*map(one, records))
    finally:
        await asyncio.gather(*(server.close() for server in servers.values()))


async def again(record: TrafficRecord, release: ReleaseId | None, triton: Infers | None, missing: str = "") -> Remade:
    """One request, answered by `release` on `triton` as the gateway answers it, and compared with its record.

    `triton` is None when nobody can answer, which `missing` explains.
    """

    def end(verdict: Verdict, why: Why, detail: str = "", body: bytes = b"") -> Remade:
        outcome = Replayed(
            record.request_id, record.at, record.slot, record.dialect, release, verdict, why, detail, len(body)
        )
        return Remade(outcome, body)

    if record.status != 200 or record.code != "ok":
        return end("cannot", "refused", f"{record.status} {record.code}: there was no answer")
    if not record.request:
        return end("cannot", "no body", "the record holds the digest alone")
    try:
        route = route_of(record)
        task = route.restore(record.given or record.request, UnixSeconds(record.subnet_at))
    except (Refusal, msgspec.DecodeError) as error:
        return end("cannot", "not restored", f"the subnet's code reads the request otherwise now: {error}")
    if task.needs_model and triton is None:
        return end("cannot", "release gone", missing or "the record names no release")
    try:
        pieces = await _answer(record, release, triton, route, task)
    except TritonFault as fault:
        return end("cannot", "no answer", str(fault))
    body = b"".join(bytes(piece.body or b"") for piece in pieces)
    made = _joined(pieces, streamed=streams(route))
    why, detail = _difference(record, made, len(body), has_model=task.needs_model)
    return end("differs" if why else "matched", why, detail, body)


def route_of(record: TrafficRecord) -> Route:
    """The route that a record's request came in on; raises Refusal when no subnet here has it."""
    try:
        subnets = make(specs([record.slot]))
    except UserError as error:
        raise Refusal(404, "no_route", str(error)) from None
    for subnet in subnets:
        for route in subnet.routes:
            if route.synapse == record.synapse:
                return route
    raise Refusal(404, "no_route", f"no subnet here has a route {record.synapse} for slot {record.slot}")


async def _answer(
    record: TrafficRecord, release: ReleaseId | None, triton: Infers | None, route: Route, task: Task
) -> list[Tried]:
    """What the model and the subnet's code make of the request: one piece, or each chunk of a streamed answer."""
    legacy = record.dialect == "legacy"
    if not task.needs_model or triton is None or release is None:
        return [try_answer(route, task, {}, legacy=legacy)]
    tensors = {name: unpack(each.dtype, tuple(each.shape), each.data) for name, each in record.tensors.items()}
    if not streams(route):
        outputs = await triton.infer(release, tensors, priority=PRIORITY, timeout_s=TIMEOUT_S)
        return [try_answer(route, task, outputs, legacy=legacy)]
    return [
        try_answer(route, task, outputs, legacy=legacy)
        async for outputs in triton.stream(release, tensors, priority=PRIORITY, timeout_s=TIMEOUT_S)
    ]


class _Joined(NamedTuple):
    digest: str
    crc: int
    invalid: str | None


def _joined(pieces: Sequence[Tried], *, streamed: bool) -> _Joined:
    """What the record says of a whole answer, from its pieces, as `serving.streaming` adds them up."""
    digest = hashlib.sha256("".join(piece.digest for piece in pieces).encode()).hexdigest()
    invalid = next((piece.reason or "invalid" for piece in pieces if piece.body is None), None)
    crc = 0
    for number, piece in enumerate(pieces):
        crc = zlib.crc32(piece.body or b"", crc) if number else checksum(piece.body or b"")
    return _Joined(digest if streamed else pieces[0].digest, crc, invalid)


def _difference(record: TrafficRecord, made: _Joined, size: int, *, has_model: bool) -> tuple[Why, str]:
    """Why an answer is not the recorded one; empty when it is."""
    if has_model and made.digest != record.answer_digest:
        return "tensors", f"the model gave {made.digest[:12]}, and {str(record.answer_digest)[:12]} then"
    if made.invalid is not None:
        return "no answer", f"the same tensors are not valid now: {made.invalid}"
    if size != record.answer_bytes:
        return "length", f"the reply has {size} bytes, and had {record.answer_bytes}"
    if record.answer_crc is not None and made.crc != record.answer_crc:
        return "checksum", "the reply has other bytes of the same length"
    return "", ""
