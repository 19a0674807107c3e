"""What the supervisor runs for each part: tidy up after the last one, send output to its log, become the program.

The program writes its log file itself, not through the supervisor, so that it answers on when the supervisor
is killed. Arguments and environment come from ``run/parts/<name>.json``, where no quoting can garble them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from infra.stack.processes import HOME, markers, stop_marked


def environment(base: dict[str, str], home: Path, name: str, extra: dict[str, str]) -> dict[str, str]:
    """The part's environment: the caller's without stray settings, then `extra`, then the markers."""
    kept = {key: value for key, value in base.items() if not key.startswith(("HEADFRAME_", "SUPERVISOR_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # else MLflow and Prefect compile themselves at every start
    return kept | {"PYTHONUNBUFFERED": "1"} | extra | markers(home, name)


def main(argv: list[str]) -> None:
    """``launch NAME``, with the home in the environment: never returns."""
    home, name = Path(os.environ[HOME]), argv[0]
    spec = json.loads((home / "run" / "parts" / f"{name}.json").read_text())
    log = os.open(home / "log" / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if spec["sweep"]:  # children of a killed predecessor may still hold its port
        stop_marked(home, {name})
    if spec["cwd"]:
        os.chdir(spec["cwd"])
    os.execvpe(spec["argv"][0], spec["argv"], environment(dict(os.environ), home, name, spec["env"]))


if __name__ == "__main__":
    main(sys.argv[1:])
