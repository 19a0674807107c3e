"""One gateway worker against two: CPU time of a request, and requests a second.

Run: ``.venv/bin/python -m bench.workers [--rounds N] [--json FILE]``. Both gateways run at once and are asked in turn,
the model inside the workers; every request is signed beforehand and used once. Where wrk is installed it is the
client, since a client in Python takes the core that the second worker would need.
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
from bench.load import cpu_s, drive, median
from bench.stand import Stand

CONNECTIONS = 32
SECONDS = 2
REQUESTS = 12_000 * SECONDS
"""More than can be answered in the time."""
TARGET = 1.1
SCRIPT = Path(__file__).resolve().parent / "presigned.lua"
WRK = shutil.which("wrk")


class Measured(NamedTuple):
    """One round of one gateway."""

    cpu_ms: float
    """Per request, over the whole process tree."""
    per_s: float


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


def measure(stand: Stand, requests: list[bytes]) -> Measured:
    """One round."""
    before = cpu_s(stand.pid)
    answered, rate = (by_wrk if WRK else by_python)(stand.port, requests)
    return Measured((cpu_s(stand.pid) - before) * 1e3 / answered, rate)


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
                found[workers].append(measure(stand, echo.sign(REQUESTS)))
    times = [two.cpu_ms / one.cpu_ms for one, two in zip(found[1], found[2], strict=True)]
    faster = [two.per_s / one.per_s for one, two in zip(found[1], found[2], strict=True)]
    table = Table("workers", "CPU ms a request", "req/s", box=None)
    for workers, rounds in found.items():
        cpu, per_s = median(one.cpu_ms for one in rounds), median(one.per_s for one in rounds)
        table.add_row(str(workers), f"{cpu:.3f}", f"{per_s:.0f}")
    verdict = "met" if median(times) <= TARGET else "NOT MET"
    table.add_row(
        "2 / 1", f"{median(times):.2f} ({min(times):.2f}-{max(times):.2f}), target {TARGET} {verdict}",
        f"{median(faster):.2f}", style="bold",
    )  # fmt: skip
    console = Console(width=max(100, Console().width))
    console.print(table)
    client = "wrk" if WRK else "a client in Python (wrk is not installed: req/s is the client's limit too)"
    console.print(
        f"{options.rounds} rounds in {time.monotonic() - began:.0f} s; legacy, {CONNECTIONS} connections, {client}"
    )
    if options.json:
        rows = [{"workers": workers, "rounds": [one._asdict() for one in rounds]} for workers, rounds in found.items()]
        report = {"bench": "workers", "client": "wrk" if WRK else "python", "rows": rows, "target": TARGET}
        options.json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return 0 if median(times) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
