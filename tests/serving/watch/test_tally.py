"""Counts in memory come out of prometheus_client as if each had been handed over at once."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.call import STAGES, Stages
from serving.watch.tally import BatchHistogram, Tally, Timings

BOUNDS = (0.001, 0.01, 0.1)


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    }


def test_a_tally_counts_by_labels_and_forgets_nothing_between_two_flushes() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("asked", "Asked.", ["route", "code"], registry=registry))
    for code in ("ok", "ok", "late"):
        tally.add("Echo", code)
    assert samples(registry, "asked") == {}
    tally.flush()
    tally.add("Echo", "ok")
    tally.flush()
    tally.flush()
    assert samples(registry, "asked") == {("asked_total", ("Echo", "ok")): 3, ("asked_total", ("Echo", "late")): 1}


def test_nothing_is_lost_while_another_thread_flushes() -> None:
    registry = CollectorRegistry()
    tally = Tally(Counter("asked", "Asked.", ["route"], registry=registry))
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            tally.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    for _ in range(20_000):
        tally.add("Echo")
    done.set()
    thread.join()
    tally.flush()
    assert samples(registry, "asked") == {("asked_total", ("Echo",)): 20_000}


@given(st.lists(st.sampled_from([*BOUNDS, 0.0005, 0.05, 5.0]) | st.floats(1e-9, 10.0), max_size=30))
def test_observing_all_at_once_is_observing_each(amounts: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batch = BatchHistogram("took", "Took.", ["stage"], buckets=BOUNDS, registry=ours)
    single = Histogram("took", "Took.", ["stage"], buckets=BOUNDS, registry=theirs)
    batch.labels("a").observe_all(np.array(amounts))
    for amount in amounts:
        single.labels("a").observe(amount)
    single.labels("a")
    found, wanted = samples(ours, "took"), samples(theirs, "took")
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-12)


def test_a_stage_that_was_not_passed_is_not_observed() -> None:
    registry = CollectorRegistry()
    timings = Timings(BatchHistogram("took", "Took.", ["stage"], buckets=BOUNDS, registry=registry), ["a", "b"])
    timings.add((2_000_000, 0))
    timings.add((500_000, 50_000_000))
    timings.flush()
    timings.flush()
    found = samples(registry, "took")
    assert (found["took_count", ("a",)], found["took_count", ("b",)]) == (2, 1)
    assert found["took_bucket", ("a", "0.001")] == 1
    assert found["took_bucket", ("b", "0.1")] == 1
    np.testing.assert_allclose(found["took_sum", ("a",)], 0.0025)


def test_a_stage_that_is_passed_twice_adds_up() -> None:
    stages = Stages()
    for stage in ("head", "triton", "triton"):
        stages.mark(stage)
    told = stages.ms()
    assert set(told) == {"head", "triton", "total"}
    assert told["head"] + told["triton"] <= told["total"]
    assert len(stages.ns) == len(STAGES)
    assert stages.ns[STAGES.index("send")] == 0
