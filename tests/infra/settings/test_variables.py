"""Which variables are settings, which are somebody else's, and which are mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from infra.effective import effective
from infra.settings import Settings
from infra.settings.variables import misspelt


def found(*names: str, value: str = "1") -> dict[str, str | None]:
    return misspelt(Settings, dict.fromkeys(names, value))


def test_every_setting_is_known_in_either_case(tmp_path: Path) -> None:
    names = ["HEADFRAME_" + row.name.replace(".", "__").upper() for row in effective(Settings(home=tmp_path))]
    names += [f"HEADFRAME_{field.upper()}" for field in Settings.model_fields]
    assert len(names) > 60
    assert found(*names, *(name.lower() for name in names)) == {}


def test_tables_in_tables_and_keys_of_a_callers_own() -> None:
    assert found("HEADFRAME_GATEWAY__SCHEMES__5F", "HEADFRAME_PORTS") == {}


def test_only_our_own_prefix_is_judged() -> None:
    assert found("HOME", "HEADFRAMES", "MY_HEADFRAME_NETUDI", "PREFECT_API_URL") == {}


def test_what_the_stack_sets_is_known_and_never_proposed() -> None:
    assert found("HEADFRAME_COMPONENT", "HEADFRAME_PYTHON", "HEADFRAME_CONFIG", "HEADFRAME_HOME") == {}
    assert found("HEADFRAME_COMPONENTS")["HEADFRAME_COMPONENTS"] != "HEADFRAME_COMPONENT"


def test_an_empty_variable_is_unset() -> None:
    assert found("HEADFRAME_NETUDI", value="") == {}


def test_two_underscores_after_what_is_no_table() -> None:
    assert found("HEADFRAME_NETUID__X", "HEADFRAME_MINERS__0__NETUID").keys() == {
        "HEADFRAME_NETUID__X", "HEADFRAME_MINERS__0__NETUID",
    }  # fmt: skip


@pytest.mark.parametrize("service", ["HEADFRAME", "HEADFRAME_GATEWAY"])
def test_what_kubernetes_says_of_a_service_is_let_be(service: str) -> None:
    port = f"{service}_PORT_8091_TCP"
    told = (f"{service}_SERVICE_HOST", f"{service}_SERVICE_PORT", f"{service}_SERVICE_PORT_HTTP", port, f"{port}_ADDR")
    assert found(*told) == {}
    assert found(f"{service}_PORT", value="tcp://10.0.0.1:8091") == {}
    assert found(f"{service}_PORT", value="8091")  # a person's mistake


def test_nothing_near_is_said_to_be_so() -> None:
    class Small(BaseModel):
        netuid: int = 1

    assert misspelt(Small, {"HEADFRAME_ZZZZZZZZZZZZ": "1"}) == {"HEADFRAME_ZZZZZZZZZZZZ": None}
