"""What the sidecar does for the traffic record: ship what is closed, and let shipped records expire."""

from __future__ import annotations

import structlog

from infra.objects import object_store
from infra.settings import Settings
from infra.sidecar import Duty
from infra.traffic import rows
from infra.traffic.shipping import expire, ship_and_tell

SHIP_EVERY = 30.0
EXPIRE_EVERY = 6 * 3600.0
log = structlog.get_logger()


def traffic_duties(settings: Settings) -> list[Duty]:
    """The duties that the settings ask for."""
    if not settings.traffic.ship:
        return []
    shipping = Duty("traffic", lambda: _ship(settings), lambda: SHIP_EVERY, longest_pause=300.0)
    if not settings.traffic.s3_keep_days:
        return [shipping]
    expiry = Duty("traffic-expiry", lambda: _expire(settings), lambda: EXPIRE_EVERY, longest_pause=EXPIRE_EVERY)
    return [shipping, expiry]


def _ship(settings: Settings) -> None:
    marks = ship_and_tell(settings.paths.traffic, lambda: object_store(settings))
    if marks:
        rows.give_back()
        log.info("traffic shipped", segments=len(marks), rows=sum(mark.rows for mark in marks))


def _expire(settings: Settings) -> None:
    gone = expire(object_store(settings), settings.traffic.s3_keep_days)
    if gone:
        log.info("traffic expired", objects=gone)
