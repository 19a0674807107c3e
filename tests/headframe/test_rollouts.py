"""Releases that are taken live and back by verbs."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from infra.ledger import moves, open_ledger
from infra.settings import Settings
from tests.headframe.verbs import SLOT, failure, headframe
from tests.infra.ledger.helpers import add, report

pytestmark = pytest.mark.usefixtures("home")


def live(home: Path) -> tuple[str, str]:
    """A stable release and a candidate that passed its gate."""
    with closing(open_ledger(Settings(home=home))) as ledger:
        first, second = add(ledger, "first"), add(ledger, "second")
        report(ledger, first, None)
        ledger.move(SLOT, moves.adopt(first.id), kind="adopt", release=first.id, actor="t", reason="first")
        report(ledger, second, first)
        return first.id, second.id


def test_releases_are_listed_with_verdict_and_place(home: Path) -> None:
    assert json.loads(headframe("releases", "--json").stdout) == []
    first, second = live(home)
    rows = json.loads(headframe("releases", "--slot", SLOT, "--json").stdout)
    assert [(row["id"], row["gate"], row["place"]) for row in rows] == [
        (first, "inconclusive", "stable"), (second, "pass", None)
    ]  # fmt: skip
    text = headframe("releases").stdout
    assert first in text.replace("\n", "").replace(" ", "") or first[:12] in text


def test_a_rollout_is_started_watched_and_aborted(home: Path) -> None:
    first, second = live(home)
    started = json.loads(headframe("rollout", "start", "--slot", SLOT, "--json").stdout)
    assert (started["before"], started["after"], started["release"]) == ("settled", "starting", second)
    now = json.loads(headframe("rollout", "status", "--slot", SLOT, "--json").stdout)
    assert (now["stage"], now["stable"], now["candidate"]) == ("starting", first, second)
    assert [change["kind"] for change in now["transitions"]] == ["adopt", "start"]
    assert failure(headframe("rollout", "start", "--slot", SLOT)).exit_code == 3
    done = headframe("rollout", "abort", "--slot", SLOT, "--reason", "not today")
    assert done.exit_code == 0
    assert "aborted: not today" in done.stdout
    assert str(failure(headframe("rollout", "abort", "--slot", SLOT))).endswith("no rollout is under way")


def test_a_rollback_with_nothing_to_go_back_to_says_so(home: Path) -> None:
    live(home)
    assert "no previous stable release" in str(failure(headframe("rollback", "--slot", SLOT)))


def test_a_tick_with_nothing_to_do_is_good(home: Path) -> None:
    done = headframe("rollout", "tick", "--slot", SLOT, "--no-prefect")
    assert done.exit_code == 0
    assert "no release is stable yet" in done.stdout
