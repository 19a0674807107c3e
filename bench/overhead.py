"""What the gateway adds to a call of Triton: a small echo, and one Synth answer of 24 hours.

Run: ``.venv/bin/python -m bench.overhead [--rounds N] [--json FILE]``. A real tritonserver on CPU, a real gateway in
front of it, and one client that asks both, the server by gRPC, in turn, at the same steady rate: half of what the
gateway was found to take. Medians of five rounds or more; time counts from when a request was due. The direct call of
Synth ends with orjson's text of the paths, since an answer is of no use before that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
import orjson
import uvloop
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2_grpc

from bench.gateway import BODY, NUMBERS, START
from bench.load import drive, median, on_time, pace, sign_btauth
from bench.stand import Stand
from infra.releases import seal
from infra.settings import Settings
from infra.triton import throwaway
from serving.subnets.base import Tensors
from serving.triton import encode_request
from serving.types import ReleaseId
from triton_models.synth_paths.release import export, request_tensors
from triton_models.synth_paths.train import fit

ECHO = ReleaseId("echo-0123456789ab")
HERE = Path(__file__).resolve().parent
ROUND_S = 2.0
_CHANNEL = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]


class Case(NamedTuple):
    """One kind of call, through the gateway and without it."""

    name: str
    release: ReleaseId
    path: str
    body: bytes
    tensors: Tensors
    finish: Callable[[Any], Any]
    """What the direct caller still has to do with the response."""
    probe: int
    """Requests of the closed loop that finds the gateway's capacity."""
    target: float


class Measured(NamedTuple):
    """One round, in milliseconds."""

    gateway_p50: float
    direct_p50: float
    gateway_p99: float
    direct_p99: float

    @property
    def times(self) -> float:
        """How many times longer a call takes through the gateway, at the median."""
        return self.gateway_p50 / self.direct_p50


@contextlib.contextmanager
def triton(home: Path) -> Iterator[tuple[str, ReleaseId]]:
    """The address of a real tritonserver that holds the echo and a Gaussian Synth release, and the latter's id."""
    models = home / "models"
    export(fit("synth-low", "gaussian", {}), models / ".making")
    low = seal(models / ".making", slot="synth-low", family="synth_paths", data_digest="", rebuild={}).id
    (models / ECHO / "1").mkdir(parents=True)
    shutil.copyfile(HERE / "stand" / "triton_echo" / "config.pbtxt", models / ECHO / "config.pbtxt")
    shutil.copyfile(HERE / "stand" / "triton_echo" / "model.py", models / ECHO / "1" / "model.py")
    with throwaway(Settings().venv_triton, models, home / "triton") as server:
        for release in (ECHO, low):
            server.load(release)
        yield server.address, low


def cases(low: ReleaseId) -> list[Case]:
    """The echo and the Synth answer."""
    params = fit("synth-low", "gaussian", {})
    asked = {
        "asset": "BTC", "start_time": START, "time_increment": 300, "time_length": 86400, "num_simulations": 1000,
    }  # fmt: skip
    echo = Case(
        "echo, 16 floats", ECHO, "/Echo", BODY, {"X": np.array([NUMBERS])}, lambda response: response, 1000, 2.0
    )
    synth = Case(
        "Synth answer, 1000 x 289", low, "/Simulation", orjson.dumps({"simulation_input": asked}),
        request_tensors("synth-low", params.examples[0], 1), paths_text, 40, 1.2,
    )  # fmt: skip
    return [echo, synth]


def paths_text(response: Any) -> bytes:
    """The price paths of a response as JSON, by orjson."""
    names = [output.name for output in response.outputs]
    raw = response.raw_output_contents[names.index("PATHS")]
    paths = np.frombuffer(raw, np.float32).reshape(1000, -1).astype(np.float64)
    return orjson.dumps(np.round(paths, 3), option=orjson.OPT_SERIALIZE_NUMPY)


