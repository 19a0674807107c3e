from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.clock import replace_file
from serving.state import Canary, RouteTable, SlotRoute
from serving.types import ReleaseId, SlotName
from serving.workers.acks import SILENT_S, Ack, Desk, alive, begun, folder_of, is_drained, living, recent

A, B, C, D, E = (ReleaseId(f"tiny-{letter}") for letter in "abcde")


def table(generation: int, stable: ReleaseId, **others: ReleaseId | Canary) -> RouteTable:
    route = SlotRoute(stable=stable, **others)  # type: ignore[arg-type]
    return RouteTable(generation, time.time(), {SlotName("tiny"): route})


def only(folder: Path) -> Ack:
    (path,) = folder.iterdir()
    return msgspec.json.decode(path.read_bytes(), type=Ack)


def test_a_call_on_a_release_that_left_the_routes_holds_up_the_generation(tmp_path: Path) -> None:
    desk = Desk(tmp_path, parent=1)
    desk.say(table(3, A), {A: 2}, paused=False)
    assert (only(tmp_path).routes, only(tmp_path).drained) == (3, 3)
    desk.say(table(4, B), {A: 1, B: 1}, paused=False)
    assert (only(tmp_path).routes, only(tmp_path).drained) == (4, 3)
    desk.say(table(5, C), {A: 1}, paused=False)
    assert (only(tmp_path).routes, only(tmp_path).drained) == (5, 3)
    desk.say(table(5, C), {A: 0, C: 7}, paused=False)
    assert (only(tmp_path).routes, only(tmp_path).drained) == (5, 5)


def test_a_release_in_any_role_is_named() -> None:
    full = table(1, A, canary=Canary(B, 100), shadow=C, fallback=D)
    assert is_drained(full, {A: 1, B: 1, C: 1, D: 1})
    assert not is_drained(full, {E: 1})


@given(st.lists(st.tuples(st.integers(0, 3), st.dictionaries(st.sampled_from([A, B, C, D]), st.integers(0, 2)))))
def test_drained_never_falls_and_never_passes_the_routes(steps: list[tuple[int, dict[ReleaseId, int]]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), 0
        desk = Desk(folder, parent=1)
        for generation, (stable, calls) in enumerate(steps, start=1):
            desk.say(table(generation, (A, B, C, D)[stable]), calls, paused=False)
            said = only(folder)
            assert before <= said.drained <= said.routes == generation
            before = said.drained


def test_it_writes_news_at_once_and_a_beat_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("serving.workers.acks.time.monotonic", lambda: now)
    desk = Desk(tmp_path, parent=1)
    desk.say(None, {}, paused=False)
    first = only(tmp_path)
    assert (first.pid, first.routes, first.drained, first.parent) == (os.getpid(), 0, 0, 1)
    now += Desk.EVERY_S / 2
    desk.say(None, {}, paused=False)
    assert only(tmp_path) == first
    now += Desk.EVERY_S / 2
    desk.say(None, {}, paused=False)
    assert only(tmp_path) == msgspec.structs.replace(first, beat=now)
    desk.say(None, {}, paused=True)
    assert only(tmp_path).paused
    desk.say(None, {}, paused=True, leaving=True)
    assert only(tmp_path).leaving
    desk.say(None, {}, {B, A}, paused=True, leaving=True)
    assert only(tmp_path).held == (A, B)
    desk.close()
    assert not list(tmp_path.iterdir())


def test_the_dead_are_left_out_and_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = begun(child.pid)
    assert started is not None
    ack = Ack(pid=child.pid, begun=started, parent=1, beat=time.monotonic(), routes=9, drained=2)
    write(tmp_path, ack)
    assert living(tmp_path) == [ack]
    assert alive(ack)
    assert not alive(msgspec.structs.replace(ack, begun=started - 1))  # the pid is another's by now
    child.kill()
    assert child.stdin is not None
    child.stdin.close()
    while begun(child.pid) is not None:  # until its remains are all there is
        pass
    assert living(tmp_path) == []
    assert not list(tmp_path.iterdir())
    child.wait()


def test_who_speaks_no_more_is_left_out_by_a_reader_that_sees_no_processes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert recent(folder) == []
    now = 1000.0
    for pid, generation, beat in ((1, 8, now - 0.1), (2, 6, now - 20.0), (3, 1, now - SILENT_S), (4, 0, now + 5.0)):
        write(folder, Ack(pid=pid, begun=0, parent=1, beat=beat, routes=9, drained=generation))
    (folder / "5.json").write_bytes(b'{"pid":')
    assert [(ack.pid, ack.drained) for ack in recent(folder, now)] == [(1, 8), (2, 6)]


def test_a_beat_while_the_others_are_read_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)
    write(folder, Ack(pid=1, begun=0, parent=1, beat=0.0, routes=9, drained=8))
    decode = msgspec.json.decode

    def late(data: bytes, *, type: Any) -> Ack:
        ack: Ack = decode(data, type=type)
        return msgspec.structs.replace(ack, beat=time.monotonic())

    monkeypatch.setattr(msgspec.json, "decode", late)
    assert [ack.pid for ack in recent(folder)] == [1]


def write(folder: Path, ack: Ack) -> None:
    replace_file(folder / f"{ack.pid}.json", msgspec.json.encode(ack))
