"""The demo, step by step: the same calls that the verbs make, one after the other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from headframe.demo import plot, report, traffic
from headframe.flow_runs import FlowRuns
from headframe.output import console
from serving.types import SlotName

if TYPE_CHECKING:
    from flows.gate import GateResult
    from flows.retrain import RetrainResult
    from infra.settings import Settings
    from serving.twin import Report
    from triton_models.synth_paths.train import Model

CANDIDATE: Model = "garch-t"
ACTOR = "demo"


def run(settings: Settings) -> list[str]:
    """Play the whole loop, write ``report.json`` and ``report.png``, print the report; what went wrong, in lines."""
    from infra.stack.lifecycle import up

    clock = _Stopwatch(console)
    flows = FlowRuns(settings, ACTOR)
    with clock.step("up", "start the stack: S3, MLflow, Prefect, Triton, gateway, sidecar"):
        up(settings, lambda part, what: None)
    with clock.step("ingest", "ingest prices"):
        ingested = flows.ingest()
    for slot in settings.slots:
        with clock.step(f"adopt {slot}", f"{slot}: the reference miner's model goes live"):
            flows.adopt_reference(slot)
    trained: dict[str, RetrainResult] = {}
    gated: dict[str, GateResult] = {}
    for slot in settings.slots:
        with clock.step(f"retrain {slot}", f"{slot}: retrain on what ends before the held-out sessions"):
            trained[slot] = flows.retrain(slot, CANDIDATE)
        with clock.step(f"gate {slot}", f"{slot}: gate by the subnet's own formula, on held-out real bars"):
            gated[slot] = flows.gate(slot)
            console.print(f"    {gated[slot].verdict}: {gated[slot].summary}", soft_wrap=True)
    with clock.step("twin", "a validator twin asks, while what passed is rolled out"):
        seen = asyncio.run(_under_traffic(settings, _Rollouts(settings, gated)))
    with clock.step("outcomes", "score the recorded answers against what came true"):
        _let_it_come_true(settings, seen)
        flows.outcomes()
    document = {
        "stack": report.versions(_triton_version(settings)),
        "data": report.data(ingested.series),
        "slots": _slots(settings, trained, gated),
        "twin": seen.to_json(),
        "seconds": {**clock.seconds, "total": round(sum(clock.seconds.values()), 2)},
    }
    target = settings.home / "report.json"
    target.write_text(json.dumps(document, indent=2) + "\n")
    plot.draw(document, target.with_suffix(".png"))
    report.show(document)
    console.print(f"\nreport: {target}\nplot:   {target.with_suffix('.png')}", soft_wrap=True)
    return report.wrong(document)


@dataclass
class _Stopwatch:
    """Says what is being done, and keeps how long each step took."""

    said: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        self.said.print(f"[bold]{len(self.seconds) + 1:>2}[/]  {what}", soft_wrap=True)
        before = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - before, 2)


@dataclass
class _Rollouts:
    """The rollouts of every slot whose candidate passed; one tick a slot whenever asked."""

    settings: Settings
    gated: dict[str, GateResult]
    started: bool = False

    def __call__(self) -> bool:
        """Tick each once; whether none is under way any more."""
        from flows import rollout
        from flows.guards import Pace

        pace = Pace(shadow_answers=12, canary_answers=8, canary_bp=4_000)  # an hour's demo has no day's traffic
        passed = [slot for slot, gate in self.gated.items() if gate.verdict == "pass"]
        if not self.started:
            self.started = True
            for slot in passed:
                rollout.start(self.settings, slot, self.gated[slot].release, actor=ACTOR)
        settled = True
        for slot in passed:
            done = rollout.tick(self.settings, slot, pace=pace, actor=ACTOR)
            if done.moved:
                console.print(f"    {slot}: {done.before} > {done.after}, {done.reason}", soft_wrap=True)
            settled &= done.after in {"settled", "empty"}
        return settled


async def _under_traffic(settings: Settings, tick: Callable[[], bool]) -> Report:
    """The twin's whole run on the held-out starts of the hour's slot, on recorded time."""
    from flows.split import make_split
    from infra.ports import endpoints, need
    from infra.prices import price_store
    from serving.clock import Clock
    from serving.subnets.synth.rules import HIGH
    from serving.twin import Options, Target, World, book_file, run_twin
    from serving.wire.keys import dev_hotkey

    store = price_store(settings)
    starts = [start for session in make_split(store, HIGH).held_out for start in session.starts]
    target = Target(need(endpoints(settings).gateway, "the gateway"), dev_hotkey(settings.gateway.hotkey_uri))
    world = World(Clock(settings.paths.clock), book_file(settings.paths.prices), store.truth)
    spread = [starts[i * len(starts) // traffic.LEAST] for i in range(traffic.LEAST)]
    return await run_twin(target, traffic.staged(spread, tick), world, Options())


def _let_it_come_true(settings: Settings, seen: Report) -> None:
    """Set recorded time to when the last answer's prices are out."""
    from serving.clock import Clock
    from serving.subnets.synth.rules import PROMPTS, PUBLISH_DELAY

    over = max(row.start + PROMPTS[SlotName(row.slot)].length for row in seen.prompts)
    Clock(settings.paths.clock).set(over + PUBLISH_DELAY, rate=0.0)


def _slots(
    settings: Settings, trained: dict[str, RetrainResult], gated: dict[str, GateResult]
) -> dict[str, dict[str, Any]]:
    from infra.ledger import open_ledger

    with closing(open_ledger(settings)) as ledger:
        return {
            slot: report.slot(trained[slot], gated[slot], ledger.transitions(slot), ledger.slot(slot).stable)
            for slot in settings.slots
        }


def _triton_version(settings: Settings) -> str:
    from infra.ports import endpoints, need
    from infra.triton import Triton

    return Triton(need(endpoints(settings).triton_grpc, "Triton")).version()
