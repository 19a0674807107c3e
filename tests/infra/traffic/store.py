"""An object store in memory for tests that count its calls: only what the traffic record uses."""

from __future__ import annotations

from infra.objects import ObjectMissing, ObjectStore, ObjectStoreError
from tests.dying import step


class MemoryStore(ObjectStore):
    """Create-once puts as S3 has them. Each call is one that a process may die before.

    Args:
        fails: Number of the call that fails, from 0; None for none.
        late: Let that call do its work first, and lose only its reply.
    """

    def __init__(self, *, fails: int | None = None, late: bool = False) -> None:
        super().__init__("http://memory", "headframe", "", "", "")
        self.objects: dict[str, bytes] = {}
        self.calls = 0
        self.puts: list[str] = []
        """Keys that were really written, in order."""
        self.fails, self.late = fails, late

    def _call(self, *, done: bool) -> None:
        """Before the work and after it."""
        if not done:
            step()
            self.calls += 1
        if self.fails == self.calls - 1 and done == self.late:
            raise ObjectStoreError("the object store does not answer")

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool:
        self._call(done=False)
        made = not (only_if_absent and key in self.objects)
        if made:
            self.objects[key] = data
            self.puts.append(key)
        self._call(done=True)
        return made

    def get(self, key: str) -> bytes:
        self._call(done=False)
        if key not in self.objects:
            raise ObjectMissing(f"no object {key}")
        self._call(done=True)
        return self.objects[key]

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
