"""Epistula 2, against a construction of its own in this file."""

from __future__ import annotations

import hashlib
import uuid as uuids
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire.epistula import EpistulaClaim, read_claim
from serving.wire.keys import PublicKey, public_key
from tests.serving.callers import ALICE, BOB, MINER
from tests.serving.wire.judged import Rules, Store, head

NOW_MS = 1_795_368_733_100
NOW = NOW_MS * 1_000_000
US = Hotkey(MINER.ss58_address)
OURS, SENDER = public_key(MINER.ss58_address), public_key(ALICE.ss58_address)
UUID = "0b0e7b0a-52ad-4bd5-9d2c-8b8dd7d3b0a1"


def signed(
    body: bytes = b"{}", *, sender: Any = ALICE, receiver: str = MINER.ss58_address, at_ms: int = NOW_MS,
    uuid: str = UUID,
) -> dict[str, str]:  # fmt: skip
    """The headers that a client of version 2 sends."""
    parts = [hashlib.sha256(body).hexdigest(), uuid, str(at_ms), receiver]
    return {
        "Epistula-Version": "2",
        "Epistula-Timestamp": str(at_ms),
        "Epistula-Uuid": uuid,
        "Epistula-Signed-By": sender.ss58_address,
        "Epistula-Signed-For": receiver,
        "Epistula-Request-Signature": "0x" + sender.sign(".".join(parts).encode()).hex(),
        "Epistula-Secret-Signature-0": "0xnonsense",
    }


def judged(headers: dict[str, str], body: bytes = b"{}", now: int = NOW) -> EpistulaClaim:
    claim = read_claim(head(headers), US)
    claim.check_fresh(now, Rules())
    claim.check_signature(head(headers), body)
    return claim


def refused(headers: dict[str, str], body: bytes = b"{}", now: int = NOW) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        judged(headers, body, now)
    return caught.value.status, caught.value.code


@given(st.binary(max_size=200), st.uuids(version=4), st.integers(-8000, 2000), st.sampled_from([ALICE, BOB]))
def test_what_a_client_signs_verifies(body: bytes, uuid: uuids.UUID, ahead_ms: int, sender: Any) -> None:
    claim = judged(signed(body, sender=sender, at_ms=NOW_MS + ahead_ms, uuid=str(uuid)), body)
    assert (claim.dialect, claim.hotkey, claim.signed_at) == ("epistula", sender.ss58_address, NOW + ahead_ms * 10**6)
    assert claim.covers(Rules())
    claim.check_body(Rules(), {})


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_another_body_does_not_fit(body: bytes, other: bytes) -> None:
    if body != other:
        assert refused(signed(body), other) == (401, "bad_signature")


@pytest.mark.parametrize(
    ("age_ns", "code"),
    [(8 * 10**9, None), (8 * 10**9 + 1, "stale"), (-2 * 10**9, None), (-2 * 10**9 - 1, "future"),
     (-3600 * 10**9, "future"), (86_400 * 10**9, "stale")],
)  # fmt: skip
def test_the_window_is_closed_at_both_ends(age_ns: int, code: str | None) -> None:
    if code is None:
        judged(signed(), now=NOW + age_ns)
    else:
        assert refused(signed(), now=NOW + age_ns) == (401, code)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"Epistula-Version": "1"}, 400, "bad_version"),
        ({"Epistula-Version": None}, 400, "missing_header"),
        ({"Epistula-Timestamp": str(NOW_MS + 1)}, 401, "bad_signature"),
        ({"Epistula-Timestamp": f"0{NOW_MS}"}, 400, "bad_nonce"),
        ({"Epistula-Timestamp": f"{NOW_MS}.0"}, 400, "bad_nonce"),
        ({"Epistula-Timestamp": "9" * 13}, 400, "bad_nonce"),
        ({"Epistula-Timestamp": str(NOW)}, 400, "bad_nonce"),
        ({"Epistula-Uuid": str(uuids.UUID(int=1))}, 401, "bad_signature"),
        ({"Epistula-Uuid": UUID.upper()}, 401, "bad_signature"),
        ({"Epistula-Uuid": "1"}, 400, "bad_uuid"),
        ({"Epistula-Signed-By": BOB.ss58_address}, 401, "bad_signature"),
        ({"Epistula-Signed-By": None}, 400, "missing_header"),
        ({"Epistula-Signed-For": BOB.ss58_address}, 401, "wrong_receiver"),
        ({"Epistula-Signed-For": ""}, 401, "wrong_receiver"),
        ({"Epistula-Signed-For": None}, 401, "wrong_receiver"),
        ({"Epistula-Request-Signature": "ab" * 64}, 401, "bad_signature_format"),
        ({"Epistula-Request-Signature": None}, 400, "missing_header"),
    ],
)
def test_headers_are_read_in_one_spelling(changes: dict[str, str | None], status: int, code: str) -> None:
    merged = {**signed(), **changes}
    assert refused({name: value for name, value in merged.items() if value is not None}) == (status, code)


def test_a_signature_for_another_miner_is_none_for_us() -> None:
    headers = signed(receiver=BOB.ss58_address) | {"Epistula-Signed-For": MINER.ss58_address}
    assert refused(headers) == (401, "bad_signature")


async def test_a_uuid_works_once_and_a_millisecond_holds_many() -> None:
    store = Store()

    async def spend(uuid: str, sender: PublicKey = SENDER, receiver: PublicKey = OURS) -> None:
        await read_claim(head(signed(uuid=uuid)), US).spend(store, sender, receiver, NOW)

    other = str(uuids.UUID(int=7))
    await spend(UUID)
    await spend(other)
    await spend(UUID, sender=public_key(BOB.ss58_address))
    await spend(UUID, receiver=SENDER)
    for uuid in (UUID, other, UUID.upper()):
        with pytest.raises(Refusal, match="again"):
            await spend(uuid)
    assert {nonce for _, _, nonce in store.spent} == {NOW}  # the store can expire it by its time


SENT = signed()


@given(st.dictionaries(st.sampled_from(sorted(SENT)), st.text(max_size=80), max_size=4))
def test_any_headers_give_a_refusal_or_the_claim_that_was_signed(changes: dict[str, str]) -> None:
    merged = {**SENT, **changes}
    caught: Refusal | None = None
    try:
        judged(merged)
    except Refusal as refused:
        caught = refused
    unchanged = merged == {**SENT, "Epistula-Secret-Signature-0": merged["Epistula-Secret-Signature-0"]}
    assert (caught is None) is unchanged
    assert caught is None or (caught.status in {400, 401} and caught.message.isascii())
