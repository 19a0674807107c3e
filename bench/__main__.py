"""Every benchmark, one after the other: ``.venv/bin/python -m bench [NAME ...]``."""

from __future__ import annotations

import subprocess
import sys
import time

ALL = {
    "gateway": "CPU time of a request, against the stock Axon and taowire",
    "overhead": "what the gateway adds to a call of Triton",
    "workers": "two workers against one",
    "encode": "bytes of one Synth answer, against json and orjson",
    "crps": "the gate's score, against properscoring",
    "flood": "valid callers in a flood of junk",
    "siege": "the same attacks on the whole stack, while the twin asks",
}


def main() -> int:
    """Run them; 1 when one of them missed a target or failed, 2 for a name that is none of them."""
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"no benchmark is called {unknown[0]!r}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    began, bad = time.monotonic(), []
    for name in names:
        print(f"\n== {name}: {ALL[name]}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode:
            bad.append(name)
    print(f"\n{len(names)} benchmarks in {time.monotonic() - began:.0f} s", end="")
    print(f"; a target was missed by {', '.join(bad)}" if bad else "; every target was met")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
