"""Which release answers a request: stable, or the canary for a stable share of callers' requests."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from serving.errors import Refusal
from serving.files import StateFile
from serving.state import RouteTable, SlotRoute
from serving.traffic.records import Role
from serving.types import Hotkey, ReleaseId, SlotName

BASIS_POINTS = 10_000


class RouteReader(StateFile[RouteTable]):
    """``routes.json``, re-read at the first request after it changed."""

    def __init__(self, path: Path, *, kept: Path | None = None, look_every_s: float = 0.0) -> None:
        super().__init__(path, RouteTable, kept=kept, look_every_s=look_every_s)

    def slot(self, slot: SlotName) -> SlotRoute:
        """The slot's route; raises Refusal (503) while the slot has no stable release."""
        table = self.get()
        route = table.slots.get(slot) if table is not None else None
        if route is None or route.stable is None:
            raise Refusal(503, "no_release", "no release serves this slot yet", retry_after=30)
        return route


def share(slot: SlotName, caller: Hotkey, canonical: bytes) -> int:
    """Where a request falls in 0..9999: the same for the same slot, caller and inputs, in every process."""
    digest = blake2b(b"\n".join((slot.encode(), caller.encode(), canonical)), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BASIS_POINTS


def choose(route: SlotRoute, slot: SlotName, caller: Hotkey, canonical: bytes) -> tuple[Role, ReleaseId]:
    """The role and release that answer a request first; `route` has a stable release."""
    canary = route.canary
    if canary is not None and share(slot, caller, canonical) < canary.share_bp:
        return "canary", canary.release
    if route.stable is None:
        raise Refusal(503, "no_release", "no release serves this slot yet", retry_after=30)
    return "stable", route.stable


def candidates(
    route: SlotRoute, slot: SlotName, caller: Hotkey, canonical: bytes, pinned: ReleaseId | None = None
) -> list[tuple[Role, ReleaseId]]:
    """Releases in the order in which they are tried: the chosen one, stable after a canary, then the fallback.

    The release that the caller's round began with, its `pinned` one, is chosen before any other. An answer by any but
    the chosen one has the role ``fallback``.
    """
    first = choose(route, slot, caller, canonical)
    tried: list[tuple[Role, ReleaseId]] = [first if pinned is None else (_role_of(pinned, route), pinned)]
    named = {tried[0][1]}
    for release in (first[1], route.stable, route.fallback):
        if release is not None and release not in named:
            named.add(release)
            tried.append(("fallback", release))
    return tried


def _role_of(pinned: ReleaseId, route: SlotRoute) -> Role:
    if pinned == route.stable:
        return "stable"
    return "canary" if route.canary is not None and pinned == route.canary.release else "pinned"
