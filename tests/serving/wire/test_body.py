"""Reading a body within its limits, and reading JSON strictly."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.wire.body import HungUp, Receive, decode, read_body


def arriving(*pieces: bytes, end: bool = True) -> Receive:
    """Body pieces as a server hands them over; without `end` the caller hangs up after the last."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if end:
        messages[-1]["more_body"] = False

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


async def test_a_body_in_pieces_is_put_together() -> None:
    assert await read_body(arriving(b"ab", b"", b"c"), {}, 3) == b"abc"
    assert await read_body(arriving(b"abc"), {b"content-length": b"3"}, 3) == b"abc"


@pytest.mark.parametrize("declared", [b"4", b"99999999999999999999", b"-1", b"x"])
async def test_a_declared_length_over_the_limit_is_refused_before_reading(declared: bytes) -> None:
    async def never() -> MutableMapping[str, Any]:
        raise AssertionError("read")

    with pytest.raises(Refusal) as refused:
        await read_body(never, {b"content-length": declared}, 3)
    assert refused.value.status == 413


async def test_an_undeclared_body_is_cut_off_at_the_limit() -> None:
    read = 0

    async def endless() -> MutableMapping[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    with pytest.raises(Refusal) as refused:
        await read_body(endless, {}, 2500)
    assert (refused.value.status, read) == (413, 3)


async def test_a_slow_body_is_given_up() -> None:
    async def silent() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Refusal) as refused:
        await read_body(silent, {}, 100, deadline_s=0.01)
    assert refused.value.status == 408


async def test_a_caller_who_hangs_up_gets_no_answer() -> None:
    with pytest.raises(HungUp):
        await read_body(arriving(b"ab", end=False), {}, 100)


async def test_compressed_bodies_are_refused_unread() -> None:
    with pytest.raises(Refusal) as refused:
        await read_body(arriving(gzip.compress(b"0" * 10**6)), {b"content-encoding": b"gzip"}, 10**6)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"not json", "bad_json"),
        (b"{} {}", "bad_json"),
        (b"[1, 2]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"\xff\xfe{\x00}\x00", "bad_text"),
        (b'{"a": "\xed\xa0\x80"}', "bad_text"),
        (b'{"a": "\\ud800"}', "bad_text"),
        (b'{"\\udc00": 1}', "bad_text"),
        (b'{"a": NaN}', "not_finite"),
        (b'{"a": -Infinity}', "not_finite"),
        (b'{"a": 1e999}', "not_finite"),
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b'{"a": {}, "a": {}}', "duplicate_key"),
        (b'{"a": ":", "b": 1, "b": 2}', "duplicate_key"),
        (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bad_json"),
    ],
)
def test_bad_bodies_are_refused(body: bytes, code: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(body)
    assert (refused.value.status, refused.value.code) == (400, code)


def test_values_are_pythons_own() -> None:
    body = '{"a": [1, 1.0, 1e16, 1e-7, true, null, "\\ud83d\\ude00é", 123456789012345678901]}'
    found = decode(body.encode())
    assert str(found["a"]) == "[1, 1.0, 1e+16, 1e-07, True, None, '😀é', 123456789012345678901]"


TEXTS = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["a:b", ":", '"', "\\"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.booleans())
def test_every_value_is_the_one_that_pythons_reader_gives(content: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(content, ensure_ascii=ascii_only).encode()
    assert repr(decode(body)) == repr(json.loads(body)) == repr(content)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_every_spelling_of_a_number_is_read_as_python_reads_it(text: str) -> None:
    expected = json.loads(text)
    if expected in (math.inf, -math.inf):
        with pytest.raises(Refusal, match="not finite"):
            decode(b'{"a": ' + text.encode() + b"}")
    else:
        assert repr(decode(b'{"a": ' + text.encode() + b"}")) == repr({"a": expected})


@given(st.binary(max_size=300))
def test_any_bytes_give_an_object_or_a_400(body: bytes) -> None:
    try:
        assert isinstance(decode(body), dict)
    except Refusal as refused:
        status = refused.status
    else:
        status = 400
    assert status == 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _JSON, max_size=5))
def test_what_python_writes_is_read_back(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert decode(json.dumps(value).encode()) == value


@given(
    st.from_regex(
        r"-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True, alphabet="0123456789.eE+-"
    )
)
def test_any_number_is_pythons_own_or_not_finite(text: str) -> None:
    value = json.loads(text)
    if value in (math.inf, -math.inf):
        with pytest.raises(Refusal) as refused:
            decode(b'{"x":%b}' % text.encode())
        assert refused.value.code == "not_finite"
    else:
        assert repr(decode(b'{"x":%b}' % text.encode())["x"]) == repr(value)


async def test_a_body_that_is_here_already_is_taken_without_waiting_and_within_its_limit() -> None:
    async def never() -> MutableMapping[str, Any]:
        raise AssertionError("read")

    assert await read_body(never, {}, 3, arrived=lambda: b"abc") == b"abc"
    assert await read_body(arriving(b"abc"), {}, 3, arrived=lambda: None) == b"abc"
    with pytest.raises(Refusal) as refused:
        await read_body(never, {}, 2, arrived=lambda: b"abc")
    assert refused.value.status == 413
