from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.stack.lock import stack_lock
from serving.errors import UserError

_HOLD = (
    "import sys, pathlib\nfrom infra.stack.lock import stack_lock\n"
    "with stack_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


def test_a_second_command_waits_says_so_and_gives_up_in_one_line(tmp_path: Path) -> None:
    told: list[str] = []
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdin=-1, stdout=-1)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="another 'headframe up' or 'down'"),
            stack_lock(tmp_path, wait_s=0.3, waiting=lambda: told.append("waiting")),
        ):
            pass
        assert told == ["waiting"]
    finally:
        holder.kill()  # the kernel frees the lock of a killed holder
        holder.communicate()
    with stack_lock(tmp_path, wait_s=1.0, waiting=lambda: told.append("again")):
        pass
    assert told == ["waiting"]


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyError), stack_lock(tmp_path):
        raise KeyError
    with stack_lock(tmp_path, wait_s=0.0):
        pass
