"""Limits on a head, and which dialect it speaks."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import Refusal
from serving.types import Hotkey
from serving.wire.claim import dialect_of, reads_bt_headers, receiver_named
from serving.wire.dialects import claims
from serving.wire.head import MAX_BYTES, MAX_FIELDS, Head, read_head


def scope(*headers: tuple[bytes, bytes], query: bytes = b"") -> dict[str, Any]:
    return {"method": "POST", "raw_path": b"/X", "query_string": query, "headers": list(headers)}


def refused(*headers: tuple[bytes, bytes]) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        read_head(scope(*headers))
    return caught.value.status, caught.value.code


def test_the_target_is_path_and_query_as_sent() -> None:
    assert read_head(scope(query=b"a=%20")).target == b"/X?a=%20"
    assert read_head({**scope(), "headframe.target": b"/X?"}).target == b"/X?"


def test_too_many_and_too_large_headers_are_431() -> None:
    most = [(b"h%d" % number, b"") for number in range(MAX_FIELDS)]
    assert len(read_head(scope(*most)).fields) == MAX_FIELDS
    assert refused(*most, (b"one-more", b"")) == (431, "too_many_headers")
    assert read_head(scope((b"h", b"x" * (MAX_BYTES - 1)))).fields
    assert refused((b"h", b"x" * MAX_BYTES)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "name",
    [b"bt_header_dendrite_nonce", b"bt_header_dendrite_signature", b"x-bittensor-nonce", b"timeout", b"content-length",
     b"computed_body_hash", b"bt_header_anything", b"host"],
)  # fmt: skip
def test_headers_that_matter_may_be_there_once(name: bytes) -> None:
    assert refused((name, b"1"), (b"accept", b"*"), (name, b"1")) == (400, "duplicate_header")


def test_other_headers_may_repeat() -> None:
    assert read_head(scope((b"accept", b"a"), (b"accept", b"b"))).fields[b"accept"] == b"b"


def test_a_header_that_is_read_must_be_ascii() -> None:
    head = read_head(scope((b"timeout", b"1\xb2")))
    with pytest.raises(Refusal) as caught:
        head.text(b"timeout")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((b"x-bittensor-signature",), "btauth"),
        ((b"bt_header_dendrite_signature",), "legacy"),
        ((b"x-bittensor-signature", b"bt_header_dendrite_signature"), 400),
        ((b"x-bittensor-signature", b"epistula-request-signature"), 400),
        ((b"bt_header_dendrite_signature", b"body-signature"), 400),
        ((b"epistula-request-signature",), "epistula"),
        ((b"epistula-request-signature", b"epistula-secret-signature-0"), "epistula"),
        ((b"epistula-request-signature", b"body-signature"), 400),
        ((b"body-signature",), 401),
        ((b"x-epistula-signature",), 401),
        ((b"bt_header_dendrite_hotkey", b"x-bittensor-hotkey"), 401),
        ((), 401),
    ],
)
def test_the_dialect_is_the_signature_that_is_there(names: tuple[bytes, ...], expected: str | int) -> None:
    head = Head("POST", b"/X", b"/X", dict.fromkeys(names, b""))
    if isinstance(expected, str):
        assert dialect_of(head) == expected
        return
    with pytest.raises(Refusal) as caught:
        dialect_of(head)
    assert caught.value.status == expected


@pytest.mark.parametrize("name", [b"body-signature", b"x-epistula-signature"])
def test_the_kin_of_epistula_are_told_so(name: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        dialect_of(Head("POST", b"/X", b"/X", {name: b""}))
    assert (caught.value.status, caught.value.code) == (401, "dialect_unknown")


def test_epistula_is_off_until_it_is_switched_on() -> None:
    head = Head("POST", b"/X", b"/X", {b"epistula-request-signature": b""})
    codes = []
    for on in (False, True):
        with pytest.raises(Refusal) as caught:
            claims(epistula_on=on)["epistula"](head, Hotkey("us"))
        codes.append((caught.value.status, caught.value.code))
    assert codes == [(401, "dialect_off"), (400, "missing_header")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((b"bt_header_dendrite_signature",), True),
        ((b"accept", b"bt_header_dendrite_hotkey"), True),  # unsigned, and a Dendrite's all the same
        ((b"bt_header_axon_hotkey", b"timeout"), False),
        ((b"bt_header_dendrite_signature", b"x-bittensor-signature"), False),
        ((b"x-bittensor-hotkey", b"bt_header_dendrite_signature"), False),
        ((b"bt_header_dendrite_signature", b"epistula-version"), False),
        ((b"bt_header_dendrite_signature", b"body-signature"), False),
        ((), False),
    ],
)
def test_bt_headers_go_only_to_who_is_nothing_but_a_dendrite(names: tuple[bytes, ...], *, expected: bool) -> None:
    assert reads_bt_headers(names) is expected


def test_a_request_names_its_receiver_in_each_dialect() -> None:
    fields = {b"bt_header_axon_hotkey": b"a", b"x-bittensor-receiver": b"b", b"epistula-signed-for": b"c"}
    head = Head("POST", b"/X", b"/X", fields)
    assert [receiver_named(dialect, head) for dialect in ("legacy", "btauth", "epistula")] == ["a", "b", "c"]
    assert receiver_named("btauth", Head("POST", b"/X", b"/X", {})) is None
