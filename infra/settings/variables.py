"""The environment: the settings file that it names, and variables that look like settings and are none."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

PREFIX = "HEADFRAME_"
CONFIG = "HEADFRAME_CONFIG"
"""Names the settings file."""
OF_THE_STACK = frozenset({"HEADFRAME_COMPONENT", "HEADFRAME_PYTHON"})
"""Set by the supervisor for the stack's own processes."""
_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
"""What Kubernetes tells every pod of a Service whose name begins with ``headframe``."""


def settings_file() -> Path:
    """The file that settings are read from."""
    return Path(os.environ.get(CONFIG, "headframe.toml"))


def misspelt(model: type[BaseModel], variables: Mapping[str, str]) -> dict[str, str | None]:
    """Variables that begin like a setting and name none of `model`, each with the nearest right name, if any is near.

    Names are taken in any case, and empty variables for unset, as the settings are. A wrong name inside a table is
    left to the table, which refuses it.
    """
    tables = {PREFIX + name.upper() for name, field in model.model_fields.items() if _table(field.annotation)}
    known = {*_names(model, PREFIX), CONFIG, *OF_THE_STACK}
    found = {}
    for variable in sorted(variables):
        name, value = variable.upper(), variables[variable]
        if not name.startswith(PREFIX) or not value or name in known or name.partition("__")[0] in tables:
            continue
        if not _of_kubernetes(name, value):
            found[variable] = _nearest(name, known - OF_THE_STACK)
    return found


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """By what follows the prefix, which all have in common."""
    bare = sorted(each.removeprefix(PREFIX) for each in known)
    near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1)
    return PREFIX + near[0] if near else None


def _names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Every name, tables and what is in them."""
    for name, field in model.model_fields.items():
        yield prefix + name.upper()
        table = _table(field.annotation)
        if table is not None:
            yield from _names(table, f"{prefix}{name.upper()}__")


def _table(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _of_kubernetes(name: str, value: str) -> bool:
    return bool(_KUBERNETES.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)
