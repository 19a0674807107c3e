from __future__ import annotations

import configparser
import json
import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ports import choose_ports
from infra.settings import S3, Gateway, Miner, Settings
from infra.stack.config import (
    files,
    make_socket_folder,
    part_spec,
    settings_toml,
    socket_path,
    supervisord_conf,
    toml,
    write_private,
)
from infra.stack.parts import PARTS, Plan, embedded
from serving.errors import UserError


def plan(home: Path, **settings: object) -> Plan:
    found = Settings.model_validate({"home": home, **settings})
    return Plan(found, choose_ports(found))


def parsed(made: Plan) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(supervisord_conf(made, PARTS))
    return parser


def test_the_configuration_has_a_section_for_every_part(tmp_path: Path) -> None:
    parser = parsed(plan(tmp_path))
    for part in PARTS:
        section = parser[f"{'fcgi-' if part.name == 'gateway' else ''}program:{part.name}"]
        assert section["command"].endswith(f"infra.stack.launch {part.name}")
        assert (section["autorestart"], section["killasgroup"]) == ("true", "true")
        assert int(section["stopwaitsecs"]) == part.stop_limit
    assert parser["fcgi-program:gateway"]["stopasgroup"] == "false"
    assert parser["program:mlflow"]["stopasgroup"] == "true"


def test_the_supervisor_holds_the_gateways_port(tmp_path: Path) -> None:
    made = plan(tmp_path)
    section = parsed(made)["fcgi-program:gateway"]
    assert section["socket"] == f"tcp://127.0.0.1:{made.ports['gateway']}"
    specs = {part.name: json.loads(part_spec(made, part)) for part in PARTS}
    assert specs["gateway"]["argv"][1:] == ["serve", "--listen-fd", "0"]
    assert [name for name, spec in specs.items() if not spec["sweep"]] == ["gateway"]


def test_on_ipv6_which_supervisor_cannot_hold_the_gateway_listens_for_itself(tmp_path: Path) -> None:
    made = Plan(Settings(home=tmp_path, bind="::1"), plan(tmp_path).ports)
    assert "program:gateway" in parsed(made)
    spec = json.loads(part_spec(made, next(part for part in PARTS if part.name == "gateway")))
    assert (spec["argv"][1:], spec["sweep"]) == (["serve"], True)


def test_no_path_and_no_key_stands_in_it(tmp_path: Path) -> None:
    home = tmp_path / "a home; with #odd %s 'names"
    written = files(plan(home, s3=S3(secret_key="geheim")), PARTS)
    conf = written[Path(os.path.realpath(home)) / "run" / "supervisord.conf"]
    assert "odd" not in conf
    assert "geheim" not in conf


def test_the_parts_get_their_arguments_word_for_word(tmp_path: Path) -> None:
    home = tmp_path / 'quote " and space'
    written = files(plan(home, s3=S3(secret_key="a'b\"c$d")), PARTS)
    spec = json.loads(written[Path(os.path.realpath(home)) / "run" / "parts" / "s3.json"])
    assert f"-dir={os.path.realpath(home)}/s3" in spec["argv"]
    assert spec["env"]["AWS_SECRET_ACCESS_KEY"] == "a'b\"c$d"
    assert spec["env"]["HEADFRAME_CONFIG"].endswith("run/settings.toml")


def test_a_part_that_is_elsewhere_is_not_started(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_url="http://there:5000", s3=S3(endpoint="http://there:9000"))
    assert [part.name for part in embedded(settings)] == ["triton", "prefect", "sidecar", "gateway", "flows"]


def test_the_settings_in_force_read_back_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        home=tmp_path, netuid=51, s3=S3(secret_key='ü"\\\n'),
        gateway=Gateway(workers=3, trusted_proxies=("10.0.0.0/8",), schemes={"5Fabc": "ed25519"}),
        miners=(
            Miner(netuid=32, slots=("itsai",), hotkey_uri="//Two", stake_threshold=5.0, deny=("5Gdef", "5Hghi")),
            Miner(netuid=126, slots=("poker44",), hotkey_uri="//Three"),
        ),
    )  # fmt: skip
    file = tmp_path / "settings.toml"
    write_private(file, settings_toml(settings))
    monkeypatch.setenv("HEADFRAME_CONFIG", str(file))
    assert Settings() == settings


def test_only_the_owner_reads_what_holds_keys(tmp_path: Path) -> None:
    file = tmp_path / "run" / "settings.toml"
    write_private(file, "a = 1\n")
    write_private(file, "a = 2\n")
    assert file.read_text() == "a = 2\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


_NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"))
_ONE = st.one_of(st.booleans(), st.integers(-(2**62), 2**62), _TEXT, st.lists(_TEXT, max_size=3))
_PLAIN = _ONE | st.lists(st.dictionaries(_NAME, _ONE, max_size=3), max_size=3)


@given(
    st.recursive(st.dictionaries(_NAME, _PLAIN, max_size=4), lambda d: st.dictionaries(_NAME, _PLAIN | d, max_size=4))
)
def test_toml_reads_back_the_same(values: dict[str, object]) -> None:
    assert tomllib.loads(toml(values)) == values


def test_the_socket_of_a_deep_home_lies_in_the_temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    near, deep = Path("/srv/headframe"), Path("/srv") / ("x" * 120)
    assert socket_path(near) == near / "run" / "supervisor.sock"
    assert socket_path(deep).parent.parent == tmp_path
    assert socket_path(deep) != socket_path(Path("/srv") / ("y" * 120))
    make_socket_folder(socket_path(deep))
    assert stat.S_IMODE(socket_path(deep).parent.stat().st_mode) == 0o700


def test_a_socket_folder_open_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    socket = socket_path(Path("/srv") / ("x" * 120))
    socket.parent.mkdir()
    socket.parent.chmod(0o777)
    with pytest.raises(UserError, match="open to others"):
        make_socket_folder(socket)
