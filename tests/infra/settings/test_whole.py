"""What the settings say as a whole: what may go together, and what one value takes over from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.settings import LOOPBACK, Settings


@pytest.mark.parametrize("said", [{"bind": "0.0.0.0"}, {"bind": "::"}, {"gateway": {"private_bind": "10.0.0.1"}}])
def test_only_the_local_profile_is_bound_to_loopback(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="binds loopback only"):
        Settings(home=tmp_path, **said)
    for profile in ("test", "finney"):
        assert Settings(home=tmp_path, profile=profile, **said).profile == profile
    for bind in LOOPBACK:
        assert Settings(home=tmp_path, bind=bind).bind == bind


def test_a_further_miner_takes_over_what_it_does_not_say(tmp_path: Path) -> None:
    settings = Settings.model_validate({
        "home": tmp_path, "slots": ["synth-low"], "gateway": {"stake_threshold": 7.0, "allow": ["5A"], "deny": ["5B"]},
        "miners": [
            {"netuid": 32, "slots": ["itsai", "synth-low"], "hotkey_uri": "//Two", "stake_threshold": 0.0},
            {"netuid": 50, "slots": ["synth-high"], "hotkey_uri": "//Three", "deny": []},
        ],
    })  # fmt: skip
    first, second, third = settings.all_miners
    assert (first.netuid, first.slots, first.hotkey_uri) == (50, ("synth-low",), "//Ferdie")
    assert (second.stake_threshold, second.allow, second.deny) == (0.0, ("5A",), ("5B",))
    assert (third.stake_threshold, third.allow, third.deny) == (7.0, ("5A",), ())
    assert settings.all_slots == ("synth-low", "itsai", "synth-high")
    serving = settings.paths.serving
    assert settings.neuron_files == {50: serving / "neurons.json", 32: serving / "neurons-32.json"}
