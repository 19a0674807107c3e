"""The legacy dialect against requests captured from the SDK."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.types import Hotkey, Seconds
from serving.wire.head import Head
from serving.wire.keys import PublicKey, public_key
from serving.wire.legacy import LegacyClaim, body_hash, read_claim, reply_headers
from tests.serving.wire.judged import Rules, Store, head

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "legacy_vectors.json").read_text())
CASES = {case["case"]: case for case in VECTORS["requests"]}
RECEIVER = Hotkey(VECTORS["receiver_ss58"])
EMPTY = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"


@pytest.mark.parametrize("name", CASES)
def test_captured_requests_verify(name: str) -> None:
    case = CASES[name]
    claim = read_claim(head(case["headers"]), RECEIVER)
    assert claim.message().decode() == case["signed_message"]
    assert claim.signed_at == claim.nonce
    claim.check_fresh(claim.nonce + 10**9, Rules())
    claim.check_signature(head(case["headers"]), b"")
    fields = case["hash_fields_in_hashing_order"]
    claim.check_body(Rules(fields, case["hashed_strings"], fields), {})


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
        claim.check_body(Rules(["inputs"], ["[1.0, 2.5]"], ["inputs"]), {})
    assert (refused.value.status, refused.value.code) == (401, "body_hash")


def test_surrogates_in_a_hashed_text_are_a_bad_request(claim: LegacyClaim) -> None:
    with pytest.raises(Refusal) as refused:
        claim.check_body(Rules(["inputs"], ["\ud800"], ["inputs"]), {})
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
        claim.check_fresh(now_ns, Rules(max_timeout=Seconds(route_max)))
        return
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(now_ns, Rules(max_timeout=Seconds(route_max)))
    assert refused.value.status == 401
    assert f"{abs(age_s):.2f} s" in refused.value.message


ORDERS = ["declared order b,a (ClassVar)", "old pydantic-field style b,a (hashed in model order a,b)"]


@pytest.mark.parametrize("name", ORDERS)
def test_a_body_hash_may_be_in_declared_or_in_model_order(name: str) -> None:
    claim = read_claim(head(CASES[name]["headers"]), RECEIVER)
    claim.check_body(Rules(("b", "a"), [2, 1], ("a", "b")), {})
    with pytest.raises(Refusal, match="body"):
        claim.check_body(Rules(("b", "a"), [2, 3], ("a", "b")), {})


def test_the_other_order_is_good_only_where_the_route_knows_it() -> None:
    in_model_order = read_claim(head(CASES[ORDERS[1]]["headers"]), RECEIVER)
    with pytest.raises(Refusal) as refused:
        in_model_order.check_body(Rules(("b", "a"), [2, 1], ("b", "a")), {})
    assert refused.value.code == "body_hash"


def test_a_signature_covers_the_inputs_where_fields_are_hashed(claim: LegacyClaim) -> None:
    assert claim.covers(Rules(("inputs",), [], ("inputs",)))
    assert not claim.covers(Rules())


NOW = 1795368733100868295
SENDER: PublicKey = public_key(VECTORS["sender_ss58"])
OURS: PublicKey = public_key(RECEIVER)
OLD = Rules(monotonic_nonces=True)


@pytest.mark.parametrize("version", ["7001000", "6012004", None, "0"])
def test_a_monotonic_nonce_is_good_only_where_the_route_opts_in(version: str | None) -> None:
    claim = read_claim(changed(bt_header_dendrite_nonce="5", bt_header_dendrite_version=version), RECEIVER)
    assert claim.signed_at is None
    claim.check_fresh(NOW, OLD)
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(NOW, Rules())
    assert refused.value.code == "stale"


@pytest.mark.parametrize("version", ["7002000", "10005000", "abc", "-1", ""])
def test_a_monotonic_nonce_of_a_newer_sdk_is_stale_everywhere(version: str) -> None:
    claim = read_claim(changed(bt_header_dendrite_nonce="5", bt_header_dendrite_version=version), RECEIVER)
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(NOW, OLD)
    assert refused.value.code == "stale"


@pytest.mark.parametrize("version", ["7001000", None])
async def test_a_stripped_version_makes_no_captured_request_good_again(version: str | None) -> None:
    day_ns = 86_400 * 10**9
    claim = read_claim(changed(bt_header_dendrite_version=version), RECEIVER)
    with pytest.raises(Refusal) as refused:
        claim.check_fresh(claim.nonce + day_ns, OLD)
    assert refused.value.code == "stale"
    store = Store()
    await read_claim(changed(), RECEIVER).spend(store, SENDER, OURS, NOW)
    with pytest.raises(Refusal) as refused:
        await claim.spend(store, SENDER, OURS, NOW)
    assert refused.value.code == "replayed"


async def test_monotonic_nonces_only_rise_for_each_uuid() -> None:
    store = Store()

    async def spend(nonce: int, uuid: str | None) -> None:
        headers = {"bt_header_dendrite_nonce": str(nonce), "bt_header_dendrite_uuid": uuid}
        old = read_claim(changed(**headers, bt_header_dendrite_version="6012004"), RECEIVER)
        await old.spend(store, SENDER, OURS, NOW)

    for nonce, uuid in [(5, "a"), (6, "a"), (5, "b"), (5, None)]:
        await spend(nonce, uuid)
    for nonce, uuid in [(6, "a"), (5, "a"), (5, None), (5, "None")]:
        with pytest.raises(Refusal, match="last"):
            await spend(nonce, uuid)


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
        claim.check_fresh(NOW, Rules())
        claim.check_signature(changed(), b"")
    except Refusal as refused:
        caught = refused
    assert caught is None or (caught.status in {400, 401} and caught.message.isascii() and len(caught.message) <= 200)
