"""The books: requests that the gateway counted against rows of its record, exactly, whatever became of the requests."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headframe.cli import build
from infra.settings import Settings, Traffic
from infra.traffic.reconcile import Books, Counted, counted, reconcile
from infra.traffic.summary import summary
from serving.clock import replace_file
from serving.errors import UserError
from serving.traffic.segments import segments
from tests.serving.callers import BOB, DAVE, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, broken, doubled
from tests.serving.gateways import write_neurons, write_routes
from tests.serving.processes import Running, gateway, until

PAGE = """
headframe_started_seconds 5.5
headframe_requests_total{dialect="legacy",route="Double",outcome="ok",caller="upper"} 7.0
headframe_requests_total{dialect="legacy",route="Double",outcome="budget",caller="lower"} 2.0
headframe_requests_total{dialect="legacy",route="ping",outcome="ok",caller="upper"} 9.0
headframe_requests_total{dialect="none",route="other",outcome="no_route",caller="unknown"} 4.0
headframe_traffic_lost 3.0
"""


def test_only_verified_requests_for_an_answer_have_a_row() -> None:
    assert counted(PAGE) == Counted(since=5.5, requests=9, lost=3)
    with pytest.raises(UserError, match="does not give the gateway's metrics"):
        counted("up 1.0\n")


def test_a_home_that_was_never_up_has_no_books(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="private port has no address"):
        reconcile(Settings(home=tmp_path))


@pytest.mark.parametrize(
    ("traffic", "days"),
    [({}, 30), ({"s3_keep_days": 20}, 20), ({"s3_keep_days": 90}, 30), ({"ship": False, "keep_days": 7}, 7)],
)
def test_rows_that_went_as_the_settings_want_are_not_called_missing(
    traffic: dict[str, Any], days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, traffic=Traffic(**traffic))
    replace_file(settings.paths.ports, b'{"private": 1}')

    def started(days_ago: float) -> None:
        page = PAGE.replace("5.5", str(time.time() - days_ago * 86_400))
        monkeypatch.setattr("infra.traffic.reconcile.page", lambda url: page)

    started(days + 0.1)
    with pytest.raises(UserError, match=f"rows can be followed for {days}") as told:
        reconcile(settings, wait=lambda seconds: None)
    assert told.value.exit_code == 3
    assert not (settings.paths.traffic / "books.json").exists()
    settings.paths.traffic.mkdir()
    started(days - 0.1)
    assert reconcile(settings, wait=lambda seconds: None).missing == 6


def settle(live: Running, requests: int) -> None:
    until(lambda: counted(live.get("/metrics").text).requests == requests)


@pytest.mark.slow
def test_every_request_is_in_the_books_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    settings = Settings()
    triton = FakeTritonServer(tiny_a=doubled, tiny_b=broken, tiny_c=doubled)
    write_neurons(tmp_path)
    write_routes(tmp_path, stable="tiny-b", fallback="tiny-a", shadow="tiny-c")
    with gateway(tmp_path, triton.address) as live:
        ports = {"private": live.config.private_port}
        replace_file(settings.paths.ports, json.dumps(ports).encode())
        good, bad = {"x": [1.0]}, {"x": "no"}
        for _ in range(5):
            assert live.ask(legacy("Double", good, ("x",))).status_code == 200  # by the fallback
            assert live.ask(btauth("/Double", good, sender=BOB)).status_code == 200
            assert live.ask(btauth("/Double", bad)).status_code == 400
            assert live.ask(legacy("Synapse", {})).status_code == 200  # a ping has no row
            assert live.ask(btauth("/Double", good, sender=DAVE)).status_code == 403  # nor has a stranger
        settle(live, 15)
        shadowed = 10
        found: list[Books] = []

        def shadows_are_done() -> bool:
            found[:] = [reconcile(settings, wait=lambda seconds: None)]
            return found[0].beside == 10 + shadowed

        until(shadows_are_done)
        (books,) = found
        assert (books.requests, books.rows, books.lost, books.missing, books.uncounted) == (15, 15, 0, 0, 0)
        told = summary(settings.paths.traffic, f"{live.private}/metrics")
        assert (told.records, told.lost, told.balanced, told.books) == (15 + books.beside, 0, True, books)
        done = CliRunner().invoke(build(), ["replay", "--reconcile"])
        assert done.exit_code == 0
        assert "15 requests counted, 15 of them recorded, 0 refused" in " ".join(done.stdout.split())
        assert "the books agree" in done.stdout

        killed = live.pids()[0]
        os.kill(killed, signal.SIGKILL)  # what it counted stays
        until(lambda: killed not in (pids := live.pids()) and len(pids) == live.config.workers)
        assert reconcile(settings).rows == 15

        for path in segments(settings.paths.traffic):  # and what if rows were really lost?
            path.unlink()
        done = CliRunner().invoke(build(), ["replay", "--reconcile", "--json"])
        assert done.exit_code == 1
        assert json.loads(done.stdout)["missing"] == 15
        assert summary(settings.paths.traffic, None).balanced is False
    triton.stop()


def books(**facts: Any) -> Books:
    plain = {"since": 0.0, "requests": 5, "rows": 5, "beside": 0, "lost": 0, "missing": 0, "uncounted": 0}
    return Books(**{**plain, **facts})


def test_rows_that_nobody_counted_are_inconclusive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("infra.traffic.reconcile.reconcile", lambda settings: books(rows=6, uncounted=1))
    done = CliRunner().invoke(build(), ["replay", "--reconcile"])
    assert done.exit_code == 3
    assert "1 rows are of requests that a killed worker had not counted" in done.stdout
