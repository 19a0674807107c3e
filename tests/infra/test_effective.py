from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.effective import effective
from infra.settings import load_settings


def test_each_setting_tells_who_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "headframe.toml"
    file.write_text('netuid = 51\n[ports]\nmlflow = 5001\ngateway = 5002\n[s3]\nsecret_key = "hidden"\n')
    monkeypatch.setenv("HEADFRAME_CONFIG", str(file))
    monkeypatch.setenv("HEADFRAME_PORTS__GATEWAY", "8091")
    monkeypatch.setenv("HEADFRAME_PRICES", '{"record_every": 30}')
    monkeypatch.setenv("HEADFRAME_MINERS", '[{"netuid": 32, "slots": ["itsai"], "hotkey_uri": "//Two"}]')
    monkeypatch.setenv("HEADFRAME_LEDGER_URL", "postgresql://me:pass@word@db/ledger")
    rows = {row.name: (row.value, row.source) for row in effective(load_settings())}
    assert rows["netuid"] == (51, str(file))
    assert rows["ports.mlflow"] == (5001, str(file))
    assert rows["ports.gateway"] == (8091, "HEADFRAME_PORTS__GATEWAY")
    assert rows["prices.record_every"] == (30.0, "HEADFRAME_PRICES")
    assert rows["profile"] == ("local", "default")
    assert rows["s3.secret_key"] == ("****", str(file))
    assert "pass" not in str(rows["ledger_url"])
    miner = {"netuid": 32, "slots": ["itsai"], "hotkey_uri": "//Two"}
    assert rows["miners"] == ([miner], "HEADFRAME_MINERS")
    assert rows["gateway.schemes"] == ({}, "default")


def test_no_secret_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADFRAME_CONFIG", os.devnull)
    monkeypatch.setenv("HEADFRAME_PRICES__PYTH_API_KEY", "bearer-of-mine")
    monkeypatch.setenv("HEADFRAME_GATEWAY__REDIS_URL", "rediss://:geheim@redis:6379/0")
    settings = load_settings()
    shown = str(effective(settings))
    for secret in (settings.s3.secret_key, "bearer-of-mine", "geheim"):
        assert secret not in shown
    assert "rediss://:****@redis:6379/0" in shown
