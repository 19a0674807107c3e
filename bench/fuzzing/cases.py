"""What is sent: good requests, and requests damaged in their bytes, their head, their body or their framing."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import orjson

from bench.fuzzing.bodies import BODIES, as_text, hashed_values, mutated, terminals
from bench.stand import Asker, Wire
from bench.stand.stand import MINER, VALIDATORS, hotkey

STRANGERS = ("//Mallory", "//Eve")
_BYTES = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"\xff",
    b"\xc3\xa9",
    b'"',
    b"{",
    b"0",
    b"%",
    b"_",
)
_VALUES = (
    b"", b" ", b"0", b"-1", b"1", b"nan", b"inf", b"1e9", b"99999999999999999999999", b"0x", b"0x00", b"None", b"null",
    b"\xe9", b"a" * 300, b"5" * 5000, b"5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQ", b"ed25519", b"2", b"+1",
    b"1_0",
)  # fmt: skip
_NAMES = (
    b"X-Bittensor-Signature", b"bt_header_dendrite_signature", b"Epistula-Request-Signature", b"Body-Signature",
    b"X-Bittensor-Crypto", b"timeout", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Expect",
    b"Upgrade", b"Connection", b"X-Forwarded-For", b"Content-Type", b"bt_header_axon_status_code", b"name", b"Host",
)  # fmt: skip
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"host"})
_TARGETS = (
    b"/", b"/echo", b"/Echo/", b"//Echo", b"/%45cho", b"/Echo?x=1", b"/Echo#x", b"*", b"http://x/Echo", b"/docs",
    b"/shield_manifest.json", b"/Echo/../Echo", b"/" + b"a" * 3000, b"/\xc3\xa9", b"/Synapse", b"/TextSynapse",
)  # fmt: skip
_METHODS = (b"GET", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"post", b"TRACE", b"PRI", b"CONNECT")
_KEPT = 256


class Case(NamedTuple):
    """One thing to send over one connection."""

    kind: str
    pieces: tuple[bytes, ...]
    wires: tuple[Wire, ...] = ()
    """The requests in it, when their framing is whole: each must be answered. Empty when nobody can know."""
    good: bool = False
    """Every one must be answered 200."""
    hang_up: bool = False
    """Close without waiting for an answer."""


class Maker:
    """Makes cases; the same seed makes the same ones, but for nonces and signatures, which are of the moment."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        miner = hotkey(MINER)
        self._welcome = [Asker(uri, miner) for uri in VALIDATORS]
        self._all = self._welcome + [Asker(uri, miner) for uri in STRANGERS]
        self._all.append(Asker("//Alice", hotkey("//Eve")))  # signed for somebody else
        self._answered: deque[Wire] = deque(maxlen=_KEPT)
        self._kinds: dict[Callable[[], Case], int] = {
            self._good: 14, self._bytes: 22, self._head: 20, self._body: 24, self._mixed: 3, self._chunked: 6,
            self._pipelined: 4, self._cut: 5, self._replayed: 2,
        }  # fmt: skip

    def cases(self) -> Iterator[Case]:
        """Without an end."""
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while True:
            for kind in self._rng.choices(kinds, weights, k=100):
                yield kind()

    def answered(self, wire: Wire) -> None:
        """Tell of a request that got a 200: it may be sent again."""
        self._answered.append(wire)

    def _wire(self, synapse: str | None = None) -> Wire:
        """A good request of a welcome validator."""
        rng = self._rng
        synapse = synapse or rng.choices(list(BODIES), (8, 4, 1, 1, 1))[0]
        fields, asker = BODIES[synapse](rng), rng.choice(self._welcome)
        if rng.random() < 0.5:
            return asker.legacy(synapse, orjson.dumps(terminals(synapse, fields)), hashed_values(synapse, fields))
        return asker.btauth(f"/{synapse}", orjson.dumps(fields))

    def _good(self) -> Case:
        wire = self._wire(self._rng.choice(("Echo", "Echo", "Echo", "Synapse")))
        return Case("good", (wire.raw(),), (wire,), good=True)

    def _replayed(self) -> Case:
        if not self._answered:
            return self._good()
        wire = self._rng.choice(self._answered)
        if self._rng.random() < 0.5:
            wire = wire._replace(headers=tuple(h for h in wire.headers if h[0] != b"timeout"))
        return Case("replayed", (wire.raw(),), (wire,))

    def _bytes(self) -> Case:
        """A good request with a few of its bytes changed, and sent in two pieces now and then."""
        rng, data = self._rng, bytearray(self._wire().raw())
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            at, how = rng.randrange(len(data)), rng.randrange(6)
            if how == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                data[at:at] = rng.choice(_BYTES)
            elif how == 2:
                del data[at : at + rng.choice((1, 1, 4, 40))]
            elif how == 3:
                data[at : at + 1] = rng.choice(_BYTES)
            elif how == 4:
                data[at:at] = data[at : at + rng.choice((1, 20, 200))]
            else:
                data[at] = rng.randrange(256)
        cut = rng.randrange(len(data)) if rng.random() < 0.2 else len(data)
        return Case("bytes", (bytes(data[:cut]), bytes(data[cut:])))

    def _head(self) -> Case:
        wire = self._wire()
        for _ in range(self._rng.choice((1, 1, 2, 5))):
            wire = self._changed_head(wire)
        return self._framed("head", wire)

    def _changed_head(self, wire: Wire) -> Wire:
        rng, headers = self._rng, list(wire.headers)
        at = rng.randrange(len(headers))
        name, value = headers[at]
        how = rng.randrange(12)
        if how == 0:
            del headers[at]
        elif how == 1:
            headers.insert(rng.randrange(len(headers)), headers[at])
        elif how == 2:
            headers.insert(at, (name.swapcase(), rng.choice((value, rng.choice(_VALUES)))))
        elif how == 3:
            headers[at] = (name.replace(b"_", b"-"), value)
        elif how == 4:
            headers[at] = (name, rng.choice(_VALUES))
        elif how == 5:
            headers[at] = (name, rng.choice(headers)[1])
        elif how == 6:
            headers.append((rng.choice(_NAMES), rng.choice(_VALUES)))
        elif how == 7:
            headers += [(b"X-%d" % number, b"1") for number in range(rng.choice((20, 99, 300)))]
        elif how == 8:
            headers.append((b"X-Long", b"a" * rng.choice((1000, 8000, 17_000, 66_000))))
        elif how == 9:
            rng.shuffle(headers)
        elif how == 10:
            return wire._replace(line=b"POST %b HTTP/1.1" % rng.choice(_TARGETS))
        else:
            return wire._replace(line=wire.line.replace(b"POST", rng.choice(_METHODS)))
        return wire._replace(headers=tuple(headers))

    def _framed(self, kind: str, wire: Wire) -> Case:
        """A case whose answer is certain only while its framing headers are those of a plain request."""
        framing = sorted(name.lower() for name, _ in wire.headers if name.lower() in _FRAMING)
        whole = framing == [b"content-length", b"host"] and (b"Content-Length", b"%d" % len(wire.body)) in wire.headers
        whole = whole and not wire.line.startswith((b"HEAD", b"CONNECT", b"PRI", b"post"))
        return Case(kind, (wire.raw(),), (wire,) if whole else ())

    def _body(self) -> Case:
        """A body damaged before it is signed, so that it gets past the signature."""
        rng = self._rng
        synapse = rng.choices(list(BODIES), (6, 8, 5, 6, 1))[0]
        fields, asker = BODIES[synapse](rng), rng.choice(self._all if rng.random() < 0.1 else self._welcome)
        for _ in range(rng.choice((1, 1, 2, 4))):
            fields = mutated(rng, fields)
            if not isinstance(fields, dict):
                break
        is_object = isinstance(fields, dict)
        if rng.random() < 0.5:
            body = as_text(rng, terminals(synapse, fields) if is_object else fields)
            wire = asker.legacy(synapse, body, hashed_values(synapse, fields) if is_object else [])
        else:
            plain = bytearray(as_text(rng, fields))
            if plain and rng.random() < 0.2:
                plain[rng.randrange(len(plain))] = rng.randrange(256)
            wire = asker.btauth(f"/{synapse}", bytes(plain))
        return Case("body", (wire.raw(),), (wire,))

    def _mixed(self) -> Case:
        """Headers of two dialects in one request."""
        one, other = self._wire(), self._wire()
        extra = tuple(h for h in other.headers if h[0].lower() not in _FRAMING and h not in one.headers)
        few = tuple(self._rng.sample(extra, self._rng.randrange(1, len(extra) + 1)))
        wire = one._replace(headers=one.headers + few)
        return Case("mixed", (wire.raw(),), (wire,))

    def _chunked(self) -> Case:
        """A body in chunks, cut anywhere, its framing damaged in half of the cases."""
        rng, wire = self._rng, self._wire("Echo")
        headers = [h for h in wire.headers if h[0] != b"Content-Length"] + [(b"Transfer-Encoding", b"chunked")]
        parts, rest = [], wire.body
        while rest:
            size = rng.randrange(1, len(rest) + 1)
            parts.append(b"%x\r\n%b\r\n" % (size, rest[:size]))
            rest = rest[size:]
        parts.append(b"0\r\n\r\n")
        if rng.random() < 0.5:
            framed = wire._replace(headers=tuple(headers), body=b"".join(parts))
            return Case("chunked", (framed.raw(),), (framed,), good=True)
        at = rng.randrange(len(parts))
        parts[at] = rng.choice((
            b"", b"\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5;ext=1\r\nabcde\r\n", b"0x5\r\nabcde\r\n",
            b"0\r\nX: y\r\n\r\n", parts[at][:-1], parts[at] * 2, parts[at].replace(b"\r\n", b"\n"),
            b"8000\r\n" + b"z" * 0x8000,
        ))  # fmt: skip
        return Case("chunked, broken", (wire._replace(headers=tuple(headers), body=b"".join(parts)).raw(),))

    def _pipelined(self) -> Case:
        """Several requests in one go, cut in two anywhere."""
        rng = self._rng
        wires = tuple(
            self._wire("Echo") if rng.random() < 0.7 else self._body().wires[0] for _ in range(rng.randrange(2, 7))
        )
        data = b"".join(wire.raw() for wire in wires)
        cut = rng.randrange(len(data))
        return Case("pipelined", (data[:cut], data[cut:]), wires)

    def _cut(self) -> Case:
        """A request that ends too early, or a caller who does not wait."""
        rng, data = self._rng, self._wire().raw()
        keep = len(data) if rng.random() < 0.4 else rng.randrange(1, len(data))
        return Case("cut", (data[:keep],), hang_up=True)
