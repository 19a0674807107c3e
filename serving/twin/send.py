"""Sends signed requests over HTTP, and reads a reply as strictly as the pickiest validator would."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import orjson

from serving.errors import UserError
from serving.twin.callers import Dialect, Signed

_CLIENT_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "python-httpx/0.28.1",
}
"""As Synth's validators send them, in this order."""


class Reply(NamedTuple):
    """What came back, and how long it took."""

    elapsed: float
    """Seconds from sending to the last byte."""
    content: bytes | None
    """Body of a good reply; None after an error."""
    error: str | None
    """A short reason when there is no good reply."""
    timed_out: bool = False


class Sender:
    """An HTTP client that talks to one URL and to nothing else."""

    def __init__(self, url: str, *, allow_remote: bool = False) -> None:
        """Raises UserError for a URL that is not plain HTTP on loopback, unless `allow_remote`."""
        parts = urlsplit(url)
        try:
            port = parts.port or 80
        except ValueError:
            port = 0
        if parts.scheme != "http" or not parts.hostname or not port:
            raise UserError(f"{url} is no gateway address; it looks like http://127.0.0.1:8091")
        if not allow_remote and not _is_loopback(parts.hostname):
            raise UserError(
                f"{parts.hostname} is not this machine; the twin asks only on loopback unless told otherwise"
            )
        self.address = (parts.hostname, port)
        self._url = f"http://{parts.netloc}"
        self._client = httpx.AsyncClient(
            headers=_CLIENT_HEADERS, timeout=None, trust_env=False, limits=httpx.Limits(max_connections=256)
        )

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def post(self, target: str, signed: Signed, dialect: Dialect, limit_s: float) -> Reply:
        """Send one request; the limit (s) is on the whole of it, however the bytes trickle."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                reply = await self._client.post(self._url + target, headers=signed.headers, content=signed.body)
        except TimeoutError:
            return Reply(time.perf_counter() - began, None, f"no answer within {limit_s:.0f} s", timed_out=True)
        except httpx.HTTPError as error:
            return Reply(time.perf_counter() - began, None, _reason(error))
        error_text = _fault(reply, dialect)
        return Reply(time.perf_counter() - began, None if error_text else reply.content, error_text)


def simulation_output(content: bytes, inputs: dict[str, Any], dialect: Dialect) -> tuple[Any, str | None]:
    """The answer in a body and, when it would be lost on a validator, why.

    A Dendrite builds its synapse from the whole body, so a legacy reply without its required input loses the work.
    """
    try:
        body = orjson.loads(content)
    except ValueError:
        return None, "the reply is not JSON"
    if not isinstance(body, dict):
        return None, "the reply is not an object"
    if dialect == "legacy" and any(body.get(name) != value for name, value in inputs.items()):
        return None, "the reply does not echo the input"
    return body.get("simulation_output"), None


def _fault(reply: httpx.Response, dialect: Dialect) -> str | None:
    if reply.status_code != 200:
        return f"{reply.status_code} {_message(reply)}".strip()
    if not reply.headers.get("content-type", "").startswith("application/json"):
        return "the reply is not application/json"
    if dialect == "legacy" and reply.headers.get("bt_header_axon_status_code") != "200":
        return "a 200 without bt_header_axon_status_code: 200"
    if dialect == "btauth" and any(name.startswith("bt_header_") for name in reply.headers):
        return "a btauth reply with bt_header_* headers"
    return None


def _message(reply: httpx.Response) -> str:
    try:
        return str(orjson.loads(reply.content)["message"])[:100]
    except (ValueError, KeyError, TypeError):
        return ""


def _reason(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "connection refused"
    return f"{type(error).__name__}: {error}".strip(": ")[:100]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
