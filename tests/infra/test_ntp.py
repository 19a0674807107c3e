"""The SNTP client, against servers on loopback: right ones, wrong ones, and silent ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest

from infra import ntp
from infra.ntp import NtpError, Skew, measure, offset_s
from tests.infra.time_server import PATIENCE_S, reply, stamp, time_server


@pytest.mark.parametrize("ahead", [0.0, 3.5, -3600.0])
def test_the_offset_is_how_far_the_server_is_ahead(ahead: float) -> None:
    with time_server(partial(reply, ahead=ahead)) as server:
        assert offset_s(server, PATIENCE_S) == pytest.approx(ahead, abs=1e-6)


def test_the_way_there_and_back_is_taken_as_equally_long_and_a_servers_thinking_does_not_count() -> None:
    for took in (0.0, 1.0):
        with time_server(partial(reply, ahead=5.0, there=0.25, took=took, back=0.25)) as server:
            assert offset_s(server, PATIENCE_S) == pytest.approx(5.0, abs=1e-6)
        with time_server(partial(reply, ahead=5.0, there=0.5, took=took, back=0.25)) as server:
            assert offset_s(server, PATIENCE_S) == pytest.approx(5.125, abs=1e-6)  # nobody could tell


def test_the_request_is_a_clients_and_gives_no_time_away() -> None:
    seen: list[bytes] = []

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return reply(request)

    with time_server(answer) as server:
        offset_s(server, PATIENCE_S)
        offset_s(server, PATIENCE_S)
    assert [len(request) for request in seen] == [48, 48]
    assert {request[0] for request in seen} == {0x23}  # no leap warning, version 4, client
    assert [request[1:40] for request in seen] == [bytes(39)] * 2
    assert seen[0][40:] != seen[1][40:]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (partial(reply, mode=5), "mode 5"),
        (partial(reply, stratum=0, reference=b"RATE"), "left alone .RATE."),
        (partial(reply, stratum=0, reference=b"\x1b[2J"), "left alone .no code."),
        (partial(reply, stratum=16), "no time of its own"),
        (partial(reply, leap=3), "no time of its own"),
        (partial(reply, blank=True), "without a time"),
        (partial(reply, echo=b"another!"), "timed out|something else"),
        (lambda request: reply(request)[:47], "timed out|something else"),
        (lambda request: None, "timed out"),
    ],
)
def test_what_cannot_be_believed_is_refused(answer: Callable[[bytes], bytes | None], said: str) -> None:
    with time_server(answer) as server, pytest.raises((NtpError, OSError), match=said):
        offset_s(server, 0.2 if "timed out" in said else PATIENCE_S)


def test_a_forged_packet_before_the_answer_is_passed_over() -> None:
    """Whoever cannot see our request cannot know its cookie, and may not hide the real answer either."""
    with time_server(partial(reply, ahead=2.0), before=partial(reply, ahead=900.0, echo=b"guessed!")) as server:
        assert offset_s(server, PATIENCE_S) == pytest.approx(2.0, abs=1e-6)


def test_the_era_is_the_nearest_one() -> None:
    for unix in (0.0, 2_085_978_495.0, 2_085_978_497.0, 5_000_000_000.0):  # around 7 February 2036, and later
        assert ntp._unix(stamp(unix), unix + 1000.0) == pytest.approx(unix, abs=1e-3)


def test_the_median_of_those_that_answered() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(time_server(partial(reply, ahead=ahead))) for ahead in (-2.0, -2.2, 900.0)]
        servers.append(stack.enter_context(time_server(partial(reply, stratum=16))))
        found = measure(servers, PATIENCE_S)
    assert (found.answered, found.asked) == (3, 4)
    assert found.skew_s == pytest.approx(2.0, abs=1e-6)
    assert found.problems == (f"{servers[3]}: has no time of its own",)
    assert found.text().endswith("s ahead, by 3 of 4 time servers")


def test_none_that_answers_is_no_skew() -> None:
    with time_server(lambda request: None) as server:
        found = measure([server], limit_s=0.2)
    assert found.skew_s is None
    assert found.text().startswith("no time server answered")
    assert measure([]) == Skew(None, 0, 0, ())
    assert measure([]).text() == "no time server answered: none is set"


def test_the_way_that_a_clock_is_off() -> None:
    assert Skew(-3.25, 2, 3, ()).text() == "3.250 s behind, by 2 of 3 time servers"


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("time.example", ("time.example", 123)), ("time.example:1123", ("time.example", 1123)),
        ("10.0.0.1:99999", ("10.0.0.1:99999", 123)), ("::1", ("::1", 123)), ("[::1]:1123", ("::1", 1123)),
        ("[::1]", ("::1", 123)),
    ],
)  # fmt: skip
def test_how_servers_are_written(server: str, address: tuple[str, int]) -> None:
    assert ntp._split(server) == address
