"""The legacy dialect against requests captured from the SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.types import Hotkey, Seconds
from serving.wire.head import Head
from serving.wire.legacy import LegacyClaim, body_hash, read_claim, reply_headers

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "legacy_vectors.json").read_text())
CASES = {case["case"]: case for case in VECTORS["requests"]}
RECEIVER = Hotkey(VECTORS["receiver_ss58"])
EMPTY = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"


class Texts(NamedTuple):
    """A route whose hashed values have these Python texts."""

    hash_fields: tuple[str, ...]
    texts: list[str]
    model_order: tuple[str, ...] = ()
    monotonic_nonces: bool = False

    def hashed_values(self, body: dict[str, Any]) -> list[Any]:
        return list(self.texts)


def head(headers: dict[str, str], path: str = "/X") -> Head:
    fields = {name.lower().encode(): value.encode() for name, value in headers.items()}
    return Head("POST", path.encode(), path.encode(), fields)


@pytest.mark.parametrize("name", CASES)
def test_captured_requests_verify(name: str) -> None:
    case = CASES[name]
    claim = read_claim(head(case["headers"]), RECEIVER)
    assert claim.message().decode() == case["signed_message"]
    claim.check_fresh(claim.nonce + 10**9, Seconds(12.0))
    claim.check_signature(head(case["headers"]), b"")
    claim.check_body(Texts(tuple(case["hash_fields_in_hashing_order"]), case["hashed_strings"]), {})


def test_python_values_hash_by_their_python_text() -> None:
    case = CASES["mixed scalars, None"]
    assert body_hash([1.0, True, None, "é"]) == case["headers"]["computed_body_hash"]
    assert body_hash([(1, "a"), {1: 2.0}]) == CASES["tuple and int-keyed dict"]["headers"]["computed_body_hash"]
    assert body_hash([float("inf")]) == CASES["inf in float field"]["headers"]["computed_body_hash"]
    assert body_hash([]) == EMPTY


@pytest.fixture
def claim() -> LegacyClaim:
    return read_claim(head(CASES["float list"]["headers"]), RECEIVER)


def changed(**headers: str | None) -> Head:
    merged = {**CASES["float list"]["headers"], **headers}
    return head({name: value for name, value in merged.items() if value is not None})


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"bt_header_dendrite_nonce": None}, 400, "missing_header"),
        ({"bt_header_dendrite_nonce": ""}, 400, "bad_nonce"),
        ({"bt_header_dendrite_nonce": "+5"}, 400, "bad_nonce"),
        ({"bt_header_dendrite_nonce": "1e18"}, 400, "bad_nonce"),
        ({"bt_header_dendrite_nonce": "017953687331008682"}, 400, "bad_nonce"),
        ({"bt_header_dendrite_nonce": "9" * 19}, 400, "bad_nonce"),
        ({"bt_header_dendrite_nonce": "9" * 5000}, 400, "bad_nonce"),
        ({"bt_header_dendrite_hotkey": None}, 400, "missing_header"),
        ({"bt_header_dendrite_hotkey": "5" * 65}, 401, "bad_hotkey"),
        ({"bt_header_dendrite_uuid": "u" * 65}, 400, "bad_uuid"),
        ({"bt_header_dendrite_uuid": "ü"}, 400, "header_not_ascii"),
        ({"computed_body_hash": None}, 400, "missing_header"),
        ({"computed_body_hash": EMPTY.upper()}, 400, "bad_body_hash"),
        ({"bt_header_dendrite_signature": None}, 400, "missing_header"),
        ({"bt_header_dendrite_signature": "ab" * 64}, 401, "bad_signature_format"),
        ({"bt_header_dendrite_signature": "0x" + "ab" * 63}, 401, "bad_signature_format"),
        ({"timeout": "abc"}, 400, "bad_timeout"),
        ({"timeout": "nan"}, 400, "bad_timeout"),
        ({"timeout": "-1"}, 400, "bad_timeout"),
    ],
)
def test_headers_of_a_wrong_shape_are_refused(headers: dict[str, str | None], status: int, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_claim(changed(**headers), RECEIVER)
    assert (refused.value.status, refused.value.code) == (status, code)


@pytest.mark.parametrize(
    "headers",
    [
        {"bt_header_dendrite_nonce": "1795368733100868296"},
        {"bt_header_dendrite_uuid": "another"},
        {"bt_header_dendrite_uuid": None},
        {"computed_body_hash": EMPTY},
        {"bt_header_dendrite_hotkey": VECTORS["receiver_ss58"]},
    ],
)
def test_whatever_is_signed_cannot_be_changed(headers: dict[str, str | None]) -> None:
    with pytest.raises(Refusal, match="signature") as refused:
        read_claim(changed(**headers), RECEIVER).check_signature(changed(), b"")
    assert refused.value.status == 401


def test_a_request_to_another_miner_does_not_verify_whatever_its_axon_header_says() -> None:
    other = Hotkey("5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y")
    for headers in ({}, {"bt_header_axon_hotkey": other}):
        with pytest.raises(Refusal) as refused:
            read_claim(changed(**headers), other).check_signature(changed(), b"")
        assert refused.value.code == "bad_signature"


def test_a_changed_body_does_not_fit_its_hash(claim: LegacyClaim) -> None:
    with pytest.raises(Refusal) as refused:
        claim.check_body(Texts(("inputs",), ["[1.0, 2.5]"]), {})
    assert (refused.value.status, refused.value.code) == (401, "body_hash")


def test_surrogates_in_a_hashed_text_are_a_bad_request(claim: LegacyClaim) -> None:
    with pytest.raises(Refusal) as refused:
        claim.check_body(Texts(("inputs",), ["\ud800"]), {})
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("claimed", "route_max", "age_s", "fresh"),
    [
        ("12.0", 12.0, 15.999, True),
        ("12.0", 12.0, 16.001, False),
        ("1e9", 12.0, 16.001, False),  # a raised timeout opens no more than the route allows
        (None, 12.0, 3.999, True),
        (None, 12.0, 4.001, False),
        ("12.0", 12.0, -3.999, True),
        ("12.0", 12.0, -4.001, False),
        ("12.0", 12.0, -3600.0, False),
    ],
)
def test_the_window_is_bounded_both_ways(claimed: str | None, route_max: float, age_s: float, fresh: bool) -> None:
    claim = read_claim(changed(timeout=claimed), RECEIVER)
    now_ns = claim.nonce + int(age_s * 1e9)
    if fresh:
        claim.check_fresh(now_ns, Seconds(route_max))
        return
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(now_ns, Seconds(route_max))
    assert refused.value.status == 401
    assert f"{abs(age_s):.2f} s" in refused.value.message


def test_a_monotonic_nonce_is_refused_whatever_version_is_claimed() -> None:
    claim = read_claim(changed(bt_header_dendrite_nonce="5", bt_header_dendrite_version="7001000"), RECEIVER)
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(1795368733100868295, Seconds(12.0))
    assert refused.value.code == "stale"


def test_reply_headers_are_short_ascii() -> None:
    named = dict(reply_headers(200, "Success", 0.0421))
    assert named == {
        b"bt_header_axon_status_code": b"200",
        b"bt_header_axon_status_message": b"Success",
        b"bt_header_axon_process_time": b"0.042100",
    }


@given(st.dictionaries(st.sampled_from(sorted(CASES["float list"]["headers"])), st.text(max_size=200)))
def test_any_headers_give_a_claim_or_a_refusal(headers: dict[str, str]) -> None:
    caught: Refusal | None = None
    try:
        claim = read_claim(changed(**headers), RECEIVER)
        claim.check_fresh(1795368733100868295, Seconds(12.0))
        claim.check_signature(changed(), b"")
    except Refusal as refused:
        caught = refused
    assert caught is None or (caught.status in {400, 401} and caught.message.isascii() and len(caught.message) <= 200)
