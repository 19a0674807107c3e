"""Whether the books agree: requests that the gateway counted, rows of the traffic record, what the disk refused."""

from __future__ import annotations

import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec

from infra.ports import endpoints, need
from infra.settings import Settings, Traffic
from infra.traffic.reading import records
from infra.traffic.selection import is_own
from serving.clock import replace_file
from serving.errors import UserError
from serving.traffic.retention import MARKS_KEEP_S

BOOKS = "books.json"
FLUSH_S = 1.5
"""Workers hand over their counts every second."""
_DAY_S = 86_400.0


class Counted(msgspec.Struct, frozen=True):
    """What the gateway says of itself since it started."""

    since: float
    """When it started, unix s."""
    requests: int
    """Requests with a good signature, pings apart: each has a row of its own."""
    lost: int
    """Rows that the disk refused."""


class Books(msgspec.Struct, frozen=True):
    """Requests against rows since the gateway started."""

    since: float
    requests: int
    rows: int
    """Of requests."""
    beside: int
    """Of other releases' tries at the same requests: shadows, and what failed before a fallback answered."""
    lost: int
    missing: int
    """Requests with neither a row nor a refusal of the disk: never anything but 0."""
    uncounted: int
    """Rows of requests that no worker counted: the last second of one that was killed."""
    at: float = 0.0
    """When they were compared, wall time, unix s."""


def last_books(folder: Path) -> Books | None:
    """What the last `reconcile` of this home found, from ``books.json`` in the record's folder; None without one."""
    try:
        return msgspec.json.decode((folder / BOOKS).read_bytes(), type=Books)
    except (OSError, msgspec.DecodeError):
        return None


def reconcile(settings: Settings, *, wait: Callable[[float], None] = time.sleep) -> Books:
    """Compare, over the life of the running gateway, on this disk and among what was shipped and removed.

    Requests that arrive meanwhile do not disturb it. What it finds is kept for `last_books`. Raises UserError when
    the gateway or the object store does not answer, or when the gateway has run for longer than rows are kept.
    """
    address = need(endpoints(settings).private, "the gateway's private port")
    before = counted(page(f"{address}/metrics"))
    _in_reach(settings.traffic, time.time() - before.since)
    wait(FLUSH_S)
    own = beside = 0
    for record in records(settings, since=before.since):
        if is_own(record):
            own += 1
        else:
            beside += 1
    wait(FLUSH_S)
    after = counted(page(f"{address}/metrics"))
    if after.since != before.since:
        raise UserError("the gateway was started again meanwhile: try once more")
    books = Books(
        since=before.since, requests=after.requests, rows=own, beside=beside, lost=after.lost,
        missing=max(0, before.requests - own - after.lost),
        uncounted=max(0, own - after.requests),
        at=time.time(),
    )  # fmt: skip
    with contextlib.suppress(OSError):  # a disk that takes no more is told by `lost`
        replace_file(settings.paths.traffic / BOOKS, msgspec.json.encode(books))
    return books


def _in_reach(traffic: Traffic, uptime_s: float) -> None:
    """Refuse to compare where rows of the gateway's first days have gone, as the settings want."""
    days = traffic.keep_days if not traffic.ship else MARKS_KEEP_S / _DAY_S
    if traffic.ship and traffic.s3_keep_days:
        days = min(days, traffic.s3_keep_days)
    if uptime_s > days * _DAY_S:
        raise UserError(
            f"the gateway has counted for {uptime_s / _DAY_S:.0f} days, and rows can be followed for {days:g}: books "
            "are compared within that time of its start",
            exit_code=3,
        )


def counted(page: str) -> Counted:
    """The facts in a page of metrics; raises UserError when it is not the gateway's."""
    from prometheus_client.parser import text_string_to_metric_families

    since, requests, lost = None, 0.0, 0.0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "headframe_started_seconds":
                since = sample.value
            elif sample.name == "headframe_traffic_lost":
                lost += sample.value
            elif sample.name == "headframe_requests_total":
                verified = sample.labels["caller"] != "unknown" and sample.labels["route"] != "ping"
                requests += sample.value if verified else 0.0
    if since is None:
        raise UserError("the private port does not give the gateway's metrics")
    return Counted(since, int(requests), int(lost))


def page(url: str, limit_s: float = 10.0) -> str:
    """The gateway's metrics; raises UserError when they do not come within the limit."""
    try:
        with urllib.request.urlopen(url, timeout=limit_s) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"the gateway's metrics at {url} cannot be read ({error}): is it up?") from None
