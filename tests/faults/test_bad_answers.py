"""Models that answer what no validator would take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.config import SubnetSpec
from serving.subnets.base import Tensors
from serving.traffic.writer import read_records
from tests.faults.tools import connect, double, read_all, still_serves
from tests.serving.callers import btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, Model, broken, doubled, doubled_each
from tests.serving.gateways import write_routes
from tests.serving.processes import Running, gateway, raw, status, until

pytestmark = pytest.mark.slow


def infinite(tensors: Tensors) -> Tensors:
    return {"Y": np.full_like(tensors["X"], np.inf)}


def of_words(tensors: Tensors) -> Tensors:
    return {"Y": np.array([["eight\nlines", "\u00e9"]], dtype=object)}


def nothing(tensors: Tensors) -> Tensors:
    return {}


def too_short(tensors: Tensors) -> Tensors:
    return {"Y": tensors["X"][:, :0]}


def raising(tensors: Tensors) -> Tensors:
    raise RuntimeError("line one\nline two \u00e9 ~miner/secret.py")


BAD: dict[str, Model] = {
    "NaN": broken, "infinity": infinite, "words": of_words, "nothing": nothing, "too few": too_short,
    "an exception": raising,
}  # fmt: skip


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTritonServer]:
    server = FakeTritonServer(tiny_a=doubled, tiny_b=doubled)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running(triton: FakeTritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address) as made:
        yield made


@pytest.mark.parametrize("what", BAD)
def test_row_13_a_bad_answer_is_a_500_in_short_ascii_and_is_never_sent(
    running: Running, triton: FakeTritonServer, what: str
) -> None:
    triton.models["tiny-a"] = BAD[what]
    for request in (double(), btauth("/Double", {"x": [1.0]})):
        reply = running.ask(request)
        assert reply.status_code == 500
        assert reply.json() == {"message": "the model gave no valid answer"}
        marked = [name for name in reply.headers if name.startswith("bt_header")]
        assert bool(marked) == ("bt_header_dendrite_signature" in request.headers)
    assert "secret" not in running.log.read_text()


@pytest.mark.parametrize("what", BAD)
def test_row_13_the_fallback_answers_for_a_stable_release_that_fails(
    running: Running, triton: FakeTritonServer, what: str
) -> None:
    triton.models["tiny-a"] = BAD[what]
    home = Path(running.config.routes).parent
    write_routes(home, stable="tiny-a", fallback="tiny-b")
    try:
        reply = running.ask(double())
        assert (reply.status_code, reply.json()["y"]) == (200, [2.0])
        records = list(read_records(Path(running.config.traffic)))
        last = max(records, key=lambda record: record.at).request_id
        found = {(record.role, record.release, record.code) for record in records if record.request_id == last}
        assert ("fallback", "tiny-b", "ok") in found
        assert {(role, release) for role, release, _ in found} == {("stable", "tiny-a"), ("fallback", "tiny-b")}
    finally:
        write_routes(home, stable="tiny-a")


def half(tensors: Tensors) -> Iterator[Tensors]:
    yield {"Y": np.array([[2.0]], np.float32)}
    raise RuntimeError("half way")


def test_row_13_half_a_stream_is_broken_off_without_its_last_chunk_and_never_passes_for_an_answer(
    triton: FakeTritonServer, tmp_path: Path
) -> None:
    triton.models |= {"tiny-whole": doubled_each, "tiny-half": half}
    options: dict[str, Any] = {"subnets": [SubnetSpec("tests.serving.words:words")]}
    with gateway(tmp_path, triton.address, **options) as running:
        found = {}
        for release in ("tiny-whole", "tiny-half"):
            write_routes(tmp_path, stable=release)
            with connect(running.config.port) as connection:
                connection.sendall(raw(legacy("Words", {"x": [1.0, 2.0]}, ("x",)), Connection="close"))
                found[release] = read_all(connection)
        assert all(status(reply) == 200 for reply in found.values())
        assert found["tiny-whole"].endswith(b"0\r\n\r\n")
        assert b"2.0\n" in found["tiny-half"]
        assert not found["tiny-half"].endswith(b"0\r\n\r\n")
        write_routes(tmp_path, stable="tiny-b")
        until(lambda: still_serves(running))
