"""Floods of junk: told apart and turned away before they cost anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from bittensor_core import Keypair

from tests.faults.tools import Traffic, connect, double, metric, read_reply, refused, still_serves
from tests.serving.callers import ALICE, Request, btauth
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import Running, gateway, raw, status, until

pytestmark = pytest.mark.slow


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    triton = FakeTritonServer(tiny_a=doubled)
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address, junk_per_s=0.001, junk_burst=50) as made:
        yield made
    triton.stop()


def flood(running: Running, requests: list[Request], source: str) -> list[bytes]:
    """Send them one after the other from an address, over as few connections as the gateway allows."""
    replies: list[bytes] = []
    connection = connect(running.config.port, source)
    for request in requests:
        try:
            connection.sendall(raw(request))
            reply = read_reply(connection)
        except OSError:
            reply = b""
        if not reply or b"connection: close" in reply.lower():
            connection.close()
            connection = connect(running.config.port, source)
        replies.append(reply)
    connection.close()
    return replies


def signatures(running: Running) -> float:
    """Signatures that were checked so far."""
    return metric(running, "headframe_stage_seconds_count", stage="signature")


def test_row_11_bad_signatures_from_one_address_are_429_before_any_signature_work(running: Running) -> None:
    wrong = "0x" + "11" * 64
    bad = [double(sender=ALICE).but(bt_header_dendrite_signature=wrong) for _ in range(300)]
    traffic = Traffic(running)
    before = refused(running, "bad_signature")
    replies = flood(running, bad, "127.0.0.66")
    assert set(traffic.stop()) == {200}
    statuses = Counter(status(reply) for reply in replies)
    assert set(statuses) == {401, 429}
    workers = running.config.workers
    assert statuses[401] <= 50 * workers + workers  # what the budget allows; the rest cost no signature
    until(lambda: refused(running, "bad_signature") - before == statuses[401])
    last = next(reply for reply in reversed(replies) if status(reply) == 429)
    assert b"retry-after: " in last.lower()
    assert b"bt_header_axon_status_code: 429" in last


def test_row_11_a_flooding_address_neither_shuts_a_validator_out_there_nor_lowers_its_stake_elsewhere(
    running: Running,
) -> None:
    """A shield or a NAT puts junk and validators behind one address."""
    flood(running, [Request("/nothing", {}, b"")] * 200, "127.0.0.67")
    for request in (double(), btauth("/Double", {"x": [1.0]})):
        (reply,) = flood(running, [request], "127.0.0.67")
        assert status(reply) == 200
    assert still_serves(running)


def test_fault_27_a_thousand_unknown_hotkeys_are_refused_without_one_signature_check(running: Running) -> None:
    strangers = [Keypair.create_from_uri(f"//Stranger{number}") for number in range(100)]
    hostile = [
        btauth("/Double", {"x": [1.0]}, sender=strangers[number % 100]) if number % 2 else
        double(sender=strangers[number % 100])
        for number in range(1000)
    ]  # fmt: skip
    before = signatures(running)
    replies = flood(running, hostile, "127.0.0.68")
    statuses = Counter(status(reply) for reply in replies)
    assert set(statuses) == {403, 429}
    assert statuses[403] <= 50 * running.config.workers + running.config.workers
    until(lambda: refused(running, "not_registered") >= statuses[403])  # the workers have told
    assert signatures(running) == before
    assert still_serves(running)


def test_fault_26_missing_and_malformed_signatures_get_one_short_answer_of_constant_size(running: Running) -> None:
    request, log = double(), running.log
    broken = {
        "missing": request.but(bt_header_dendrite_signature=None),
        "empty": request.but(bt_header_dendrite_signature=""),
        "no hex": request.but(bt_header_dendrite_signature="0x" + "zz" * 64),
        "short": request.but(bt_header_dendrite_signature="0x1234"),
        "long": request.but(bt_header_dendrite_signature="0x" + "12" * 4000),
        "of another": request.but(bt_header_dendrite_signature=double().headers["bt_header_dendrite_signature"]),
    }
    replies = {what: flood(running, [each], "127.0.0.69")[0] for what, each in broken.items()}
    assert {what: status(reply) for what, reply in replies.items()} == dict.fromkeys(broken, 401)
    bodies = {reply.partition(b"\r\n\r\n")[2] for reply in replies.values()}
    assert all(len(body) < 150 for body in bodies)
    assert len({len(replies[what]) for what in ("no hex", "short", "long")}) == 1
    assert "Traceback" not in log.read_text()
