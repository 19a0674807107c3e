"""The road of a request with a fake Triton behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.admission.breaker import FAILURES, PAUSE_S, SERVER_FAILURES, Breakers
from serving.errors import Refusal
from serving.nonces.store import NonceStore
from serving.public.door import Door
from serving.public.junk import JunkBudgets
from serving.subnets.base import Tensors
from serving.traffic.writer import read_records
from serving.triton import ReleaseFault, ServerDown, TooLate
from tests.serving import callers
from tests.serving.callers import ALICE, BOB, CHARLIE, DAVE, EVE, STRANGER, btauth, legacy
from tests.serving.fake_triton import FakeTriton, broken, doubled
from tests.serving.gateways import Box, Reply, write_routes
from tests.serving.tiny import SLOT, Tiny

MakeBox = Callable[..., Box]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[MakeBox]:
    made: list[Box] = []

    def make(triton: Any = None, **options: Any) -> Box:
        if not (tmp_path / "routes.json").exists():
            write_routes(tmp_path, stable="tiny-a")
        made.append(Box(tmp_path, triton or FakeTriton(tiny_a=doubled), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def double(**options: Any) -> callers.Request:
    return legacy("Double", {"x": [1.0, 2.5]}, ("x",), **options)


async def seconds(asking: Awaitable[Reply]) -> float:
    """How long an answer took."""
    began = time.monotonic()
    assert (await asking).status == 200
    return time.monotonic() - began


async def test_a_legacy_call_is_answered_with_its_inputs_echoed_and_the_status_headers(box: MakeBox) -> None:
    reply = await box().ask(double())
    assert reply.status == 200
    assert json.loads(reply.body) == {"x": [1.0, 2.5], "y": [2.0, 5.0]}
    assert reply.headers["bt_header_axon_status_code"] == "200"
    assert reply.headers["bt_header_axon_status_message"] == "Success"
    assert float(reply.headers["bt_header_axon_process_time"]) > 0
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["content-length"]) == len(reply.body)


async def test_a_btauth_call_is_answered_with_outputs_alone_and_no_bt_header(box: MakeBox) -> None:
    reply = await box().ask(btauth("/Double?a=1", {"x": [3]}))
    assert (reply.status, json.loads(reply.body)) == (200, {"y": [6.0]})
    assert not [name for name in reply.headers if name.startswith("bt_header")]


async def test_a_btauth_refusal_carries_no_bt_header_and_a_legacy_one_does(box: MakeBox) -> None:
    gateway = box()
    refused = await gateway.ask(btauth("/Double", {"x": "no"}))
    assert (refused.status, list(refused.headers)) == (400, ["content-type", "content-length"])
    refused = await gateway.ask(legacy("Plain", {"x": "no"}))
    assert refused.status == 400
    assert refused.headers["bt_header_axon_status_code"] == "400"
    assert refused.headers["bt_header_axon_status_message"] == refused.message


async def test_ping_is_answered_without_a_model(box: MakeBox) -> None:
    triton = FakeTriton()
    gateway = box(triton)
    reply = await gateway.ask(legacy("Synapse", {}))
    assert (reply.status, reply.body) == (200, b"{}")
    assert reply.headers["bt_header_axon_status_code"] == "200"
    assert not triton.asked
    assert (await gateway.ask(legacy("Synapse", {}, sender=STRANGER))).status == 403


async def test_the_seed_is_of_slot_and_inputs_alone(box: MakeBox) -> None:
    triton = FakeTriton(tiny_a=doubled)
    gateway = box(triton)
    await gateway.ask(double())
    await gateway.ask(double(sender=BOB))
    await gateway.ask(btauth("/Double", {"x": [1.0, 2.5]}, sender=CHARLIE))
    seeds = [int(tensors["SEED"][0, 0]) for _, _, _, tensors in triton.asked]
    expected = int.from_bytes(hashlib.sha256(b"tiny\n[1.0, 2.5]").digest()[:8], "big") & (2**63 - 1)
    assert seeds == [expected] * 3


async def test_stake_decides_the_priority_and_the_deadline_goes_to_triton(box: MakeBox) -> None:
    triton = FakeTriton(tiny_a=doubled)
    gateway = box(triton)
    for sender in (ALICE, BOB, CHARLIE):
        took = await seconds(gateway.ask(double(sender=sender, timeout="10")))
        assert 9.0 - took <= triton.asked[-1][2] <= 9.0  # 10 s less the time a reply takes
    assert [priority for _, priority, _, _ in triton.asked] == [1, 2, 3]


@pytest.mark.parametrize(("claimed", "allowed"), [("1e9", 19.0), ("inf", 19.0), (None, 19.0), ("0", 19.0), ("4", 3.6)])
async def test_the_deadline_is_the_timeout_header_up_to_the_routes_own(
    box: MakeBox, claimed: str | None, allowed: float
) -> None:
    triton = FakeTriton(tiny_a=doubled)
    took = await seconds(box(triton).ask(double(timeout=claimed)))
    ((_, _, timeout_s, _),) = triton.asked
    assert allowed - took <= timeout_s <= allowed


@pytest.mark.parametrize(
    ("sender", "code"),
    [(STRANGER, "not_registered"), (DAVE, "no_permit"), (EVE, "no_permit")],
)
async def test_unwelcome_hotkeys_are_refused_before_any_signature_is_checked(
    box: MakeBox, sender: Any, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> bool:
        raise AssertionError("crypto")

    monkeypatch.setattr("serving.wire.legacy.signed_by", never)
    monkeypatch.setattr("serving.wire.btauth.signed_by", never)
    gateway = box()
    assert (await gateway.ask(double(sender=sender))).status == 403
    assert (await gateway.ask(btauth("/Double", {"x": [1]}, sender=sender))).status == 403
    assert gateway.count("headframe_refusals_total", status="403", code=code) == 2


async def test_allow_and_deny_lists(box: MakeBox) -> None:
    gateway = box(allow=[DAVE.ss58_address, STRANGER.ss58_address], deny=[BOB.ss58_address])
    assert (await gateway.ask(double(sender=DAVE))).status == 200
    assert (await gateway.ask(double(sender=STRANGER))).status == 200
    refused = await gateway.ask(double(sender=BOB))
    assert (refused.status, refused.message) == (403, "this hotkey is not served here")


async def test_a_hotkey_over_its_budget_gets_429_with_retry_after(box: MakeBox) -> None:
    gateway = box(per_s=0.5, burst=2)
    gateway.wall.at = time.time_ns()
    statuses = [(await gateway.ask(double())).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = await gateway.ask(double())
    assert 1 <= int(refused.headers["retry-after"]) <= 4
    assert (await gateway.ask(double(sender=BOB))).status == 200  # another's budget is its own


async def test_a_slot_without_a_release_answers_503(box: MakeBox, tmp_path: Path) -> None:
    write_routes(tmp_path, stable=None)
    reply = await box().ask(double())
    assert (reply.status, reply.message) == (503, "no release serves this slot yet")
    assert "retry-after" in reply.headers


@pytest.fixture
def four_two_two() -> Tiny:
    """A subnet whose validators try again on 422 alone."""
    subnet = Tiny()
    for route in subnet.routes:
        route.retry_status = 422
    return subnet


async def test_where_callers_try_again_on_another_status_a_passing_trouble_is_told_by_it(
    box: MakeBox, four_two_two: Tiny
) -> None:
    gateway = box(FakeTriton(tiny_a=TooLate("too_late")), subnet=four_two_two)
    reply = await gateway.ask(double())
    assert (reply.status, reply.headers["bt_header_axon_status_code"]) == (422, "422")
    assert (reply.message, reply.headers["retry-after"]) == ("the model did not answer in time", "5")
    assert (await gateway.ask(btauth("/Double", {"x": [1.0, 2.5]}))).status == 503
    assert [(record.status, record.code) for record in read_records(gateway.home / "traffic")] == [
        (503, "too_late")
    ] * 2
    assert gateway.count("headframe_refusals_total", status="503", code="too_late") == 2
    assert gateway.count("headframe_requests_total", outcome="too_late", dialect="legacy") == 1


async def test_what_is_not_worth_another_try_keeps_its_status(box: MakeBox, four_two_two: Tiny) -> None:
    gateway = box(FakeTriton(tiny_a=broken), subnet=four_two_two, per_s=0.001, burst=3)
    assert (await gateway.ask(double().but(bt_header_dendrite_nonce="1" * 19))).status == 401
    assert (await gateway.ask(double(sender=DAVE))).status == 403
    assert (await gateway.ask(legacy("Double", {"x": "one"}))).status == 400
    assert (await gateway.ask(double())).status == 500
    for _ in range(4):
        last = await gateway.ask(double())
    assert last.status == 429
    gateway.gateway.paused = True
    assert (await gateway.ask(double(sender=BOB))).status == 503  # on purpose, and for longer than a second try


async def test_no_address_is_charged_for_a_trouble_of_ours(box: MakeBox, tmp_path: Path, four_two_two: Tiny) -> None:
    (tmp_path / "neurons.json").write_text("{")
    gateway = box(subnet=four_two_two)
    assert (await gateway.ask(double())).status == 422
    assert len(gateway.gateway.door.junk) == 0


@pytest.mark.parametrize(
    "bad",
    [broken, ReleaseFault("release_failed", "boom"), lambda tensors: {}, lambda tensors: {"Y": tensors["X"][:, :1]}],
)
async def test_an_invalid_answer_is_never_sent_the_fallback_answers_and_the_fault_is_kept(
    box: MakeBox, tmp_path: Path, bad: Any
) -> None:
    write_routes(tmp_path, stable="tiny-a", fallback="tiny-b")
    gateway = box(FakeTriton(tiny_a=bad, tiny_b=doubled))
    reply = await gateway.ask(double())
    assert (reply.status, json.loads(reply.body)["y"]) == (200, [2.0, 5.0])
    fault, answered = read_records(tmp_path / "traffic")
    assert fault.request_id == answered.request_id
    assert (fault.role, fault.release, fault.status) == ("stable", "tiny-a", 500)
    assert fault.code in {"invalid", "error"}
    assert fault.reason
    assert (answered.role, answered.release, answered.status, answered.code) == ("fallback", "tiny-b", 200, "ok")
    assert gateway.count("headframe_release_requests_total", release="tiny-a", outcome=fault.code) == 1


async def test_when_every_release_fails_the_caller_gets_a_short_500(box: MakeBox, tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a", fallback="tiny-b")
    reply = await box(FakeTriton(tiny_a=broken, tiny_b=broken)).ask(double())
    assert (reply.status, reply.message) == (500, "the model gave no valid answer")


async def test_a_failing_canary_is_backed_by_stable(box: MakeBox, tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a", canary="tiny-c", share_bp=10_000)
    assert (await box(FakeTriton(tiny_a=doubled, tiny_c=broken)).ask(double())).status == 200
    fault, answered = read_records(tmp_path / "traffic")
    assert (fault.role, fault.release) == ("canary", "tiny-c")
    assert (answered.role, answered.release) == ("fallback", "tiny-a")


async def test_a_release_that_is_not_loaded_yet_is_waited_for(box: MakeBox) -> None:
    triton = FakeTriton()
    gateway = box(triton)
    seen = len(triton.asked)

    class Comes(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            return doubled if len(triton.asked) - seen > 3 else None

    triton.models = Comes()
    assert (await gateway.ask(double())).status == 200
    assert len(triton.asked) == 4


class Waits:
    """Time that passes only while the gateway waits, and then at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 0.0
        began, self._turn = time.monotonic(), asyncio.sleep
        monkeypatch.setattr("serving.answering.asyncio.sleep", self._sleep)
        monkeypatch.setattr("serving.call.time.monotonic", lambda: began + self.slept)

    async def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        await self._turn(0)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


