"""What the tests of verbs share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare home, which is also the working directory."""
    monkeypatch.setenv("HEADFRAME_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path
