"""The public listening socket: made here, or handed over by whoever outlives the gateway."""

from __future__ import annotations

import errno
import os
import socket
import time

from serving.errors import UserError

BACKLOG = 2048
BIND_S = 5.0
"""How long to wait for the workers of a killed parent to let go of the port."""
_HINTS = {
    errno.EADDRINUSE: "stop what listens there, or choose another port",
    errno.EACCES: "ports below 1024 need a privilege; choose another port",
    errno.EADDRNOTAVAIL: "it is no address of this machine; choose another bind",
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; waits a little for a predecessor's workers to let go. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = time.monotonic() + BIND_S
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise cannot_listen(host, port, error) from None
            time.sleep(0.1)
        else:
            return listener


def take_over(fd: int, port: int) -> socket.socket:
    """The listening socket that was handed over as descriptor `fd`, which is free for other uses afterwards.

    Raises UserError (exit code 2) when it is no listening TCP socket, or listens on another port.
    """
    try:
        listener = socket.socket(fileno=os.dup(fd))
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UserError(f"descriptor {fd} holds no socket ({os.strerror(error.errno or 0)})", exit_code=2) from None
    if not listens or listener.family not in (socket.AF_INET, socket.AF_INET6):
        listener.close()
        raise UserError(f"descriptor {fd} holds a socket that does not listen for TCP connections", exit_code=2)
    found = listener.getsockname()[1]
    if found != port:
        listener.close()
        raise UserError(f"descriptor {fd} listens on port {found}, and the settings say {port}", exit_code=2)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd, inheritable=fd <= 2)
    os.close(nothing)
    return listener


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """What went wrong, in one line."""
    hint = _HINTS.get(error.errno or 0, "choose another bind or port")
    return UserError(f"the gateway cannot listen on {host}:{port} ({error.strerror or error}); {hint}")
