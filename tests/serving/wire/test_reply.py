"""Replies: short, ASCII, and the right headers for the right dialect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.wire.claim import DialectName
from serving.wire.reply import plain, refusal, success


def test_a_success_for_btauth_has_no_bt_header() -> None:
    answer = success("btauth", b"{}", 0.1)
    assert answer.headers == [(b"content-type", b"application/json"), (b"content-length", b"2")]


def test_a_refusal_says_when_to_come_back_and_when_the_connection_closes() -> None:
    headers = dict(refusal(None, Refusal(429, "x", "wait", retry_after=3), 0.1).headers)
    assert headers[b"retry-after"] == b"3"
    assert b"connection" not in headers
    assert dict(refusal(None, Refusal(413, "x", "long"), 0.1).headers)[b"connection"] == b"close"
    assert dict(refusal(None, Refusal(405, "x", "no"), 0.1).headers)[b"allow"] == b"POST"


@pytest.mark.parametrize("dialect", ["legacy", "btauth", "epistula", None])
@pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 500, 503])
def test_only_a_legacy_caller_is_told_of_a_passing_trouble_in_its_subnets_words(
    dialect: DialectName | None, status: int
) -> None:
    refused = Refusal(status, "x", "not now", retry_after=3)
    answer = refusal(dialect, refused, 0.1, retry_status=422)
    told = 422 if (dialect, status) == ("legacy", 503) else status
    assert answer.status == told
    headers = dict(answer.headers)
    assert headers.get(b"bt_header_axon_status_code") == (str(told).encode() if dialect == "legacy" else None)
    assert headers[b"retry-after"] == b"3"


@given(st.text(), st.sampled_from(["legacy", "btauth", None]))
def test_no_text_breaks_a_reply(text: str, dialect: object) -> None:
    answer = refusal(dialect, Refusal(400, "x", text), 0.1)  # type: ignore[arg-type]
    message = json.loads(bytes(answer.body))["message"]
    assert message == plain(text)
    assert message.isascii()
    assert len(message) <= 200
    assert all(len(value) < 8190 and b"\n" not in value and b"\r" not in value for _, value in answer.headers)
