"""The verb `twin`: options, exit codes, and the report it writes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from headframe import twin
from infra import prices
from serving.clock import Clock
from serving.errors import UserError
from serving.state import AssetPrices, PriceBook, write_state
from serving.subnets.synth.rules import ASSETS
from tests.serving.twin.gateway import Gateway, gateway, walk

T = 1_785_763_800


class _Store:
    """Prices at the edge: every price is known."""

    def truth(self, asset: str, start: int, increment: int, length: int) -> Any:
        return np.full(length // increment + 1, 100.5)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose price book and clock stand at T."""
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prices, "price_store", lambda settings: _Store())
    Clock(tmp_path / "clock.json").set(T, rate=0.0)
    known = AssetPrices(100.5, T, "simulated", True, False, {})
    book = PriceBook(as_of=float(T), written_at=0.0, assets=dict.fromkeys(ASSETS, known))
    write_state(tmp_path / "serving" / "prices.json", book)
    return tmp_path


@pytest.fixture
def answering() -> Iterator[Gateway]:
    """A gateway in a thread of its own."""
    loop = asyncio.new_event_loop()
    ready, over = threading.Event(), asyncio.Event()
    found: list[Gateway] = []

    async def serve() -> None:
        async with gateway(walk) as at:
            found.append(at)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield found[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def _run(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    twin.register(app)
    return CliRunner().invoke(app, ["twin", *arguments])


def test_a_good_run_writes_and_prints_its_report(home: Path, answering: Gateway) -> None:
    out = home / "deep" / "twin.json"
    done = _run("--url", answering.url, "--requests", "6", "--simulations", "10", "--out", str(out), "--json")
    assert done.exit_code == 0
    report = json.loads(out.read_text())
    assert json.loads(done.stdout) == report
    assert (report["requests"], report["invalid"], report["errors"]) == (6, 0, 0)
    assert report["by_dialect"] == {"legacy": 3, "btauth": 3}
    assert report["scored"] == 6
    assert sum(report["incentive"].values()) == pytest.approx(1)


def test_recorded_rounds_of_one_slot(home: Path, answering: Gateway) -> None:
    asked = ["--slot", "synth-low", "--assets", "btc,aaplx", "--start", str(T), "--simulations", "3"]
    done = _run("--url", answering.url, *asked, "--dialect", "btauth", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert [(row["asset"], row["start"], row["dialect"]) for row in report["prompts"]] == [
        ("BTC", T, "btauth"),
        ("AAPLX", T, "btauth"),
    ]


def test_a_person_reads_a_table(home: Path, answering: Gateway) -> None:
    done = _run("--url", answering.url, "--requests", "2", "--simulations", "3", "--slot", "synth-high")
    assert done.exit_code == 0
    assert "reference-gaussian" in done.stdout
    assert "simulated prices" in done.stdout


def test_a_fault_is_exit_code_1(home: Path, answering: Gateway) -> None:
    answering.mangle = lambda status, headers, body: (503, headers, b'{"message": "no stable release"}')
    done = _run("--url", answering.url, "--requests", "2")
    assert done.exit_code == 1
    assert "503 no stable release" in done.stdout


def _refused(*arguments: str) -> UserError:
    found = _run(*arguments).exception
    assert isinstance(found, UserError)
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slot", "itsai"), "itsai is none of"),
        (("--assets", "BTC,DOGE"), "DOGE is none of"),
        (("--start", "2026-08-03T13:30:00"), "has no offset"),
        (("--start", "yesterday"), "neither ISO 8601 nor unix"),
        (("--start", "2026-08-03T13:30:30Z"), "not a whole minute"),
        (("--start", str(T), "--every", "90"), "whole minutes"),
        (("--start", str(T), "--live"), "exclude each other"),
    ],
)
def test_a_wrong_option_is_a_usage_error(home: Path, arguments: tuple[str, ...], words: str) -> None:
    error = _refused("--url", "http://127.0.0.1:1", *arguments)
    assert words in str(error)
    assert error.exit_code == 2


def test_without_a_gateway_it_says_what_to_do(home: Path) -> None:
    assert "headframe up" in str(_refused())


def test_only_profile_local_and_only_loopback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not this machine" in str(_refused("--url", "http://198.51.100.7:8091", "--requests", "1"))
    monkeypatch.setenv("HEADFRAME_PROFILE", "finney")
    assert "public dev keys" in str(_refused("--url", "http://127.0.0.1:1"))


def test_help_has_an_example() -> None:
    assert "Example: headframe twin" in _run("--help").stdout


def test_without_a_slot_of_synths_there_is_nothing_to_ask(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADFRAME_SLOTS", '["itsai"]')
    app = typer.Typer()
    app.command()(twin.twin)
    result = CliRunner().invoke(app, ["--url", "http://127.0.0.1:9"])
    assert isinstance(result.exception, UserError)
    assert "none is configured" in str(result.exception)
