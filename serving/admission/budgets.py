"""Who has sent too much: a budget for each hotkey."""

from __future__ import annotations

import struct
from math import ceil

import lmdb

from serving.errors import Refusal
from serving.wire.keys import PublicKey

_U64 = struct.Struct(">Q")


class Budgets:
    """Requests that one hotkey may send, counted over all workers of a box and across restarts.

    One number a hotkey: the time at which its budget would be full again. A request moves it by 1/rate; when it lies
    more than burst/rate ahead, the request is refused (429).
    """

    def __init__(self, env: lmdb.Environment, *, per_s: float, burst: int) -> None:
        self._env = env
        self._cost_ns = int(1e9 / per_s)
        self._ahead_ns = self._cost_ns * burst
        self._db = env.open_db(b"budgets")

    def check(self, sender: PublicKey, now_ns: int) -> None:
        """Refuse as `spend` would, and charge nothing: before any work on a claim that may be false."""
        self._judge(sender, now_ns, charge=False)

    def spend(self, sender: PublicKey, now_ns: int) -> None:
        """Charge one request; raises Refusal 429 with the seconds to wait, or 503 when it cannot be written down."""
        self._judge(sender, now_ns, charge=True)

    def _judge(self, sender: PublicKey, now_ns: int, *, charge: bool) -> None:
        try:
            over_ns = self._charge(sender, now_ns, charge=charge)
        except lmdb.Error:
            raise Refusal(503, "replay_store_down", "the budgets cannot be kept", retry_after=5) from None
        if over_ns > 0:
            wait = max(1, ceil(over_ns / 1e9))
            raise Refusal(429, "over_budget", "too many requests from this hotkey", retry_after=wait)

    def _charge(self, sender: PublicKey, now_ns: int, *, charge: bool) -> int:
        """Nanoseconds that the budget is short of; nothing is charged when it is."""
        with self._env.begin(write=charge, db=self._db) as txn:
            stored = txn.get(sender)
            full_at = _U64.unpack(stored)[0] if stored is not None else 0
            if full_at > now_ns + self._ahead_ns + self._cost_ns:  # our clock stepped back
                full_at = now_ns
            full_at = max(full_at, now_ns) + self._cost_ns
            over_ns = full_at - now_ns - self._ahead_ns
            if charge and over_ns <= 0:
                txn.put(sender, _U64.pack(full_at))
            return over_ns
