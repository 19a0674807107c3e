"""What `up` writes below ``<home>/run`` before it starts the supervisor."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.settings import Settings
from infra.stack.parts import Part, Plan
from serving.errors import UserError
from serving.public.listening import BACKLOG

SOCKET = "supervisor.sock"
_SOCKET_LIMIT = 107 - 11
"""Bytes of a unix socket's path, less the suffix of the name under which supervisor binds it first."""

PROGRAM = """
[{kind}:{name}]
command="%(ENV_HEADFRAME_PYTHON)s" -m infra.stack.launch {name}
environment=HEADFRAME_COMPONENT="{name}"
autostart=false
autorestart=true
startsecs={start_secs}
startretries=100000
stopwaitsecs={stop_limit}
stopasgroup={stop_group}
killasgroup=true
redirect_stderr=true
stdout_logfile=../log/{name}.log
stdout_logfile_maxbytes=0
"""
HELD = """\
socket=tcp://{address}
socket_backlog={backlog}
"""

SUPERVISORD = """\
[supervisord]
logfile=../log/supervisor.log
logfile_maxbytes=5MB
logfile_backups=2
pidfile=supervisord.pid
childlogdir=../log
{user}
[unix_http_server]
file={socket}
chmod=0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[rpcinterface:headframe]
supervisor.rpcinterface_factory=infra.stack.plugin:make
"""


def supervisord_conf(plan: Plan, parts: Iterable[Part], socket: str = SOCKET) -> str:
    """Supervisor's configuration, read in ``<home>/run``: no home, no secret stands in it.

    The pause between attempts grows by a second each time and never ends: a miner runs unattended.
    """
    user = "user=root\n" if os.getuid() == 0 else ""  # said outright, or supervisor warns at every start
    return SUPERVISORD.format(user=user, socket=socket) + "".join(_program(plan, part) for part in parts)


def _program(plan: Plan, part: Part) -> str:
    address = part.held(plan)
    text = PROGRAM.format(
        kind="fcgi-program" if address else "program", name=part.name, start_secs=part.start_secs,
        stop_limit=part.stop_limit, stop_group="true" if part.stop_group else "false",
    )  # fmt: skip
    return text + HELD.format(address=address, backlog=BACKLOG) if address else text


def socket_path(home: Path) -> Path:
    """The supervisor's socket: below home, or in a folder of our own below the temp folder when home is deep."""
    near = home / "run" / SOCKET
    if len(os.fsencode(near)) <= _SOCKET_LIMIT:
        return near
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"headframe-{os.getuid()}" / f"{digest}.sock"


def make_socket_folder(socket: Path) -> None:
    """Make the socket's folder, and refuse one in the temp folder that somebody else made."""
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = socket.parent.lstat()
    if found.st_uid != os.getuid() or (socket.parent.name.startswith("headframe-") and found.st_mode & 0o077):
        raise UserError(
            f"{socket.parent} belongs to somebody else or is open to others: remove it, or use a shorter home"
        )


def toml(values: dict[str, Any], table: str = "") -> str:
    """Nested settings as TOML; what is in a list stays on its line."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    text = "".join(f"{key} = {_inline(value)}\n" for key, value in plain.items())
    for key, value in values.items():
        if isinstance(value, dict):
            name = f"{table}.{key}" if table else key
            text += f"\n[{name}]\n{toml(value, name)}"
    return text


def _inline(value: Any) -> str:
    """A value on one line; JSON's strings, numbers and booleans are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def settings_toml(settings: Settings) -> str:
    """The settings in force, frozen for the stack's processes."""
    return toml(settings.model_dump(mode="json", exclude_none=True))


def part_spec(plan: Plan, part: Part) -> str:
    """What `launch` reads: argv, what the environment adds, and the folder to stand in."""
    command = part.command(plan)
    env = dict(command.env) | {"HEADFRAME_CONFIG": str(plan.paths.run / "settings.toml")}
    cwd = str(command.cwd) if command.cwd else None
    sweep = part.held(plan) is None
    return json.dumps({"argv": command.argv, "env": env, "cwd": cwd, "sweep": sweep}, indent=1)


def files(plan: Plan, parts: Iterable[Part]) -> dict[Path, str]:
    """Every file of this plan, by path: equal texts mean that nothing has changed since `up`."""
    run = plan.paths.run
    parts = tuple(parts)
    socket = socket_path(plan.home)
    socket_name = SOCKET if socket.parent == run else str(socket).replace("%", "%%")
    return {
        run / "supervisord.conf": supervisord_conf(plan, parts, socket_name),
        run / "settings.toml": settings_toml(plan.settings),
        **{run / "parts" / f"{part.name}.json": part_spec(plan, part) for part in parts},
    }


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: it holds keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
