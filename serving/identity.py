"""Who may call: the subnet's validators by permit and stake, allow and deny lists, all keyed by public key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from serving.errors import Refusal
from serving.files import StateFile
from serving.state import NeuronTable, check_netuid
from serving.types import Hotkey
from serving.wire.keys import PublicKey, public_key

PRIORITIES = 3


class Caller(NamedTuple):
    """A hotkey of the subnet, and whether it is welcome."""

    hotkey: Hotkey
    key: PublicKey
    stake: float
    """TAO of stake weight."""
    priority: int
    """Triton's: 1 for the upper third of the welcome callers by stake, 3 for the lowest."""
    refused: tuple[str, str] | None = None
    """Code and message of the refusal, None when welcome."""


class Identity:
    """Looks callers up in ``neurons.json``.

    A table past its age limit stays in force: validators rarely change, and turning all of them away would cost more
    than serving one that has just left. /readyz tells of it. Without any table nobody is served (503).
    """

    def __init__(
        self, path: Path, *, stake_threshold: float, allow: Sequence[str] = (), deny: Sequence[str] = (),
        netuid: int | None = None, kept: Path | None = None, look_every_s: float = 0.0,
    ) -> None:  # fmt: skip
        """`netuid`: the one subnet whose table is taken; None takes any."""
        self._netuid = netuid
        self.threshold = stake_threshold
        self.allow = {public_key(hotkey): Hotkey(hotkey) for hotkey in allow}
        self.deny = {public_key(hotkey) for hotkey in deny}
        self.file: StateFile[NeuronTable] = StateFile(
            path, NeuronTable, self._index, kept=kept, look_every_s=look_every_s
        )

    def welcome(self, hotkey: Hotkey) -> Caller:
        """The caller behind a claimed hotkey; raises Refusal 403 (unwelcome), 401 (not a proper address), 503.

        One look-up for a known hotkey, one decoding for an unknown one; no signature work in either case.
        """
        callers: dict[str, Caller] | None = self.file.built()
        if callers is None:
            raise Refusal(503, "no_neurons", "the table of neurons is not here yet", retry_after=30)
        caller = callers.get(hotkey)
        if caller is None:
            public_key(hotkey)  # says whether it is an alias or no address at all
            raise Refusal(403, "not_registered", "this hotkey is not registered in the subnet")
        if caller.refused is not None:
            code, message = caller.refused
            raise Refusal(403, code, message)
        return caller

    def knows(self, hotkey: str) -> bool:
        """Whether `welcome` would take this hotkey: one look-up, whatever is asked."""
        callers: dict[str, Caller] | None = self.file.built()
        caller = callers.get(hotkey) if callers else None
        return caller is not None and caller.refused is None

    def _index(self, table: NeuronTable) -> dict[str, Caller]:
        if self._netuid is not None:
            check_netuid(table, self._netuid)
        found: dict[str, Caller] = {}
        for key, hotkey in self.allow.items():
            found[hotkey] = Caller(hotkey, key, 0.0, PRIORITIES, self._verdict(key, 0.0, False))
        for neuron in table.neurons:
            try:
                key = public_key(neuron.hotkey)
            except Refusal as refused:
                raise ValueError(f"{neuron.hotkey}: {refused.message}") from None
            verdict = self._verdict(key, neuron.stake, neuron.validator_permit)
            found[neuron.hotkey] = Caller(neuron.hotkey, key, neuron.stake, PRIORITIES, verdict)
        ranked = sorted((c for c in found.values() if c.refused is None), key=lambda c: -c.stake)
        for rank, caller in enumerate(ranked):
            found[caller.hotkey] = caller._replace(priority=1 + rank * PRIORITIES // len(ranked))
        return found

    def _verdict(self, key: PublicKey, stake: float, permit: bool) -> tuple[str, str] | None:
        if key in self.deny:
            return "denied", "this hotkey is not served here"
        if key in self.allow:
            return None
        if not permit:
            return "no_permit", "this hotkey has no validator permit"
        if stake < self.threshold:
            return "low_stake", f"this hotkey has less stake than the {self.threshold:g} TAO wanted here"
        return None
