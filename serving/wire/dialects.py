"""Which dialects this port speaks, and how to read a claim in each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire import btauth, epistula, legacy
from serving.wire.claim import Claim, DialectName, ReadClaim
from serving.wire.head import Head


def claims(*, epistula_on: bool = False, schemes: Mapping[str, str] | None = None) -> Mapping[DialectName, ReadClaim]:
    """The reader of each dialect's headers.

    `schemes`: the one scheme (``sr25519`` or ``ed25519``) by which a hotkey signs btauth; hotkeys that are not in it
    use the one they declare.
    """
    return {
        "legacy": legacy.read_claim,
        "btauth": partial(btauth.read_claim, scheme_of=dict(schemes or {}).get),
        "epistula": epistula.read_claim if epistula_on else _off,
    }


def _off(head: Head, receiver: Hotkey) -> Claim:
    raise Refusal(401, "dialect_off", "Epistula is not spoken here")
