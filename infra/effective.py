"""The settings in force, each with the place it came from."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.settings import Settings, settings_file

_SECRET = frozenset({"s3.secret_key", "prices.pyth_api_key"})
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


class Setting(NamedTuple):
    """One setting: its name in ``headframe.toml``, its value (secrets masked), and who set it."""

    name: str
    value: Any
    source: str
    """An environment variable, the settings file, or ``default``."""


def effective(settings: Settings) -> list[Setting]:
    """Every setting in force."""
    file = settings_file()
    said = tomllib.loads(file.read_text()) if file.is_file() else {}
    variables = {name.upper(): name for name, value in os.environ.items() if value}
    return [
        Setting(name, _masked(name, value), _source(name, variables, said, file))
        for name, value in _leaves(_said(settings))
    ]


def _said(settings: Settings) -> dict[str, Any]:
    """The settings as JSON has them; of a further miner, only what it says itself."""
    miners = [miner.model_dump(mode="json", exclude_none=True) for miner in settings.miners]
    return settings.model_dump(mode="json") | {"miners": miners}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _masked(name: str, value: Any) -> Any:
    if name in _SECRET:
        return "****" if value else ""
    return _PASSWORD.sub(r"\1:****@", value) if isinstance(value, str) else value


def _source(name: str, variables: Mapping[str, str], said: Mapping[str, Any], file: Path) -> str:
    steps = name.split(".")
    for depth in range(len(steps), 0, -1):  # HEADFRAME_PORTS__GATEWAY, or HEADFRAME_PORTS as JSON
        variable = "HEADFRAME_" + "__".join(steps[:depth]).upper()
        if variable in variables:
            return variables[variable]
    found: Any = said
    for step in steps:
        if not isinstance(found, dict) or step not in found:
            return "default"
        found = found[step]
    return str(file)
