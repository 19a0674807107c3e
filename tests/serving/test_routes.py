"""The route table as serving reads it, and the choice of a release."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Refusal
from serving.routes import RouteReader, candidates, choose, share
from serving.state import Canary, RouteTable, SlotRoute, write_state
from serving.types import Hotkey, ReleaseId, SlotName

SLOT = SlotName("synth-high")
A, B, C = ReleaseId("a"), ReleaseId("b"), ReleaseId("c")
CALLER = Hotkey("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY")


def test_the_share_of_a_canary_is_what_was_asked_for() -> None:
    route = SlotRoute(stable=A, canary=Canary(B, 1000))
    picked = [choose(route, SLOT, CALLER, str(number).encode())[0] for number in range(20_000)]
    expected, sigma = 2000, (20_000 * 0.1 * 0.9) ** 0.5
    assert abs(picked.count("canary") - expected) < 5 * sigma


@given(st.text(max_size=20), st.text(max_size=60), st.binary(max_size=60), st.integers(0, 10_000))
def test_the_choice_is_stable_and_grows_with_the_share(slot: str, caller: str, canonical: bytes, bp: int) -> None:
    place = share(SlotName(slot), Hotkey(caller), canonical)
    assert place == share(SlotName(slot), Hotkey(caller), canonical)
    chosen = choose(SlotRoute(stable=A, canary=Canary(B, bp)), SlotName(slot), Hotkey(caller), canonical)
    assert chosen == (("canary", B) if place < bp else ("stable", A))


def test_the_same_request_falls_in_the_same_place_in_every_process() -> None:
    assert share(SLOT, CALLER, b"inputs") == 1364


def test_candidates_are_tried_in_order_and_once() -> None:
    assert candidates(SlotRoute(stable=A), SLOT, CALLER, b"") == [("stable", A)]
    assert candidates(SlotRoute(stable=A, fallback=A), SLOT, CALLER, b"") == [("stable", A)]
    assert candidates(SlotRoute(stable=A, canary=Canary(B, 10_000), fallback=C), SLOT, CALLER, b"") == [
        ("canary", B),
        ("fallback", A),
        ("fallback", C),
    ]


def test_what_a_round_began_with_comes_first_in_whatever_role_it_has_now() -> None:
    table = SlotRoute(stable=A, canary=Canary(B, 10_000), fallback=A)
    assert candidates(table, SLOT, CALLER, b"", A) == [("stable", A), ("fallback", B)]
    assert candidates(table, SLOT, CALLER, b"", B) == [("canary", B), ("fallback", A)]
    assert candidates(table, SLOT, CALLER, b"", C) == [("pinned", C), ("fallback", B), ("fallback", A)]
    assert candidates(SlotRoute(stable=A), SLOT, CALLER, b"", C) == [("pinned", C), ("fallback", A)]


def test_a_slot_without_a_stable_release_is_503() -> None:
    with pytest.raises(Refusal) as refused:
        choose(SlotRoute(), SLOT, CALLER, b"")
    assert refused.value.status == 503


def write(path: Path, stable: ReleaseId, generation: int = 1) -> None:
    write_state(path, RouteTable(generation, 100.0 + generation, {SLOT: SlotRoute(stable=stable)}))


def test_a_replaced_file_is_in_force_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    reader = RouteReader(path)
    with pytest.raises(Refusal):
        reader.slot(SLOT)
    for generation, release in enumerate((A, B, A, C)):
        write(path, release, generation)
        assert reader.slot(SLOT).stable == release
        assert reader.age(200.0) == 100.0 - generation
    with pytest.raises(Refusal):
        reader.slot(SlotName("other"))


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"generation": 1}', b"\xff" * 10])
def test_the_last_good_table_outlives_a_garbled_or_missing_file(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "routes.json"
    reader = RouteReader(path)
    write(path, A)
    assert reader.slot(SLOT).stable == A
    path.write_bytes(garbage)
    for _ in range(3):
        assert reader.slot(SLOT).stable == A
    assert reader.faults == 1
    path.unlink()
    for _ in range(3):
        assert reader.slot(SLOT).stable == A
    assert reader.faults == 2
    assert reader.problem == "routes.json is missing"
    write(path, B)
    assert reader.slot(SLOT).stable == B
    assert reader.problem is None


def test_a_process_that_starts_with_a_garbled_file_takes_the_kept_copy(tmp_path: Path) -> None:
    path, kept = tmp_path / "routes.json", tmp_path / "kept" / "routes.json"
    parent = RouteReader(path, kept=kept)
    parent.keep()
    assert not kept.exists()
    write(path, A)
    parent.keep()
    path.write_bytes(b"{")
    parent.keep()
    worker = RouteReader(path, kept=kept)
    assert worker.slot(SLOT).stable == A
    assert worker.problem == "routes.json cannot be read (DecodeError)"
    path.unlink()
    assert RouteReader(path, kept=kept).slot(SLOT).stable == A
    write(path, B)
    assert worker.slot(SLOT).stable == B
    kept.write_bytes(b"{")
    path.unlink()
    with pytest.raises(Refusal):
        RouteReader(path, kept=kept).slot(SLOT)
