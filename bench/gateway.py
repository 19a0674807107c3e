"""CPU time of one request: ours against the stock Axon of bittensor 10.5.0 and taowire 0.1.0a2.

Run: ``.venv/bin/python -m bench.gateway [--rounds N] [--json FILE]``. Each server answers the same presigned requests,
16 floats in and 16 out, by a handler that hands them back; a last pair of rows has one Synth answer of 1000 paths.
CPU time is that of a server's whole process tree; rounds are interleaved; every reply is checked. The client's own
cost takes no part in the CPU figures, but it does in the wall-clock ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from bench.load import Run, Template, cpu_s, drive, median, sign_btauth
from bench.rivals import ROOT, python_of
from bench.stand import Stand

CONNECTIONS = (1, 8, 32)
NUMBERS = [n + 0.5 for n in range(16)]
BODY = orjson.dumps({"x": NUMBERS})
START = (datetime.now(UTC) + timedelta(hours=1)).replace(second=0, microsecond=0).isoformat()
WARM = 100
AXON = ROOT / "bench" / "servers" / "stock_axon.py"
TAOWIRE = ROOT / "bench" / "servers" / "taowire_miner.py"


class Server(NamedTuple):
    """A server that runs."""

    port: int
    pid: int


class Cell(NamedTuple):
    """One server, asked one thing, over so many connections."""

    server: str
    dialect: str
    """``legacy``, ``btauth``, or ``Synth answer``."""
    connections: int
    requests: int

    @property
    def case(self) -> tuple[str, int]:
        """What is asked and how: what cells of several servers have in common."""
        return self.dialect, self.connections


class Measured(NamedTuple):
    """One round of a cell."""

    cpu_ms: float
    """Per request."""
    per_s: float
    p50_ms: float
    p99_ms: float


CELLS = [
    Cell(server, dialect, connections, requests * (3 if connections == 1 else 1))  # CPU time is told by 10 ms
    for connections in CONNECTIONS
    for server, dialect, requests in (
        ("headframe", "legacy", 1500), ("stock Axon", "legacy", 160), ("taowire", "legacy", 500),
        ("headframe", "btauth", 1500), ("taowire", "btauth", 600),
    )
] + [Cell("headframe", "Synth answer", 1, 20), Cell("stock Axon", "Synth answer", 1, 2)]  # fmt: skip
TARGETS = {
    ("stock Axon", "legacy"): 14.0, ("taowire", "legacy"): 3.0, ("taowire", "btauth"): 2.8,
    ("stock Axon", "Synth answer"): 15.0,
}  # fmt: skip


@contextlib.contextmanager
def rival(name: str, script: Path, ports: int) -> Iterator[Server]:
    """A rival's server in the interpreter of its own environment."""
    given = _free_ports(ports)
    command = [str(python_of(name)), "-W", "ignore", str(script), *map(str, given)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not _listens(given[0]):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server of {name} did not start")
            time.sleep(0.1)
        yield Server(given[0], process.pid)
    finally:
        process.kill()
        process.wait()


def templates() -> tuple[Template, Template]:
    """What the stock Dendrite sends for 16 floats, and for a Synth prompt."""
    command = [str(python_of("axon")), str(AXON), "--templates"]
    made = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    echo, simulation = made["Echo"], made["Simulation"]
    body = simulation["body"].replace("2026-01-01T00:00:00+00:00", START)
    return Template("Echo", **echo), Template("Simulation", simulation["headers"], body)


def right(dialect: str, body: bytes) -> bool:
    """Whether a reply holds what was asked for."""
    found = orjson.loads(body)
    if dialect == "Synth answer":
        paths = found["simulation_output"][2:]
        return len(paths) == 1000 and all(len(path) == 289 for path in paths)
    return bool(found["y"] == NUMBERS)


def measure(cell: Cell, server: Server, sign: Callable[[int], list[bytes]]) -> Measured:
    """One round of a cell; raises RuntimeError on a reply that is not right."""
    requests = sign(cell.requests)
    before = cpu_s(server.pid)
    run = drive(server.port, requests, cell.connections)
    spent = cpu_s(server.pid) - before
    check(cell, run)
    return Measured(spent * 1e3 / cell.requests, run.rate, run.took(0.5) * 1e3, run.took(0.99) * 1e3)


def check(cell: Cell, run: Run) -> None:
    """Every request was answered, and rightly."""
    for reply in run.replies:
        if reply.status != 200 or not right(cell.dialect, reply.body):
            raise RuntimeError(f"{cell.server}, {cell.dialect}: status {reply.status}, {reply.body[:200]!r}")
    if len(run.replies) != cell.requests:
        raise RuntimeError(f"{cell.server}, {cell.dialect}: {len(run.replies)} replies to {cell.requests} requests")


Rounds = dict[Cell, list[Measured]]


def rounds(count: int, *, only: str | None = None) -> Rounds:
    """Every cell `count` times, in turn, after a warm-up."""
    echo, simulation = templates()
    sign: dict[str, Callable[[int], list[bytes]]] = {
        "legacy": echo.sign, "btauth": lambda n: sign_btauth("/Echo", BODY, n), "Synth answer": simulation.sign,
    }  # fmt: skip
    cells = [cell for cell in CELLS if only in (None, cell.server)]
    found: Rounds = {cell: [] for cell in cells}
    with contextlib.ExitStack() as stack:
        stand = stack.enter_context(Stand(workers=1, triton="none:1", runner="bench.stand.inside"))
        servers = {"headframe": Server(stand.port, stand.pid)}
        if only is None:
            servers["stock Axon"] = stack.enter_context(rival("axon", AXON, 1))
            servers["taowire"] = stack.enter_context(rival("taowire", TAOWIRE, 2))
        for cell in cells:
            warm = cell._replace(requests=min(WARM, cell.requests))
            measure(warm, servers[cell.server], sign[cell.dialect])
        for _ in range(count):
            for cell in cells:
                found[cell].append(measure(cell, servers[cell.server], sign[cell.dialect]))
    return found


def ratios(found: Rounds, cell: Cell) -> list[float]:
    """How many times less CPU ours took, round by round; empty for our own cell."""
    if cell.server == "headframe":
        return []
    ours = next(own for own in found if own.server == "headframe" and own.case == cell.case)
    return [theirs.cpu_ms / mine.cpu_ms for theirs, mine in zip(found[cell], found[ours], strict=True)]


def table(found: Rounds) -> Table:
    """Medians by cell, each rival's ratio beside its target."""
    made = Table(box=None, header_style="bold")
    for name in ("asked", "conns", "server"):
        made.add_column(name, no_wrap=True)
    for name in ("CPU ms", "times ours", "rounds", "target", "req/s", "p50 ms", "p99 ms"):
        made.add_column(name, no_wrap=True, justify="right")
    for cell in sorted(found, key=lambda cell: (cell.dialect, cell.connections)):
        cpu, per_s, p50, p99 = (median(getattr(one, name) for one in found[cell]) for name in Measured._fields)
        made.add_row(
            cell.dialect, str(cell.connections), cell.server, f"{cpu:.3f}", *_against(found, cell), f"{per_s:.0f}",
            f"{p50:.2f}", f"{p99:.2f}",
        )  # fmt: skip
    return made


def _against(found: Rounds, cell: Cell) -> tuple[str, str, str]:
    """How a rival compares: the median ratio, its range, and the target."""
    times, target = ratios(found, cell), TARGETS.get((cell.server, cell.dialect))
    if not times or target is None:
        return "", "", ""
    verdict = "met" if median(times) >= target else "NOT MET"
    return f"{median(times):.2f}", f"{min(times):.1f}-{max(times):.1f}", f"{target:g} {verdict}"


def as_json(found: Rounds) -> bytes:
    """Every round of every cell."""
    rows = [
        {**cell._asdict(), "rounds": [one._asdict() for one in found[cell]], "times_ours": ratios(found, cell),
         "target": TARGETS.get((cell.server, cell.dialect))}
        for cell in found
    ]  # fmt: skip
    return orjson.dumps({"bench": "gateway", "rows": rows}, option=orjson.OPT_INDENT_2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    """Measure and print; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description="CPU time of one request.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every round to this file")
    parser.add_argument("--alone", action="store_true", help="measure headframe alone")
    options = parser.parse_args()
    began = time.monotonic()
    found = rounds(options.rounds, only="headframe" if options.alone else None)
    console = Console(width=max(110, Console().width))
    console.print(table(found))
    console.print(f"{options.rounds} rounds in {time.monotonic() - began:.0f} s; CPU of the process tree, medians")
    if options.json:
        options.json.write_bytes(as_json(found))
    missed = [cell for cell in found if ratios(found, cell) and median(ratios(found, cell)) < TARGETS[cell[:2]]]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