async def test_a_server_that_stays_away_is_given_up_before_the_deadline(box: MakeBox, waits: Waits) -> None:
    triton = FakeTriton(tiny_a=ServerDown("triton_down"))
    reply = await box(triton).ask(double(timeout="20"))
    assert (reply.status, reply.message) == (503, "the model is not there to answer in time")
    assert "retry-after" in reply.headers
    assert 18.7 < waits.slept < 19.0  # 20 s less the time a reply takes


async def test_a_release_that_hangs_is_left_alone_and_another_answers(
    box: MakeBox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.admission.breaker.LEAST_WAIT_S", 0.0)
    write_routes(tmp_path, stable="tiny-a", fallback="tiny-b")
    triton = FakeTriton(tiny_a=TooLate("too_late"), tiny_b=doubled)
    gateway = box(triton, breakers=Breakers(clock=lambda: 1000.0))
    statuses = [(await gateway.ask(double())).status for _ in range(FAILURES + 3)]
    assert statuses == [503] * FAILURES + [200] * 3
    assert [release for release, *_ in triton.asked] == ["tiny-a"] * FAILURES + ["tiny-b"] * 3
    gateway.gateway.keep()
    assert gateway.count("headframe_breakers_open", what="release") == 1
    assert gateway.count("headframe_breakers_open", what="server") == 0


async def test_while_nothing_answers_requests_are_refused_at_once_and_one_at_a_time_tries(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.admission.breaker.LEAST_WAIT_S", 0.0)
    now = [1000.0]
    triton = FakeTriton(tiny_a=TooLate("too_late"))
    gateway = box(triton, breakers=Breakers(clock=lambda: now[0]))
    for _ in range(FAILURES):
        assert (await gateway.ask(double())).message == "the model did not answer in time"
    refused = await gateway.ask(double())
    assert (refused.status, refused.message) == (503, "the model does not answer at present")
    assert refused.headers["retry-after"] == "2"
    assert len(triton.asked) == FAILURES
    now[0] += PAUSE_S
    assert (await gateway.ask(double())).message == "the model did not answer in time"  # the one that tried
    assert (await gateway.ask(double())).message == "the model does not answer at present"
    triton.models["tiny-a"] = doubled
    now[0] += PAUSE_S
    assert [(await gateway.ask(double())).status for _ in range(2)] == [200, 200]


async def test_callers_in_more_of_a_hurry_than_the_model_open_no_breaker(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.admission.breaker.LEAST_WAIT_S", 0.0)
    triton = FakeTriton(tiny_a=doubled)
    gateway = box(triton)
    for _ in range(3):
        gateway.answerer.times.learn(SLOT, 3.0)
    gateway.answerer.times._slots.clear()  # a while ago
    triton.models["tiny-a"] = TooLate("too_late")
    for _ in range(2 * FAILURES):
        assert (await gateway.ask(double(timeout="5"))).message == "the model did not answer in time"
    triton.models["tiny-a"] = doubled
    assert (await gateway.ask(double())).status == 200


async def test_a_server_that_stays_away_is_asked_by_one_at_a_time(box: MakeBox, waits: Waits) -> None:
    now = [1000.0]
    triton = FakeTriton(tiny_a=ServerDown("triton_down"))
    gateway = box(triton, breakers=Breakers(clock=lambda: now[0]))
    for _ in range(SERVER_FAILURES):
        assert (await gateway.ask(double())).message == "the model is not there to answer in time"
    assert (await gateway.ask(double())).message == "the model does not answer at present"
    triton.models["tiny-a"] = doubled
    now[0] += PAUSE_S
    assert (await gateway.ask(double())).status == 200


async def test_a_request_that_cannot_be_answered_in_time_is_refused_before_the_model_is_asked(box: MakeBox) -> None:
    triton = FakeTriton(tiny_a=doubled)
    gateway = box(triton)
    for _ in range(5):
        gateway.answerer.times.learn(SLOT, 3.0)
    hurried = await gateway.ask(double(timeout="2"))
    assert (hurried.status, hurried.message) == (503, "no answer can be ready in time")
    assert "retry-after" in hurried.headers
    assert not triton.asked
    assert (await gateway.ask(double(timeout="10"))).status == 200
    assert (gateway.answerer.times.of(SLOT) or 0) < 3.0  # it learnt from the answer


async def test_a_shadow_gets_a_copy_and_its_answer_is_recorded_and_never_sent(box: MakeBox, tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a", shadow="tiny-s")
    triton = FakeTriton(tiny_a=doubled, tiny_s=broken)
    gateway = box(triton)
    assert json.loads((await gateway.ask(double())).body)["y"] == [2.0, 5.0]
    for running in list(gateway.answerer._shadows):
        await running
    assert [release for release, *_ in triton.asked] == ["tiny-a", "tiny-s"]
    answered, shadow = read_records(tmp_path / "traffic")
    assert (answered.role, answered.code) == ("stable", "ok")
    assert (shadow.role, shadow.release, shadow.code) == ("shadow", "tiny-s", "invalid")
    assert shadow.request_id == answered.request_id


async def test_a_slot_that_is_taken_off_while_its_answer_is_made_costs_no_connection(
    box: MakeBox, tmp_path: Path
) -> None:
    write_routes(tmp_path, stable="tiny-a", shadow="tiny-s")
    gateway = box(FakeTriton(tiny_a=_after(lambda: write_routes(tmp_path, stable=None, generation=2))))
    assert (await gateway.ask(double())).status == 200
    assert (await gateway.ask(double())).message == "no release serves this slot yet"


async def test_an_answer_goes_out_though_it_cannot_be_recorded(box: MakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = box()
    logged: list[str] = []
    monkeypatch.setattr(gateway.gateway.log, "exception", lambda event, **facts: logged.append(event), raising=False)
    monkeypatch.setattr("serving.call.tensor_bytes", _fails)
    assert (await gateway.ask(double())).status == 200
    assert (gateway.gateway.traffic.lost, logged) == (1, ["a call could not be recorded"])


async def test_whoever_is_over_budget_costs_no_nonce_and_no_look_at_the_signature(box: MakeBox) -> None:
    gateway = box(per_s=0.001, burst=1)
    assert (await gateway.ask(double())).status == 200
    nonces = NonceStore(gateway.env, gateway.home / "nonces", retention_s=60.0)
    known, request = nonces.count(), double()
    request.headers["bt_header_dendrite_signature"] = "0x" + 128 * "0"
    for refused in (await gateway.ask(double()), await gateway.ask(request)):
        assert (refused.status, refused.message) == (429, "too many requests from this hotkey")
    assert nonces.count() == known
    assert (await gateway.ask(double(sender=BOB))).status == 200


async def test_a_replay_store_that_fails_makes_no_junk_of_what_true_callers_send(
    box: MakeBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = box(door=Door(junk=JunkBudgets(per_s=0.001, burst=3)))
    full = Refusal(503, "replay_store_full", "too many requests to remember", retry_after=5)
    with monkeypatch.context() as patch:
        patch.setattr(gateway.gateway.nonces, "spend", _raises(full))
        assert {(await gateway.ask(double())).status for _ in range(10)} == {503}
    request = double()
    assert (await gateway.ask(request)).status == 200
    replayed = [(await gateway.ask(request)).status for _ in range(10)]  # what is replayed is junk
    assert replayed[0] == 401
    assert replayed[-1] == 429


def _raises(error: Exception) -> Callable[..., Any]:
    async def spend(*_: Any, **__: Any) -> None:
        raise error

    return spend


def _after(act: Callable[[], None]) -> Callable[[Tensors], Tensors]:
    def model(tensors: Tensors) -> Tensors:
        act()
        return doubled(tensors)

    return model


def _fails(*_: object) -> None:
    raise OverflowError


async def test_shadows_are_dropped_and_counted_when_there_is_no_room(box: MakeBox, tmp_path: Path) -> None:
    write_routes(tmp_path, stable="tiny-a", shadow="tiny-s")
    gateway = box(FakeTriton(tiny_a=doubled, tiny_s=doubled), shadows=0)
    assert (await gateway.ask(double())).status == 200
    assert gateway.count("headframe_release_requests_total", role="shadow", outcome="dropped") == 1


async def test_the_record_holds_what_a_replay_needs(box: MakeBox, tmp_path: Path) -> None:
    gateway = box()
    reply = await gateway.ask(double(timeout="7.5"))
    (record,) = read_records(tmp_path / "traffic")
    assert (record.dialect, record.caller, record.slot, record.synapse) == (
        "legacy",
        ALICE.ss58_address,
        "tiny",
        "Double",
    )
    assert (record.status, record.code, record.role, record.release) == (200, "ok", "stable", "tiny-a")
    assert record.request == b"[1.0, 2.5]"
    assert record.tensors["X"].dtype == "FP32"
    assert record.tensors["X"].shape == [1, 2]
    assert record.answer_bytes == len(reply.body)
    assert record.answer_digest == hashlib.sha256(b"\0\0\0@\0\0\xa0@").hexdigest()
    assert record.deadline_s == 7.5
    assert set(record.timings_ms) >= {"signature", "triton", "total"}


async def test_refusals_after_the_signature_are_recorded_and_those_before_it_are_not(
    box: MakeBox, tmp_path: Path
) -> None:
    gateway = box()
    await gateway.ask(double(sender=STRANGER))
    await gateway.ask(legacy("Plain", {"x": "no"}))
    (record,) = read_records(tmp_path / "traffic")
    assert (record.status, record.code, record.role) == (400, "bad_input", "none")


async def test_metrics_count_requests_and_stages(box: MakeBox) -> None:
    gateway = box()
    await gateway.ask(double())
    await gateway.ask(double(sender=STRANGER))
    assert (
        gateway.count("headframe_requests_total", dialect="legacy", route="Double", outcome="ok", caller="upper") == 1
    )
    assert gateway.count("headframe_requests_total", outcome="not_registered", caller="unknown") == 1
    assert gateway.count("headframe_stage_seconds_count", stage="triton") == 1
    assert gateway.count("headframe_stage_seconds_count", stage="total") == 2
    assert gateway.count("headframe_release_requests_total", release="tiny-a", role="stable", outcome="ok") == 1


async def test_without_a_neuron_table_nobody_is_served(box: MakeBox, tmp_path: Path) -> None:
    gateway = box()
    (tmp_path / "neurons.json").unlink()
    reply = await gateway.ask(double())
    assert (reply.status, reply.message) == (503, "the table of neurons is not here yet")
