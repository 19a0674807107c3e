"""Header values have one spelling each: read back, they are what was sent, and nothing else is read at all."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.wire import shape
from serving.wire.claim import DialectName, dialect_of, reads_bt_headers
from serving.wire.head import MAX_BYTES, MAX_FIELDS, Head, read_head
from serving.wire.keys import MAX_ADDRESS

NAME = b"x-name"


def head(value: str | bytes) -> Head:
    return Head("POST", b"/X", b"/X", {NAME: value if isinstance(value, bytes) else value.encode()})


def code(reader: Any, value: str | bytes) -> str:
    with pytest.raises(Refusal) as refused:
        reader(head(value), NAME)
    assert refused.value.status in {400, 401}
    return refused.value.code


@given(st.integers(1, 2**63 - 1))
def test_every_nonce_of_63_bits_is_read(nonce: int) -> None:
    assert shape.nonce(head(str(nonce)), NAME) == nonce


@given(st.text(max_size=40) | st.integers().map(str) | st.from_regex(r"[+-]?0*[0-9_.eE]{0,24}", fullmatch=True))
def test_no_other_text_is_a_nonce(text: str) -> None:
    if text.isascii() and re.fullmatch("[1-9][0-9]*", text) and int(text) < 2**63:
        assert str(shape.nonce(head(text), NAME)) == text
    else:
        assert code(shape.nonce, text) in {"bad_nonce", "header_not_ascii"}


@given(st.binary(min_size=64, max_size=64))
def test_a_signature_has_one_spelling(signature: bytes) -> None:
    text = "0x" + signature.hex()
    assert shape.signature(head(text), NAME) == signature
    for other in (text[2:], text.replace("0x", "0X"), text + "00", text[:-2], text + "\n", text[:-1] + "g"):
        assert code(shape.signature, other) == "bad_signature_format"
    shouted = "0x" + text[2:].upper()
    if shouted != text:
        assert code(shape.signature, shouted) == "bad_signature_format"


@given(st.text(max_size=100))
def test_no_other_text_is_a_signature(text: str) -> None:
    assert code(shape.signature, text) in {"bad_signature_format", "header_not_ascii"}


@given(st.text(max_size=80))
def test_a_hotkey_is_text_of_a_hotkeys_length(text: str) -> None:
    if text.isascii() and 0 < len(text) <= MAX_ADDRESS:
        assert shape.hotkey(head(text), NAME) == text
    else:
        assert code(shape.hotkey, text) in {"bad_hotkey", "header_not_ascii"}


SIGNS: dict[bytes, DialectName | None] = {
    b"bt_header_dendrite_signature": "legacy",
    b"x-bittensor-signature": "btauth",
    b"epistula-request-signature": "epistula",
    b"body-signature": None,
    b"x-epistula-signature": None,
}
NAMES = st.sampled_from([*SIGNS, b"bt_header_dendrite_nonce", b"x-bittensor-nonce", b"timeout", b"host", b"accept"])
FIELDS = st.lists(st.tuples(NAMES | st.binary(max_size=12), st.binary(max_size=40)), max_size=MAX_FIELDS + 5)


def judged(listed: list[tuple[bytes, bytes]]) -> Head | Refusal:
    try:
        return read_head({"method": "POST", "raw_path": b"/X", "query_string": b"", "headers": listed})
    except Refusal as refused:
        return refused


@given(FIELDS)
def test_a_list_of_headers_is_read_as_it_is_or_refused(listed: list[tuple[bytes, bytes]]) -> None:
    found = judged(listed)
    if isinstance(found, Head):
        assert found.fields == dict(listed)
        assert len(listed) <= MAX_FIELDS
        assert sum(len(name) + len(value) for name, value in listed) <= MAX_BYTES
    else:
        assert found.status == (431 if len(listed) > MAX_FIELDS else 400)
        assert len(listed) > MAX_FIELDS or len(dict(listed)) < len(listed)


@given(st.sets(NAMES))
def test_one_signature_makes_the_dialect_and_bt_headers_go_to_one_of_them(names: set[bytes]) -> None:
    head = Head("POST", b"/X", b"/X", dict.fromkeys(names, b""))
    signs = names & SIGNS.keys()
    spoken = SIGNS[next(iter(signs))] if len(signs) == 1 else None
    if spoken is None:
        with pytest.raises(Refusal) as refused:
            dialect_of(head)
        assert refused.value.status == (400 if len(signs) > 1 else 401)
    else:
        assert dialect_of(head) == spoken
    if spoken != "legacy" and signs:
        assert not reads_bt_headers(names)
