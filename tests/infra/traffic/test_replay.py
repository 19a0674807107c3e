"""Answering again with a fake Triton: what matches, what differs and why, and what cannot be answered."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from infra.settings import S3, Settings
from infra.traffic import selection
from infra.traffic.replay import Remade, Replayed, Report, Verdict, Why, again
from infra.traffic.selection import Wanted, choose
from infra.traffic.shipping import ship
from serving.errors import UserError
from serving.subnets.registry import FACTORIES
from serving.traffic.records import TrafficRecord
from serving.traffic.segments import segments
from serving.traffic.writer import TrafficWriter, read_records, without_body
from serving.types import ReleaseId
from tests.infra.traffic.store import MemoryStore
from tests.serving import callers
from tests.serving.fake_triton import FakeTriton, doubled, doubled_each
from tests.serving.gateways import Box, Reply, write_routes
from tests.serving.records import record, write_segment
from tests.serving.words import words


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACTORIES, "tiny", "tests.serving.words:words")


async def asked(home: Path, *requests: callers.Request, **models: Any) -> list[tuple[Reply, TrafficRecord]]:
    """What the gateway answered on the wire, and what it recorded of it."""
    write_routes(home, stable="tiny-a")
    box = Box(home, FakeTriton(**models), subnet=words())
    replies = [await box.ask(each) for each in requests]
    box.close()
    return list(zip(replies, read_records(home / "traffic"), strict=True))


async def remade(found: TrafficRecord, **models: Any) -> Remade:
    return await again(found, ReleaseId("tiny-a"), FakeTriton(**models))


def said(made: Remade) -> tuple[Verdict, Why]:
    return made.outcome.verdict, made.outcome.why


async def test_the_bytes_on_the_wire_come_back_in_every_dialect(tmp_path: Path) -> None:
    one = {"x": [1.0, 2.5]}
    pairs = await asked(tmp_path, callers.legacy("Double", one, ("x",)), callers.btauth("/Double", one), tiny_a=doubled)
    assert len({reply.body for reply, _ in pairs}) == 2
    for reply, found in pairs:
        made = await remade(found, tiny_a=doubled)
        assert (said(made), made.body) == (("matched", ""), reply.body)


async def test_a_streamed_answer_comes_back_whole(tmp_path: Path) -> None:
    pairs = await asked(
        tmp_path, callers.legacy("Words", {"x": [1.0, 2.5]}, ("x",)), callers.btauth("/Words", {"x": [3.0]}),
        callers.btauth("/Long", {"x": [1.0, 2.0, 3.0]}), tiny_a=doubled_each,
    )  # fmt: skip
    for reply, found in pairs:
        made = await remade(found, tiny_a=doubled_each)
        assert (said(made), made.body) == (("matched", ""), reply.body)


async def test_other_tensors_and_other_bytes_differ_and_say_how(tmp_path: Path) -> None:
    ((_, found),) = await asked(tmp_path, callers.btauth("/Double", {"x": [1.0]}), tiny_a=doubled)

    def tripled(tensors: Any) -> Any:
        return {"Y": (tensors["X"] * 3).astype(np.float32)}

    assert said(await remade(found, tiny_a=tripled)) == ("differs", "tensors")
    assert found.answer_crc is not None
    for change, why in (({"answer_bytes": 1}, "length"), ({"answer_crc": found.answer_crc ^ 1}, "checksum")):
        other = msgspec.structs.replace(found, **change)
        assert said(await remade(other, tiny_a=doubled)) == ("differs", why)
    unknown = msgspec.structs.replace(found, answer_crc=None)  # of the first version
    assert said(await remade(unknown, tiny_a=doubled)) == ("matched", "")


async def test_what_cannot_be_answered_again_says_why(tmp_path: Path) -> None:
    pairs = await asked(
        tmp_path, callers.btauth("/Double", {"x": [1.0]}), callers.btauth("/Double", {"x": "no"}), tiny_a=doubled
    )
    (_, good), (reply, refused) = pairs
    assert reply.status == 400
    assert said(await remade(refused)) == ("cannot", "refused")
    assert said(await remade(without_body(good))) == ("cannot", "no body")
    assert said(await remade(good)) == ("cannot", "no answer")
    gone = await again(good, ReleaseId("tiny-a"), None, "the object store has none")
    assert (said(gone), gone.outcome.detail) == (("cannot", "release gone"), "the object store has none")
    strange = msgspec.structs.replace(good, synapse="Triple")
    assert said(await remade(strange, tiny_a=doubled)) == ("cannot", "not restored")
    left = await remade(msgspec.structs.replace(good, slot="left-long-ago"), tiny_a=doubled)
    assert said(left) == ("cannot", "not restored")
    assert "no subnet serves 'left-long-ago'" in left.outcome.detail


def report(matched: int = 0, differ: int = 0, **cannot: int) -> Report:
    return Report(matched, differ, {why.replace("_", " "): count for why, count in cannot.items()}, [], [])


def test_exit_codes() -> None:
    assert report(matched=3).exit_code == 0
    assert report(matched=3, refused=2).exit_code == 0
    assert report(matched=3, differ=1, no_body=4).exit_code == 1
    assert report(matched=3, no_body=1).exit_code == 3
    assert report(matched=3, release_gone=1).exit_code == 3
    assert report(refused=1).exit_code == 3


def test_the_newest_are_chosen_here_first_and_then_among_what_was_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, store = Settings(home=tmp_path, s3=S3(endpoint="http://memory")), MemoryStore()
    monkeypatch.setattr(selection, "object_store", lambda settings: store)
    writer = TrafficWriter(settings.paths.traffic, segment_bytes=900)
    now = time.time()
    written = [record(number, slot="s" if number % 2 else "t", at=now + number) for number in range(12)]
    for each in written:
        writer.append(each)
        writer.append(msgspec.structs.replace(each, role="shadow"))
    writer.close()
    ship(settings.paths.traffic, store)
    old = segments(settings.paths.traffic)[:4]
    for path in old:
        path.unlink()
    gone = len(list(store.objects)) - len(segments(settings.paths.traffic))
    assert gone == 4
    assert choose(settings, Wanted()).records == written
    assert choose(settings, Wanted(limit=2)).records == written[-2:]
    assert choose(settings, Wanted(slot="s", limit=3)).records == written[-5::2]
    assert choose(settings, Wanted(request_id="id-0")).records == written[:1]
    assert choose(settings, Wanted(since=now + 1, until=now + 3)).records == written[1:3]
    with pytest.raises(UserError, match="no such request") as told:
        choose(settings, Wanted(request_id="id-99"))
    assert told.value.exit_code == 3


def test_of_a_shipped_segment_the_newest_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, store = Settings(home=tmp_path, s3=S3(endpoint="http://memory")), MemoryStore()
    monkeypatch.setattr(selection, "object_store", lambda settings: store)
    written = [record(number) for number in range(10)]
    path = write_segment(settings.paths.traffic, "0000000001000-1-000001", written)
    ship(settings.paths.traffic, store)
    path.unlink()
    assert choose(settings, Wanted(limit=3)).records == written[-3:]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("traffic/date=2025-06-15/1750000000000-1-000001-0123456789ab.parquet", "is not a file of the traffic record"),
        ("traffic/date=2025-06-15/all.parquet", "is not the name of a segment"),
    ],
)
def test_an_object_that_is_none_of_ours_hides_nothing_that_is_here(
    key: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, store = Settings(home=tmp_path, s3=S3(endpoint="http://memory")), MemoryStore()
    monkeypatch.setattr(selection, "object_store", lambda settings: store)
    write_segment(settings.paths.traffic, "0000000001000-1-000001", [record(1)])
    store.objects[key] = b"something else"
    chosen = choose(settings, Wanted())
    assert chosen.records == [record(1)]
    assert why in chosen.notes[0]


def test_while_the_store_is_down_what_is_here_is_chosen_with_a_note(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, s3=S3(endpoint="http://127.0.0.1:1"))
    writer = TrafficWriter(settings.paths.traffic)
    writer.append(record(1))
    writer.close()
    chosen = choose(settings, Wanted())
    assert chosen.records == [record(1)]
    assert "shipped records were not looked at" in chosen.notes[0]
    assert choose(settings, Wanted(limit=1)).notes == []  # the store is not asked for what is here
    with pytest.raises(UserError, match="does not answer"):
        choose(settings, Wanted(slot="other", since=0.0, until=math.inf))


def test_a_report_is_json() -> None:
    outcome = Replayed("a", 1.0, "s", "legacy", None, "matched", "", "", 3)
    made = Report(1, 0, {}, [outcome], [])
    assert msgspec.convert(msgspec.to_builtins(made), Report) == made
