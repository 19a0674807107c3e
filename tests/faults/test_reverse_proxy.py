"""The recipe of docs/reverse-proxy.md, run with a real nginx in front of a real gateway."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.faults.tools import connect, read_reply, refused
from tests.ports import free_port
from tests.serving.callers import Request, btauth, legacy
from tests.serving.fake_triton import FakeTritonServer, doubled
from tests.serving.processes import ROOT, Running, gateway, raw, status, until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]
_AROUND = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{recipe}
}}
"""


def recipe() -> str:
    """The block as the document has it."""
    found = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "reverse-proxy.md").read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


class Front:
    """nginx, and the gateway behind it."""

    def __init__(self, running: Running, port: int) -> None:
        self.running = running
        self.port = port

    def ask(self, request: Request) -> httpx.Response:
        return httpx.request(
            request.method, f"http://127.0.0.1:{self.port}{request.target}", headers=request.headers,
            content=request.body, trust_env=False, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    triton, folder, port = FakeTritonServer(tiny_a=doubled), tmp_path_factory.mktemp("nginx"), free_port()
    options: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"], "junk_per_s": 0.1, "junk_burst": 30}
    with gateway(tmp_path_factory.mktemp("gateway"), triton.address, **options) as running:
        user = "user root;" if os.geteuid() == 0 else ""  # who may write below the test's folder
        block = recipe().replace("listen 8091", f"listen 127.0.0.1:{port}")
        block = block.replace("127.0.0.1:8095", f"127.0.0.1:{running.config.port}")
        (folder / "nginx.conf").write_text(_AROUND.format(user=user, folder=folder, recipe=block))
        command = [str(NGINX), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        nginx = subprocess.Popen(command)
        try:
            made = Front(running, port)
            until(lambda: made.ask(Request("/nothing", {}, b"")).status_code == 404)
            yield made
        finally:
            nginx.terminate()
            nginx.wait()
    triton.stop()


@pytest.mark.parametrize("dialect", ["btauth", "legacy"])
def test_both_dialects_pass_with_header_names_target_and_body_as_they_were(front: Front, dialect: str) -> None:
    for target in ("/Double", "/Double?a=%2F&b=c"):
        fields = {"x": [1.0, 2.0]}
        request = btauth(target, fields) if dialect == "btauth" else legacy("Double", fields, ("x",))
        reply = front.ask(request)
        assert (reply.status_code, reply.json()["y"]) == (200, [2.0, 4.0])
        assert (reply.headers.get("bt_header_axon_status_code") == "200") == (dialect == "legacy")
        assert front.ask(request).status_code == 401  # a replay is one through a proxy too
    for path in ("//Double", "/Double/", "/%44ouble"):
        assert front.ask(btauth(path, {"x": [1.0]})).status_code == 404


def test_large_bodies_and_chunked_ones_pass_and_too_large_ones_are_the_gateways_to_refuse(front: Front) -> None:
    assert front.ask(btauth("/Double", {"x": [0.5] * 10_000})).status_code == 200
    for numbers in (40_000, 100_000, 400_000):
        refusal = front.ask(btauth("/Double", b'{"x": [' + b"1," * numbers + b"1]}"))
        assert (refusal.status_code, refusal.json()) == (413, {"message": "the body is longer than 65536 bytes"})


def test_the_callers_own_address_is_charged_and_neither_nginx_nor_a_claimed_one(front: Front) -> None:
    def junk(source: str, claim: str) -> int:
        with connect(front.port, source) as connection:
            connection.sendall(raw(Request("/nothing", {"X-Forwarded-For": claim}, b"")))
            return status(read_reply(connection))

    found = [junk("127.0.3.1", f"10.0.0.{number}") for number in range(120)]
    assert 429 in found  # whatever it claims to be
    assert junk("127.0.3.2", "127.0.3.1") == 404
    assert front.ask(legacy("Double", {"x": [1.0]}, ("x",))).status_code == 200
    until(lambda: refused(front.running, "address_over_budget") == found.count(429))


def test_a_gateway_that_is_away_is_told_as_json_with_retry_after(front: Front) -> None:
    front.running.stop()
    reply = front.ask(btauth("/Double", {"x": [1.0]}))
    assert (reply.status_code, reply.json()) == (503, {"message": "this miner is away"})
    assert reply.headers["retry-after"] == "5"
