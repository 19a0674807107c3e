"""The hostile and bad inputs of the wire's threat table, against a real gateway with two workers.

Each test is named after its row: what a stranger or a broken caller sends, and the clear answer it must get.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bittensor_core
import psutil
import pytest

from serving.traffic.writer import read_records
from tests.faults.tools import S, ask, double, still_serves
from tests.serving.callers import ALICE, BOB, DAVE, EVE, STRANGER, Request, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import Running, gateway, raw, status, talk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running(triton: FakeTritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address, deny=[BOB.ss58_address]) as made:
        yield made


def test_row_1_a_captured_request_is_refused_after_a_restart_and_with_any_unsigned_header_changed(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    with gateway(tmp_path, triton.address) as running:
        captured, unused = double(timeout="20"), double(nonce=time.time_ns() - 30 * S)
        assert ask(running, captured) == 200
        asked = len(triton.asked)
        variants = [
            captured,
            captured.but(bt_header_dendrite_version=None),
            captured.but(bt_header_dendrite_version="7001000"),
            captured.but(timeout="1000000000.0"),
            captured.but(bt_header_axon_hotkey=ALICE.ss58_address, name="Other", total_size="1"),
            captured._replace(target="/Double?x=1"),
        ]
        assert [ask(running, variant) for variant in variants] == [401] * len(variants)
        for headers in ({"timeout": "1e9"}, {"bt_header_dendrite_version": "7001000"}):
            assert ask(running, unused.but(**headers)) == 401  # older than the route's widest window
        running.kill()
        with gateway(tmp_path, triton.address) as restarted:
            assert [ask(restarted, variant) for variant in variants] == [401] * len(variants)
            assert len(triton.asked) == asked
            assert ask(restarted, double()) == 200


@pytest.mark.parametrize("dialect", ["btauth", "legacy"])
def test_row_2_one_nonce_sent_to_both_workers_at_once_runs_once(
    running: Running, triton: FakeTritonServer, dialect: str
) -> None:
    for _ in range(5):
        request = btauth("/Double", {"x": [1.0]}) if dialect == "btauth" else double()
        asked = len(triton.asked)
        with ThreadPoolExecutor(16) as pool:  # a connection each
            statuses = Counter(pool.map(lambda copy: ask(running, copy), [request] * 16))
        assert statuses == {200: 1, 401: 15}
        assert len(triton.asked) == asked + 1


def test_row_2_parallel_requests_of_one_validator_are_all_accepted_in_any_order(running: Running) -> None:
    now = time.time_ns()
    requests = [double(nonce=now - offset * 1_000_000) for offset in range(40)]
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda request: ask(running, request), requests)) == {200}


def test_row_3_an_altered_body_is_accepted_only_where_the_legacy_hash_does_not_reach_and_is_marked(
    running: Running,
) -> None:
    unhashed = legacy("Plain", {"x": [1.0]})
    altered = unhashed._replace(body=unhashed.body.replace(b"[1.0]", b"[8.0]"))
    assert running.ask(altered).json()["y"] == [16.0]
    hashed, signed = double(), btauth("/Plain", {"x": [1.0]})
    for request in (hashed, signed):
        assert ask(running, request._replace(body=request.body.replace(b"[1.0]", b"[8.0]"))) == 401
    assert ask(running, double()) == 200
    assert ask(running, btauth("/Plain", {"x": [1.0]})) == 200
    good = [record for record in read_records(Path(running.config.traffic)) if record.code == "ok"]
    ours = sorted(good, key=lambda record: record.at)[-3:]
    assert [(record.dialect, record.synapse, record.authenticated) for record in ours] == [
        ("legacy", "Plain", False), ("legacy", "Double", True), ("btauth", "Plain", True),
    ]  # fmt: skip


def test_row_4_a_nonce_an_hour_ahead_is_refused_and_leaves_no_state(running: Running) -> None:
    ahead = time.time_ns() + 3600 * S
    assert ask(running, double(nonce=ahead)) == 401
    assert ask(running, btauth("/Double", {"x": [1.0]}, nonce=ahead)) == 401
    assert ask(running, double()) == 200  # the same sender and uuid, now


def test_row_5_missing_or_broken_auth_headers_are_refused(running: Running) -> None:
    bare = Request("/Double", {"content-type": "application/json"}, b"{}")
    assert ask(running, bare) == 401
    for request in (double(), btauth("/Double", {"x": [1.0]})):
        signed = [name for name in request.headers if name.lower().startswith(("bt_header_dendrite", "x-bittensor"))]
        for name in (*signed, *(["computed_body_hash"] if "computed_body_hash" in request.headers else [])):
            if name == "bt_header_dendrite_version":
                continue  # unsigned, and read by nobody
            assert ask(running, request.but(**{name: None})) in {400, 401}, name
            assert ask(running, request.but(**{name: "nonsense"})) in {400, 401}, name
    for dummy in ("", "!!!", "e30="):
        assert ask(running, double().but(bt_header_input_obj_x=dummy)) == 200  # nobody needs them


def test_row_5_a_mixture_of_dialects_is_400_with_no_bt_header(running: Running) -> None:
    reply = running.ask(double().but(**btauth("/Double", {"x": [1.0]}).headers))
    assert reply.status_code == 400
    assert not [name for name in reply.headers if name.startswith("bt_header")]


def test_row_6_signed_but_unwelcome_is_403_and_no_other_spelling_helps(running: Running) -> None:
    for sender in (STRANGER, DAVE, EVE, BOB):
        for request in (double(sender=sender), btauth("/Double", {"x": [1.0]}, sender=sender)):
            reply = running.ask(request)
            assert reply.status_code == 403
            assert reply.json()["message"]
    for pair in (BOB, ALICE):
        alias = bittensor_core.ss58_encode(pair.public_key, 0)
        for request in (
            double(sender=pair).but(bt_header_dendrite_hotkey=alias),
            btauth("/Double", {"x": [1.0]}, sender=pair).but(**{"X-Bittensor-Hotkey": alias}),
        ):
            assert ask(running, request) == 401


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{x: 1}",
    "not UTF-8": b'{"x": ["\xff\xfe"]}',
    "an array": b"[1, 2]",
    "NaN in a number": b'{"x": [NaN]}',
    "nested 10,000 deep": b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a key twice": b'{"x": [1], "x": [2]}',
    "a lone surrogate": b'{"x": [1], "y": "\\ud800"}',
    "the wrong type": b'{"x": {"a": 1}}',
    "a missing field": b"{}",
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_row_7_a_bad_body_is_400_with_a_message(running: Running, what: str) -> None:
    body = BAD_BODIES[what]
    reply = running.ask(btauth("/Double", body))
    assert (reply.status_code, list(reply.json())) == (400, ["message"])
    reply = running.ask(legacy("Double", {"x": [1.0]}, ("x",))._replace(body=body))
    assert (reply.status_code, list(reply.json())) == (400, ["message"])
    assert reply.headers["bt_header_axon_status_code"] == "400"
    assert reply.headers["bt_header_axon_status_message"] == reply.json()["message"]


def test_row_8_a_body_over_the_limit_is_413_early_and_costs_no_memory(running: Running) -> None:
    before = max(psutil.Process(pid).memory_info().rss for pid in running.pids())
    huge = 10**9
    declared = raw(double()._replace(body=b""), **{"Content-Length": str(huge)})
    assert status(talk(running.config.port, declared)) == 413
    chunked = double()
    head = raw(chunked._replace(body=b"")).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    endless = [b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n"] * 200
    assert status(talk(running.config.port, head, *endless)) == 413
    bomb = raw(double()._replace(body=b"\x1f\x8b" + b"x" * 1000), **{"Content-Encoding": "gzip"})
    assert status(talk(running.config.port, bomb)) == 415
    after = max(psutil.Process(pid).memory_info().rss for pid in running.pids())
    assert after - before < 20_000_000
    assert still_serves(running)


def heads() -> dict[str, tuple[bytes, set[int]]]:
    good = raw(double())
    nonce = next(line for line in good.split(b"\r\n") if line.startswith(b"bt_header_dendrite_nonce"))

    def plus(*lines: bytes) -> bytes:
        return good.replace(b"Host: x\r\n", b"Host: x\r\n" + b"".join(line + b"\r\n" for line in lines))

    return {
        "a header value of 64 KiB": (plus(b"X-Long: " + b"a" * 65536), {431}),
        "a head that never ends": (good.split(b"\r\n\r\n")[0] + b"\r\nX-Long: " + b"a" * 10**6, {431}),
        "2,000 headers": (plus(*[b"X-%d: 1" % number for number in range(2000)]), {431}),
        "101 headers": (plus(*[b"X-%d: 1" % number for number in range(101)]), {431}),
        "a bare CR in a value": (plus(b"X-Odd: a\rb"), {400}),
        "a folded header": (plus(b"X-Odd: a\r\n b"), {400}),
        "NUL in a value": (plus(b"X-Odd: a\0b"), {400}),
        "non-ASCII in an auth header": (
            good.replace(b"bt_header_dendrite_uuid: ", b"bt_header_dendrite_uuid: \xe9"),
            {400},
        ),
        "an auth header twice": (plus(nonce), {400}),
        "an auth header twice in two cases": (plus(nonce.replace(b"bt_header", b"BT_HEADER")), {400}),
        "content-length twice": (plus(b"Content-Length: 5"), {400}),
        "content-length and transfer-encoding": (plus(b"Transfer-Encoding: chunked"), {400}),
        "a negative content-length": (good.replace(b"Content-Length: ", b"Content-Length: -"), {400}),
        "an unknown transfer-encoding": (
            good.replace(b"Content-Length", b"X-Was").replace(b"Host: x", b"Host: x\r\nTransfer-Encoding: rot13"),
            {400},
        ),
        "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100), {400}),
        "non-ASCII in the path": (good.replace(b"/Double", b"/D\xc3\xb6uble"), {400, 404}),
    }


@pytest.mark.parametrize("what", list(heads()))
def test_row_10_an_oversized_or_ambiguous_head_is_refused(running: Running, what: str) -> None:
    head, expected = heads()[what]
    reply = talk(running.config.port, head)
    assert status(reply) in expected
    assert len(reply) < 600
    assert still_serves(running)


def test_row_10_nothing_a_stranger_sends_reaches_the_log(running: Running) -> None:
    marker = f"marker-{time.time_ns()}"
    for request in (
        double().but(bt_header_dendrite_uuid=marker, bt_header_dendrite_hotkey=marker),
        double().but(bt_header_dendrite_uuid=marker),
        legacy("Plain", {"x": marker}),
        btauth("/Double", {"x": [marker]}),
    ):
        reply = running.ask(request)
        assert reply.status_code in {400, 401}
        assert marker not in reply.text
    assert marker not in running.log.read_text()


def test_row_14_what_the_body_says_of_sender_status_and_time_is_ignored(running: Running) -> None:
    request = double()
    body = json.loads(request.body)
    body["axon"] = {"status_code": 418, "status_message": "teapot", "process_time": 1e9, "hotkey": ALICE.ss58_address}
    body["dendrite"] = {"hotkey": EVE.ss58_address, "status_code": 500, "ip": "1.2.3.4"}
    body["timeout"] = 1e9
    body["total_size"] = -1
    reply = running.ask(
        request._replace(body=json.dumps(body).encode()).but(
            bt_header_axon_status_code="500", bt_header_axon_status_message="no", bt_header_dendrite_status_code="418"
        )
    )
    assert reply.status_code == 200
    assert reply.headers["bt_header_axon_status_code"] == "200"
    assert reply.headers["bt_header_axon_status_message"] == "Success"
    assert float(reply.headers["bt_header_axon_process_time"]) < 60
    assert b"418" not in reply.content
    assert b"teapot" not in reply.content
    record = max(read_records(Path(running.config.traffic)), key=lambda each: each.at)
    assert record.caller == ALICE.ss58_address
    assert record.deadline_s == 12.0


def test_other_methods_and_paths_are_refused_cheaply_and_never_redirected(running: Running) -> None:
    request = double()
    for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert ask(running, request._replace(method=method)) == 405
    for path in ("/Double/", "//Double", "/double", "/%44ouble", "/", "/Double/x", "/shield_manifest.json"):
        assert ask(running, request._replace(target=path)) == 404
    assert ask(running, request) == 200  # none of them spent the nonce


def test_a_refused_request_with_a_body_to_come_does_not_poison_the_connection(running: Running) -> None:
    refused = raw(Request("/Nothing", {}, b"x" * 1000))
    with socket.create_connection(("127.0.0.1", running.config.port), timeout=60) as connection:
        connection.sendall(refused + raw(legacy("Plain", {"x": [1]})))
        found = b""
        while found.count(b"HTTP/1.1") < 2 or not found.endswith(b"}"):
            found += connection.recv(65536)
    first, _, second = found.partition(b"}")
    assert (status(first), status(second)) == (404, 200)
