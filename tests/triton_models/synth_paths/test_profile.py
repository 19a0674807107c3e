"""When variance comes: shapes that are known are found, real AAPL has its open, few days are drawn to flat."""

from __future__ import annotations

import numpy as np
import pytest

from tests.triton_models.synth_paths.series import before, hourly, minutes, round_the_clock
from triton_models.synth_paths import profile
from triton_models.synth_paths.model import variance_clock


def test_the_hours_of_a_day_are_found() -> None:
    points = round_the_clock(300)
    shape = profile.day_profile(points.times, points.prices)
    weights = np.array(shape["weights"])
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert weights[12:18].mean() / np.delete(weights, slice(12, 18)).mean() == pytest.approx(4.0, rel=0.1)


def test_few_days_are_drawn_to_a_flat_day() -> None:
    few, many = (
        np.array(profile.day_profile(p.times, p.prices)["weights"]) for p in (round_the_clock(3), round_the_clock(300))
    )
    assert few[12:18].mean() < many[12:18].mean()
    assert few.min() > 0


def test_aapl_is_wild_at_the_open_and_calm_at_lunch() -> None:
    points = hourly()
    shape = profile.session_profile(points.times, points.prices)
    weights = np.array(shape["weights"])
    assert len(weights) == profile.PARTS
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert (weights > 0).all()
    assert weights[:6].mean() > 3 * weights[18:24].mean()
    assert 1.5 < shape["overnight"] < 4
    assert shape["overnight"] < shape["weekend"] < 10


def test_the_hours_keep_their_variance_when_they_are_made_smooth() -> None:
    points = hourly()
    shape = profile.session_profile(points.times, points.prices)
    clock = variance_clock(shape, 3600)
    scaled = np.diff(np.log(points.prices)) / np.sqrt(clock.between(points.times))
    opening = 1_785_850_200 % 86_400
    inside = np.diff(points.times) == 3600
    summer = points.times[:-1] % 86_400 == opening
    means = [np.abs(scaled[inside & mask]).mean() for mask in (summer, ~summer)]
    assert means[0] == pytest.approx(means[1], rel=0.15)


def test_two_sessions_of_minutes_have_a_shape_too() -> None:
    points = before(minutes(), 1_785_850_200)
    shape = profile.session_profile(points.times, points.prices)
    weights = np.array(shape["weights"])
    assert weights.mean() == pytest.approx(1.0, abs=1e-6)
    assert 0.3 < weights.min() < weights.max() < 3
    assert shape["weekend"] > 0  # a Friday and a Monday
    assert shape["overnight"] == profile.USUAL_NIGHT


def test_parts_that_were_never_seen_count_as_average() -> None:
    points = hourly()
    seconds = (points.times - points.times[0]) % 86_400
    morning = seconds < 3 * 3600
    shape = profile.session_profile(points.times[morning], points.prices[morning])
    assert np.isfinite(shape["weights"]).all()
    assert min(shape["weights"]) > 0