async def _direct(address: str, case: Case, count: int, per_s: float) -> list[float]:
    """Seconds of each direct call at a steady rate, made as a miner's own code would make it: by grpc.aio."""
    channel = grpc.aio.insecure_channel(address, options=_CHANNEL)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    took: list[float] = []

    async def call() -> None:
        began = time.perf_counter()
        request = encode_request(case.release, case.tensors, priority=1, timeout_s=10.0)
        case.finish(await stub.ModelInfer(request, timeout=10.0))
        took.append(time.perf_counter() - began)

    await call()
    took.clear()
    async with asyncio.TaskGroup() as running:
        await on_time(count, per_s, lambda _: running.create_task(call()))
    await channel.close()
    return took


def measure(case: Case, address: str, port: int, per_s: float) -> Measured:
    """One round of both ways; raises RuntimeError on a reply that is no answer."""
    count = max(20, int(ROUND_S * per_s))
    run = pace(port, sign_btauth(case.path, case.body, count), per_s)
    bad = [reply for reply in run.replies if reply.status != 200]
    if bad:
        raise RuntimeError(f"{case.name}: status {bad[0].status}, {bad[0].body[:200]!r}")
    direct = sorted(uvloop.run(_direct(address, case, count, per_s)))
    p50, p99 = (direct[min(count - 1, int(share * count))] for share in (0.5, 0.99))
    return Measured(run.took(0.5) * 1e3, p50 * 1e3, run.took(0.99) * 1e3, p99 * 1e3)


def capacity(case: Case, port: int) -> float:
    """Requests a second that the gateway takes in a closed loop of eight connections."""
    drive(port, sign_btauth(case.path, case.body, case.probe // 4), 8)
    return drive(port, sign_btauth(case.path, case.body, case.probe), 8).rate


def table(found: dict[str, tuple[Case, float, list[Measured]]]) -> Table:
    """Medians by case."""
    made = Table(box=None)
    for name in ("call", "req/s", "gateway p50 ms", "direct p50 ms", "times", "rounds", "target", "p99 ms, both"):
        made.add_column(name, no_wrap=True, justify="left" if name == "call" else "right")
    for name, (case, per_s, rounds) in found.items():
        times = [one.times for one in rounds]
        verdict = "met" if median(times) <= case.target else "NOT MET"
        made.add_row(
            name, f"{per_s:.0f}", f"{median(one.gateway_p50 for one in rounds):.2f}",
            f"{median(one.direct_p50 for one in rounds):.2f}", f"{median(times):.2f}",
            f"{min(times):.2f}-{max(times):.2f}", f"{case.target:g} {verdict}",
            f"{median(one.gateway_p99 for one in rounds):.1f}, {median(one.direct_p99 for one in rounds):.1f}",
        )  # fmt: skip
    return made


def main() -> int:
    """Measure and print; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description="What the gateway adds to a call.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every round to this file")
    options = parser.parse_args()
    began = time.monotonic()
    found: dict[str, tuple[Case, float, list[Measured]]] = {}
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="headframe-bench-"))
        address, low = stack.enter_context(triton(Path(home)))
        stand = stack.enter_context(Stand(workers=1, triton=address))
        stand.write_routes({"echo": ECHO, "synth-low": low}, generation=2)
        for case in cases(low):
            per_s = capacity(case, stand.port) / 2
            measured = [measure(case, address, stand.port, per_s) for _ in range(options.rounds)]
            found[case.name] = (case, per_s, measured)
    console = Console(width=max(120, Console().width))
    console.print(table(found))
    console.print(f"{options.rounds} rounds in {time.monotonic() - began:.0f} s")
    if options.json:
        rows = [
            {"call": name, "per_s": per_s, "rounds": [one._asdict() for one in rounds], "target": case.target}
            for name, (case, per_s, rounds) in found.items()
        ]
        options.json.write_bytes(orjson.dumps({"bench": "overhead", "rows": rows}, option=orjson.OPT_INDENT_2))
    missed = [name for name, (case, _, rounds) in found.items() if median(r.times for r in rounds) > case.target]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
