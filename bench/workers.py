"""One gateway worker against two: CPU time of a request, and requests a second.

Run: ``.venv/bin/python -m bench.workers [--rounds N] [--json FILE]``. Both gateways run at once and are asked in turn,
the model inside the workers; every request is signed beforehand and used once. CPU time is compared with each worker as
busy as the one, and at full load. It is shown at one rate for both too: there each of the two sleeps twice as much, and
whoever is woken for every single request pays for that, not for the other worker. Full load comes from wrk where it is
installed, since a client in Python takes the core that the second worker would need.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from bench.gateway import templates
from bench.load import Template, cpu_s, drive, median, pace
from bench.stand import Stand

CONNECTIONS = 32
STEADY = 1000
"""Requests a second."""
SECONDS = 2
REQUESTS = 12_000 * SECONDS
"""More than can be answered in the time."""
TARGET = 1.1
SCRIPT = Path(__file__).resolve().parent / "presigned.lua"
WRK = shutil.which("wrk")


class Measured(NamedTuple):
    """One round of one gateway."""

    cpu_ms: float
    """Per request at the steady rate for each worker, over the whole process tree."""
    same_cpu_ms: float
    """The same at the steady rate for all workers together."""
    full_cpu_ms: float
    """The same at full load."""
    per_s: float
    """Requests a second at full load."""


def by_wrk(port: int, requests: list[bytes]) -> tuple[int, float]:
    """Requests answered and requests a second, by wrk; raises RuntimeError when some were refused."""
    with tempfile.NamedTemporaryFile(prefix="headframe-presigned-") as file:
        file.writelines(b"%d\n%b" % (len(request), request) for request in requests)
        file.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{SECONDS}s",
            "-s",
            str(SCRIPT),
            f"http://127.0.0.1:{port}",
            "--",
        ]
        told = subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout
    answered = re.search(r"(\d+) requests in", told)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    if answered is None or rate is None or "Socket errors" in told:
        raise RuntimeError(f"wrk did not end well:\n{told}")
    if refused is not None:
        raise RuntimeError(f"{refused[1]} requests were refused")
    return int(answered[1]), float(rate[1])


def by_python(port: int, requests: list[bytes]) -> tuple[int, float]:
    """The same by our own client, and a fourth of the requests."""
    run = drive(port, requests[: len(requests) // 4], CONNECTIONS)
    refused = sum(reply.status != 200 for reply in run.replies)
    if refused:
        raise RuntimeError(f"{refused} requests were refused")
    return len(run.replies), run.rate


def measure(stand: Stand, workers: int, echo: Template) -> Measured:
    """One round; raises RuntimeError when a request was refused."""
    each = _steady(stand, echo, STEADY * workers)
    together = each if workers == 1 else _steady(stand, echo, STEADY)
    full = echo.sign(REQUESTS)
    before = cpu_s(stand.pid)
    answered, rate = (by_wrk if WRK else by_python)(stand.port, full)
    return Measured(each, together, (cpu_s(stand.pid) - before) * 1e3 / answered, rate)


def _steady(stand: Stand, echo: Template, per_s: int) -> float:
    """Milliseconds of CPU time of a request at this rate."""
    requests = echo.sign(per_s * SECONDS)
    before = cpu_s(stand.pid)
    run = pace(stand.port, requests, per_s, CONNECTIONS)
    spent = cpu_s(stand.pid) - before
    if any(reply.status != 200 for reply in run.replies):
        raise RuntimeError("a request at the steady rate was refused")
    return spent * 1e3 / len(requests)


def times(found: dict[int, list[Measured]], what: str) -> list[float]:
    """How two workers compare with one, round by round."""
    return [float(getattr(two, what) / getattr(one, what)) for one, two in zip(found[1], found[2], strict=True)]


def main() -> int:
    """Measure and print; 1 when two workers cost more than the target."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description="One gateway worker against two.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every round to this file")
    options = parser.parse_args()
    began = time.monotonic()
    echo, _ = templates()
    found: dict[int, list[Measured]] = {1: [], 2: []}
    with ExitStack() as stack:
        stands = {
            workers: stack.enter_context(Stand(workers=workers, triton="none:1", runner="bench.stand.inside"))
            for workers in found
        }
        for stand in stands.values():
            drive(stand.port, echo.sign(500), CONNECTIONS)
        for _ in range(options.rounds):
            for workers, stand in stands.items():
                found[workers].append(measure(stand, workers, echo))
    heads = (f"CPU ms at {STEADY}/s a worker", f"at {STEADY}/s together", "at full load", "req/s at full load")
    table = Table("workers", *heads, box=None)
    for workers, rounds in found.items():
        cpu, same, full, per_s = (median(getattr(one, name) for one in rounds) for name in Measured._fields)
        table.add_row(str(workers), f"{cpu:.3f}", f"{same:.3f}", f"{full:.3f}", f"{per_s:.0f}")
    missed = max(median(times(found, name)) for name in ("cpu_ms", "full_cpu_ms")) > TARGET
    table.add_row("2 / 1", *(f"{median(times(found, name)):.2f}" for name in Measured._fields), style="bold")
    ranges = (times(found, name) for name in Measured._fields)
    table.add_row("rounds", *(f"{min(each):.2f}-{max(each):.2f}" for each in ranges))
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(f"target {TARGET}, each worker as busy as the one and at full load: {'NOT MET' if missed else 'met'}")
    client = "wrk" if WRK else "a client in Python (wrk is not installed: req/s is the client's limit too)"
    console.print(
        f"{options.rounds} rounds in {time.monotonic() - began:.0f} s; legacy, {CONNECTIONS} connections, {client}"
    )
    if options.json:
        rows = [{"workers": workers, "rounds": [one._asdict() for one in rounds]} for workers, rounds in found.items()]
        report = {"bench": "workers", "client": "wrk" if WRK else "python", "rows": rows, "target": TARGET}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
