"""It's AI's numbers as of 3.14.0 (2026-03-17)."""

from __future__ import annotations

import re

from serving.types import NetUid, Seconds, SlotName

NETUID = NetUid(32)
SLOT = SlotName("itsai")
MAX_TIMEOUT = Seconds(20.0)
"""A validator waits so long for each of its two or three calls of a round."""
RETRY_STATUS = 422
"""The one status on which a validator asks again, three times in all; any other is this miner's last word."""
ROUND_S = Seconds(45 * 60.0)
"""Longer than a round, whose two or three calls to a miner come within minutes, and shorter than the 90 minutes that a
validator lets pass between two rounds: so none of its rounds can begin before this time is over and end behind it."""
MAX_BODY = 4 * 1024 * 1024
"""Bytes: 120 texts of at most 350 words are about 150 kB, six times as much when every letter is an escape."""
MAX_TEXTS = 1_024
DECIMALS = 2
"""A validator compares its two calls at so many decimals, and any difference zeroes the round."""

LEAST_VERSION, CURRENT_VERSION = (3, 8, 0), (3, 14, 0)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)


def answerable(version: str) -> bool:
    """Whether a validator of this protocol version wants an answer; one that does not is probing for blind answers."""
    found = _VERSION.fullmatch(version)
    return found is not None and LEAST_VERSION <= tuple(map(int, found.groups())) <= CURRENT_VERSION
