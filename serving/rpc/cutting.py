"""Cut a stream of bytes, however it was split on its way, into units whose first bytes tell their length."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Bytes = bytes | memoryview


class Cutter:
    """Collects pieces and gives each unit once it is whole; a unit in one piece is never copied."""

    __slots__ = ("_header", "_length", "_need", "_pieces", "held")

    def __init__(self, header: int, length: Callable[[memoryview], int]) -> None:
        """`header`: how many bytes tell a length; `length`: what they say of the bytes that follow, or its refusal."""
        self._header, self._length = header, length
        self._pieces: list[Bytes] = []
        self._need = header
        self.held = 0
        """Bytes of a unit that is not whole yet."""

    def feed(self, piece: Bytes) -> Iterator[memoryview]:
        """The units that `piece` completes, headers included; raises what `length` raises, after the units before."""
        self._pieces.append(piece)
        self.held += len(piece)
        if self.held < self._need:
            return
        data = memoryview(piece if len(self._pieces) == 1 else b"".join(self._pieces))
        at, end = 0, self.held
        self._need = self._header
        while end - at >= self._header:
            whole = self._header + self._length(data[at : at + self._header])
            if end - at < whole:
                self._need = whole
                break
            yield data[at : at + whole]
            at += whole
        self._pieces = [data[at:]] if at < end else []
        self.held = end - at
