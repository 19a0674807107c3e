"""Replies: short, ASCII, and the right headers for the right dialect."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
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


@given(st.text(), st.sampled_from(["legacy", "btauth", None]))
def test_no_text_breaks_a_reply(text: str, dialect: object) -> None:
    answer = refusal(dialect, Refusal(400, "x", text), 0.1)  # type: ignore[arg-type]
    message = json.loads(bytes(answer.body))["message"]
    assert message == plain(text)
    assert message.isascii()
    assert len(message) <= 200
    assert all(len(value) < 8190 and b"\n" not in value and b"\r" not in value for _, value in answer.headers)
