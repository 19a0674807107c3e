"""A server on loopback that answers in the shapes of Pyth's Hermes and benchmarks services, trouble included."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class PythWorld:
    """What the server knows, and what goes wrong next."""

    url: str = ""
    feeds: dict[str, str] = field(default_factory=dict)
    """Symbol to feed id."""
    updates: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Feed id to Hermes' price object."""
    forbidden: set[str] = field(default_factory=set)
    """Feed ids that the key may not read."""
    candles: dict[tuple[str, str], dict[int, tuple[float, float, float, float]]] = field(default_factory=dict)
    """(symbol, resolution) to opening time to open, high, low, close."""
    trouble: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Answers (status, headers, body) given before any good one."""
    errmsg: str = ""
    key: str = ""
    """The bearer token that is asked for, when not empty."""
    requests: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def price(self, symbol: str, mantissa: int, expo: int, at: int, conf: int = 1) -> None:
        """Publish a price of a symbol."""
        feed = self.feeds.setdefault(symbol, f"{len(self.feeds) + 1:064x}")
        self.updates[feed] = {"price": str(mantissa), "conf": str(conf), "expo": expo, "publish_time": at}


@contextmanager
def pyth_server() -> Iterator[PythWorld]:
    """A running server; its `url` stands for both services."""
    world = PythWorld()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            world.requests.append((parts.path, query))
            if world.trouble:
                self._answer(*world.trouble.pop(0))
            elif world.key and self.headers.get("Authorization") != f"Bearer {world.key}":
                self._answer(401, {}, b"Unauthorized")
            else:
                status, body = _answer(world, parts.path, query)
                self._answer(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    world.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(world: PythWorld, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
    if path == "/v2/price_feeds":
        return 200, [{"id": i, "attributes": {"asset_type": "Crypto", "symbol": s}} for s, i in world.feeds.items()]
    if path == "/v2/updates/price/latest":
        return _latest(world, query)
    if path == "/v1/shims/tradingview/history":
        return _history(world, query)
    return 404, b""


def _latest(world: PythWorld, query: dict[str, list[str]]) -> tuple[int, Any]:
    asked = query.get("ids[]", [])
    if not asked:
        return 400, b"Failed to deserialize query string: missing field `ids`"
    if world.forbidden.intersection(asked):
        return 403, b"not entitled"
    known = [feed for feed in asked if feed in world.updates]
    if len(known) < len(asked) and query.get("ignore_invalid_price_ids") != ["true"]:
        return 404, f"Price ids not found: 0x{asked[0]}".encode()
    parsed = [
        {
            "id": feed,
            "price": world.updates[feed],
            "ema_price": world.updates[feed],
            "metadata": {"slot": 1, "proof_available_time": 1, "prev_publish_time": 1},
        }
        for feed in known
    ]
    return 200, {"binary": {"encoding": "hex", "data": ["504e4155"]}, "parsed": parsed}


def _history(world: PythWorld, query: dict[str, list[str]]) -> tuple[int, Any]:
    if world.errmsg:
        return 200, {"s": "error", "errmsg": world.errmsg}
    known = world.candles.get((query["symbol"][0], query["resolution"][0]), {})
    first, last = int(query["from"][0]), int(query["to"][0])
    times = [at for at in sorted(known) if first <= at <= last]
    if not times:
        return 200, {"s": "no_data", "t": [], "o": [], "h": [], "l": [], "c": [], "v": []}
    columns = {name: [known[at][index] for at in times] for index, name in enumerate("ohlc")}
    return 200, {"s": "ok", "t": times, **columns, "v": [0.0] * len(times)}
