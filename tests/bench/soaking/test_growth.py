"""The judge of memory: what breathes is flat, what leaks is found, and how small a leak may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soaking.growth import LINE_MB, LINE_SHARE, Growth, growth
from bench.soaking.memory import EVERY_S

RUN_S = 1200.0
T = np.arange(0.0, RUN_S + 1, EVERY_S)
HALF = RUN_S / 2


def noise(sigma: float, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.0, sigma, len(T))


def teeth(amplitude: float, period: float, phase: float) -> Any:
    return amplitude * ((T / period + phase) % 1.0)


def judged(sizes: Any) -> Growth:
    return growth(T, sizes)


phases = st.floats(0.0, 1.0)
seeds = st.integers(0, 1000)


@given(st.floats(0.0, 2.0), seeds)
def test_what_stays_is_flat(sigma: float, seed: int) -> None:
    assert not judged(200 + noise(sigma, seed)).leaks(strict=True)


@given(st.floats(1.0, 100.0), st.floats(30.0, HALF), phases, seeds)
def test_what_gives_back_at_least_once_in_half_a_run_is_flat(
    amplitude: float, period: float, phase: float, seed: int
) -> None:
    assert not judged(150 + teeth(amplitude, period, phase) + noise(0.3, seed)).leaks()


@given(st.floats(5.0, 500.0), st.floats(20.0, 290.0), seeds)
def test_a_start_that_settles_within_a_quarter_is_flat(rise: float, at: float, seed: int) -> None:
    assert not judged(100 + rise * (at <= T) + noise(0.5, seed)).leaks(strict=True)


@given(st.floats(5.0, 300.0), st.floats(5.0, 100.0), seeds)
def test_a_start_that_settles_slowly_is_flat(rise: float, constant: float, seed: int) -> None:
    assert not judged(100 + rise * (1 - np.exp(-T / constant)) + noise(0.3, seed)).leaks(strict=True)


@given(st.floats(30.0, 2000.0), seeds)
def test_thirty_megabytes_an_hour_are_found_in_twenty_minutes(leak: float, seed: int) -> None:
    assert judged(200 + leak * T / 3600 + noise(0.2, seed)).leaks()


@pytest.mark.parametrize(("sigma", "least"), [(0.0, 25.0), (0.2, 30.0), (0.5, 40.0), (1.0, 50.0), (2.0, 80.0)])
def test_the_least_leak_that_is_always_found(sigma: float, least: float) -> None:
    """Megabytes an hour in 20 minutes, by the scatter of the samples."""
    found = [judged(200 + least * T / 3600 + noise(sigma, seed)).leaks() for seed in range(300)]
    assert all(found)
    assert not judged(200 + 20.0 * T / 3600).leaks()


@given(st.floats(400.0, 5000.0), st.floats(0.0, 60.0), st.floats(30.0, 300.0), phases)
def test_a_fast_leak_is_found_under_any_breath(leak: float, amplitude: float, period: float, phase: float) -> None:
    assert judged(200 + leak * T / 3600 + teeth(amplitude, period, phase)).leaks()


@pytest.mark.parametrize("shape", ["steady", "step", "late", "faster"])
@given(st.floats(1.0, 200.0), st.floats(0.3, 0.98), st.floats(0.0, 1.0), seeds)
def test_no_leak_is_lost_that_a_line_alone_found(
    shape: str, rise: float, begins: float, sigma: float, seed: int
) -> None:
    share = T / RUN_S
    laws: dict[str, Any] = {
        "steady": share, "step": share >= begins, "late": np.maximum(0.0, share - begins) / (1 - begins),
        "faster": share**4,
    }  # fmt: skip
    sizes = 250 + rise * laws[shape] + noise(sigma, seed)
    half = len(T) // 2
    line = np.polyfit(T[half:], sizes[half:], 1)[0] * (T[-1] - T[half])
    found = judged(sizes)
    assert found.line == pytest.approx(line, abs=1e-6)
    if line > max(LINE_MB, LINE_SHARE * sizes[-1]):
        assert found.leaks(strict=True)
        if shape != "step" or begins > 0.76:
            assert found.leaks()


def test_on_the_road_nothing_excuses_a_line_that_rises() -> None:
    """It gave back 60 MB in the second quarter, and took 20 from the last sixth on."""
    sizes = 200 + 60.0 * (T < 400.0) + 20.0 * (T >= 1000.0)
    found = judged(sizes)
    assert LINE_MB < found.line < found.given_back
    assert (found.leaks(), found.leaks(strict=True)) == (False, True)


@given(st.floats(5.0, 300.0), st.floats(0.3, 0.73), seeds)
def test_one_step_and_then_nothing_for_a_quarter_is_let_off_outside_the_road(
    rise: float, begins: float, seed: int
) -> None:
    found = judged(200 + rise * (begins * RUN_S <= T) + noise(0.3, seed))
    assert not found.leaks()
    assert found.leaks(strict=True) == (found.line > max(LINE_MB, LINE_SHARE * found.last))


def test_a_stair_of_two_steps_is_found() -> None:
    assert judged(200 + 6.0 * (T >= 0.5 * RUN_S) + 6.0 * (T >= 0.75 * RUN_S)).leaks()


@given(st.floats(40.0, 2000.0), st.floats(20.0, 300.0), seeds)
def test_a_leak_is_found_under_short_peaks(leak: float, height: float, seed: int) -> None:
    """Whatever comes for a quarter of a minute and goes leaves the floors alone."""
    peaks = height * (np.random.default_rng(seed).random(len(T)) < 0.05)
    peaks[1:] = np.maximum(peaks[1:], peaks[:-1])
    assert judged(200 + leak * T / 3600 + peaks + noise(0.2, seed)).leaks()
    assert not judged(200 + peaks + noise(0.2, seed)).leaks()


def test_an_odd_sample_changes_nothing() -> None:
    sizes = 200 + 60.0 * T / 3600
    for place in (90, 150, 220):
        sizes[place] = 20.0
    assert judged(sizes).leaks()
    sizes = np.full_like(T, 200.0)
    sizes[80] = sizes[140] = 20.0
    assert not judged(sizes).leaks(strict=True)


@pytest.mark.parametrize("count", range(12))
def test_a_run_too_short_to_tell_says_nothing(count: int) -> None:
    assert not growth(T[:count], np.full(count, 50.0) + np.arange(count)).leaks(strict=True)


def test_the_part_that_was_misjudged() -> None:
    """An hour of a part that fills 40 MB in 26 minutes and gives them back: it ends as it began."""
    at = np.arange(0.0, 3601.0, EVERY_S)
    flagged = 0
    for phase in np.linspace(0, 1, 53):
        found = growth(at, 150 + 40 * ((at / 1560 + phase) % 1.0))
        flagged += found.line > LINE_MB
        assert not found.leaks()
    assert flagged > 5  # the line alone was wrong so often
