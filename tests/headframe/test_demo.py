from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headframe import demo
from headframe.demo import report, traffic
from headframe.demo.plot import draw
from infra.settings import Settings
from serving.errors import UserError
from serving.subnets.synth.rules import HIGH, LOW
from serving.twin.schedule import Round

STARTS = [1_785_850_200 + 600 * number for number in range(12)]


async def _all(rounds: AsyncIterator[Round]) -> list[Round]:
    return [one async for one in rounds]


def test_a_moment_asks_for_every_asset_once_in_time_order() -> None:
    rounds = list(traffic.rounds_at(STARTS[0]))

    assert [one.at for one in rounds] == [STARTS[0] - 60.0, float(STARTS[0])]
    assert [{ask.slot for ask in one.asks} for one in rounds] == [{HIGH}, {LOW}]
    assert sum(len(one.asks) for one in rounds) == 18
    assert all(traffic.PROXY in {ask.asset for ask in one.asks} for one in rounds)


@given(st.integers(min_value=0, max_value=40))
async def test_rollouts_are_ticked_between_moments_until_they_are_through(needed: int) -> None:
    ticks = 0

    def tick() -> bool:
        nonlocal ticks
        ticks += 1
        return ticks > needed

    rounds = await _all(traffic.staged(STARTS, tick))
    moments = len(rounds) // 2

    assert traffic.LEAST <= moments <= traffic.MOST
    assert 18 * moments >= 200
    assert ticks == min(needed + 1, traffic.MOST - traffic.BEFORE)  # one a moment, none after the last was through
    if needed + 1 + traffic.BEFORE + traffic.AFTER <= traffic.MOST:
        assert moments >= traffic.BEFORE + needed + traffic.AFTER
    assert [one.asks[0].start for one in rounds[::2]] == [STARTS[i % len(STARTS)] for i in range(moments)]


def _document(verdict: str, stable: str, **twin: Any) -> dict[str, Any]:
    score = {
        "candidate": 95.0, "champion": 100.0, "change_pct": -5.0, "ci95": [-8.0, -2.0], "replays": 66, "disjoint": 12,
        "terms": 121, "terms_full": 121,
        "baselines": [{"name": "flat", "score": 130.0, "change_pct": 30.0, "ci95": [26.0, 35.0]}],
    }  # fmt: skip
    return {
        "slots": {
            "synth-high": {
                "retrain": {"release": "new"},
                "gate": {"verdict": verdict, "score": score},
                "rollout": {"stable": stable, "transitions": [{"reason": "held"}]},
            }
        },
        "twin": {
            "requests": 216, "invalid": 0, "errors": 0, "reasons": {},
            "incentive": {"headframe": 0.6, "flat": 0.4}, **twin,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (_document("pass", "new"), []),
        (_document("inconclusive", "old"), []),
        (_document("fail", "old"), []),
        (_document("pass", "old"), ["new passed its gate, and old is stable"]),
        (_document("inconclusive", "new"), ["new is stable although its gate says inconclusive"]),
        (_document("fail", "new"), ["new is stable although its gate says fail"]),
        (_document("fail", "old", invalid=1), ["1 of 216 answers: invalid"]),
        (_document("fail", "old", errors=2), ["2 of 216 answers: errors"]),
    ],
)
def test_what_is_not_as_it_should_be_is_told(document: dict[str, Any], told: list[str]) -> None:
    found = report.wrong(document)

    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw(_document("pass", "new"), tmp_path / "report.png")

    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")

    with pytest.raises(UserError, match="no demo made it"):
        demo._fresh(Settings(home=tmp_path))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_an_earlier_demo_is_swept_away(tmp_path: Path) -> None:
    demo._fresh(Settings(home=tmp_path))
    (tmp_path / "report.json").write_text("{}")
    demo._fresh(Settings(home=tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["demo.mark"]
