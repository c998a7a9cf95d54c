"""Where configuration comes from, what wins, and what a wrong key is told (operations.md section 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from clavitor_host.config.sources import Config, load
from clavitor_host.errors import ConfigError


class Uplink(BaseModel):
    """A plugin's table."""

    url: str | None = None
    retries: int = 3
    peers: list[str] = []
    state_file: Path | None = None
    token: SecretStr | None = Field(default=None, json_schema_extra={"env": "CLAVITOR_LINK_TOKEN"})


class Deep(BaseModel):
    """A sub-table of a plugin's table."""

    batch: int = 10


class UplinkMirror(BaseModel):
    """A plugin whose name begins with another plugin's name."""

    hosts: list[str] = []
    deep: Deep = Deep()


PLUGINS: dict[str, type[BaseModel]] = {"uplink": Uplink, "uplink_mirror": UplinkMirror}


@pytest.fixture
def configure(tmp_path: Path) -> Any:
    """Return a function that loads a configuration from a file's text, variables and flags, in `tmp_path`."""

    def configured(toml: str | None = None, environ: dict[str, str] | None = None, **flags: Any) -> Config:
        if toml is not None:
            (tmp_path / "clavitor.toml").write_text(toml)
        return load(flags, PLUGINS, environ or {}, tmp_path)

    return configured


def test_without_any_source_the_defaults_hold(configure: Any, tmp_path: Path) -> None:
    config = configure()
    assert config.host.bind == "127.0.0.1:8400"
    assert config.host.data_dir == tmp_path / "data"
    assert config.host.storage_url == f"sqlite:///{tmp_path}/data/vault.db"
    assert config.file is None
    assert config.plugin_tables == {}


def test_a_variable_wins_over_the_file_and_a_flag_over_both(configure: Any, tmp_path: Path) -> None:
    toml = "workers = 2\nbind = '127.0.0.1:1'\ntenant_id = 'file'"
    config = configure(toml, {"CLAVITOR_WORKERS": "3", "CLAVITOR_BIND": "127.0.0.1:2"}, workers=4)
    assert (config.host.tenant_id, config.host.bind, config.host.workers) == ("file", "127.0.0.1:2", 4)
    assert config.origins == {
        "tenant_id": f"{tmp_path}/clavitor.toml:3",
        "bind": "CLAVITOR_BIND",
        "workers": "--workers",
    }


def test_a_flag_not_given_changes_nothing(configure: Any) -> None:
    assert configure("workers = 2", workers=None).host.workers == 2


def test_an_empty_variable_counts_as_not_set(configure: Any) -> None:
    assert configure("workers = 2", {"CLAVITOR_WORKERS": ""}).host.workers == 2


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_the_file_can_be_named(configure: Any, tmp_path: Path, how: str) -> None:
    (tmp_path / "other.toml").write_text("workers = 7")
    config = configure(None, {"CLAVITOR_CONFIG": "other.toml"}) if how == "variable" else configure(config="other.toml")
    assert config.host.workers == 7
    assert config.file == tmp_path / "other.toml"


def test_a_named_file_that_is_missing_is_an_error(configure: Any) -> None:
    with pytest.raises(ConfigError, match=r"^--config: .*nowhere\.toml is not a file"):
        configure(config="nowhere.toml")


def test_relative_names_count_from_the_file_or_from_the_current_folder(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.toml").write_text(
        "data_dir = 'd'\n[tls]\ncert = 'c.pem'\nkey = 'k.pem'\n[plugins.uplink]\nstate_file = 's'"
    )
    config = load({"config": "etc/c.toml"}, PLUGINS, {"CLAVITOR_TLS_KEY": "k.pem"}, tmp_path)
    assert config.host.data_dir == folder / "d"
    assert config.host.tls.cert == folder / "c.pem"
    assert config.host.tls.key == tmp_path / "k.pem"
    assert config.plugin_tables["uplink"]["state_file"] == str(folder / "s")


def test_a_relative_socket_path_is_made_absolute(configure: Any, tmp_path: Path) -> None:
    host = configure(bind="unix:run/s.sock").host
    assert host.bind == f"unix:{tmp_path}/run/s.sock"
    assert host.unix_path == tmp_path / "run/s.sock"


def test_lists_in_variables_are_split_at_commas_or_read_as_json(configure: Any) -> None:
    config = configure(None, {"CLAVITOR_TRUSTED_PROXIES": "10.0.0.0/8, unix", "CLAVITOR_UPLINK_PEERS": '["a,b"]'})
    assert config.host.trusted_proxies == ["10.0.0.0/8", "unix"]
    assert config.plugin_tables == {"uplink": {"peers": ["a,b"]}}


# --- secrets in files ---


@pytest.mark.parametrize("how", ["key", "variable"])
def test_a_secret_can_be_kept_in_a_file_of_its_own(configure: Any, tmp_path: Path, how: str) -> None:
    (tmp_path / "secret").write_text("a-long-metrics-token\n")
    if how == "key":
        config = configure("metrics_token_file = 'secret'")
    else:
        config = configure(None, {"CLAVITOR_METRICS_TOKEN_FILE": "secret"})
    assert config.host.metrics_token.get_secret_value() == "a-long-metrics-token"


def test_a_plugin_secret_can_be_kept_in_a_file_also_by_its_further_variable(configure: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("tok")
    assert configure(None, {"CLAVITOR_LINK_TOKEN_FILE": "secret"}).plugin_tables == {"uplink": {"token": "tok"}}


def test_a_variable_wins_over_a_secret_file_of_the_configuration_file(configure: Any) -> None:
    config = configure("metrics_token_file = 'missing'", {"CLAVITOR_METRICS_TOKEN": "a-long-metrics-token"})
    assert config.host.metrics_token.get_secret_value() == "a-long-metrics-token"


@pytest.mark.parametrize(
    ("toml", "environ", "message"),
    [
        ("metrics_token_file = 'missing'", {}, r"metrics_token_file: .*missing cannot be read: No such file"),
        (
            "metrics_token = 'x'\nmetrics_token_file = 'y'",
            {},
            r"metrics_token_file: give it or metrics_token, not",
        ),
        (
            None,
            {"CLAVITOR_METRICS_TOKEN": "x", "CLAVITOR_METRICS_TOKEN_FILE": "y"},
            r"CLAVITOR_METRICS_TOKEN_FILE: give it or CLAVITOR_METRICS_TOKEN, not both",
        ),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    configure: Any, toml: str | None, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(toml, environ)


def test_a_message_never_repeats_a_secret(configure: Any) -> None:
    for environ in ({"CLAVITOR_METRICS_TOKEN": "sesame"}, {"CLAVITOR_DATABASE_URL": "mysql://u:sesame@h/d"}):
        with pytest.raises(ConfigError) as caught:
            configure(None, environ)
        assert "sesame" not in str(caught.value)


# --- plugins ---


def test_a_variable_belongs_to_the_plugin_with_the_longest_name(configure: Any) -> None:
    config = configure(None, {"CLAVITOR_UPLINK_MIRROR_HOSTS": "a,b", "CLAVITOR_UPLINK_URL": "u"})
    assert config.plugin_tables == {"uplink": {"url": "u"}, "uplink_mirror": {"hosts": ["a", "b"]}}


def test_a_key_that_reads_like_a_longer_plugin_name_is_out_of_reach_of_variables(tmp_path: Path) -> None:
    class Short(BaseModel):
        mirror_hosts: str = ""

    models: dict[str, type[BaseModel]] = {"uplink": Short, "uplink_mirror": UplinkMirror}
    config = load({}, models, {"CLAVITOR_UPLINK_MIRROR_HOSTS": "a"}, tmp_path)
    assert config.plugin_tables == {"uplink_mirror": {"hosts": ["a"]}}


def test_a_model_may_declare_further_variable_names(configure: Any) -> None:
    assert configure(None, {"CLAVITOR_LINK_TOKEN": "t"}).plugin_tables == {"uplink": {"token": "t"}}


def test_two_plugins_that_declare_the_same_variable_are_both_named(tmp_path: Path) -> None:
    class Other(BaseModel):
        token: str = Field(default="", json_schema_extra={"env": "CLAVITOR_LINK_TOKEN"})

    with pytest.raises(ConfigError, match=r"CLAVITOR_LINK_TOKEN: the plugins uplink and other both"):
        load({}, {"uplink": Uplink, "other": Other}, {}, tmp_path)


def test_an_empty_table_counts_as_given(configure: Any) -> None:
    assert configure("[plugins.uplink]").plugin_tables == {"uplink": {}}
    assert configure("").plugin_tables == {}


def test_sub_tables_of_a_plugin_have_variables_too(configure: Any) -> None:
    config = configure("[plugins.uplink_mirror.deep]\nbatch = 5", {"CLAVITOR_UPLINK_MIRROR_HOSTS": "a"})
    assert config.plugin_tables == {"uplink_mirror": {"deep": {"batch": 5}, "hosts": ["a"]}}
    config = configure("", {"CLAVITOR_UPLINK_MIRROR_DEEP_BATCH": "6"})
    assert config.plugin_tables == {"uplink_mirror": {"deep": {"batch": "6"}}}


# --- wrong keys and values ---


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("wrokers = 3", "wrokers: no such key (FILE:1); did you mean workers?"),
        ("\n[tls]\ncret = 'x'", "tls.cret: no such key (FILE:3); did you mean tls.cert?"),
        ("[tsl]\ncert = 'x'", "tsl: no such key (FILE:1); did you mean tls?"),
        ("cert = 'x'", "cert: no such key (FILE:1); did you mean tls.cert?"),
        ("metrics_token_fiel = 'x'", "metrics_token_fiel: no such key (FILE:1); did you mean metrics_token_file?"),
        (
            "[plugins.uplnk]\nurl = 'x'",
            "plugins.uplnk: this build has no such plugin to configure (FILE:1); did you mean plugins.uplink?",
        ),
        ("[plugins.uplink]\nulr = 'x'", "plugins.uplink.ulr: no such key (FILE:2); did you mean plugins.uplink.url?"),
        ("plugins.uplink.ulr = 'x'", "plugins.uplink.ulr: no such key (FILE:1); did you mean plugins.uplink.url?"),
        ("zzz = 1", "zzz: no such key (FILE:1)"),
        ("tls = 3", "tls: expected a table (FILE:1)"),
        ("workers = 'x'", "workers: expected a valid integer (FILE:1)"),
        ("workers = 0", "workers: expected greater than or equal to 1 (FILE:1)"),
        ("[log]\nlevel = 'loud'", "log.level: expected 'debug', 'info', 'warning' or 'error' (FILE:2)"),
        ("[tls]\ncert = 'x'", "tls: cert and key belong together: give both or neither (FILE:1)"),
        ("[oidc]\nissuer = 'https://idp'", "oidc.client_id: must be given (FILE:1)"),
        ("a = = 3", "FILE: line 1, column 5: Invalid value."),
        ("workers = 2\nworkers = 3", "FILE: line 2, column 12: Cannot overwrite a value."),
        ("bind = '80'", "bind: expected host:port, [ipv6]:port or unix:PATH, such as 127.0.0.1:8400 (FILE:1)"),
        ("[limits]\ngraceful = -1\nkeep_alive = 0", "(and 1 more)"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_in_one_line(configure: Any, tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(toml)
    text = str(caught.value).replace(f"{tmp_path}/clavitor.toml", "FILE")
    assert "\n" not in text
    assert text == message or (message.startswith("(") and text.endswith(message))


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("CLAVITOR_WROKERS", "CLAVITOR_WROKERS: no such variable; did you mean CLAVITOR_WORKERS?"),
        ("CLAVITOR_TLS_CRT", "CLAVITOR_TLS_CRT: no such variable; did you mean CLAVITOR_TLS_CERT?"),
        ("CLAVITOR_CONFGI", "CLAVITOR_CONFGI: no such variable; did you mean CLAVITOR_CONFIG?"),
        (
            "CLAVITOR_UPLINK_MIRROR_HOST",
            "CLAVITOR_UPLINK_MIRROR_HOST: no such variable; did you mean CLAVITOR_UPLINK_MIRROR_HOSTS?",
        ),
        ("CLAVITOR_LINK_TOKN", "CLAVITOR_LINK_TOKN: no such variable; did you mean CLAVITOR_LINK_TOKEN?"),
        ("CLAVITOR_X", "CLAVITOR_X: no such variable; `clavitor config reference` lists them"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_suggests_the_right_one(
    configure: Any, variable: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(None, {variable: "1"})
    assert str(caught.value) == message


def test_variables_that_are_not_ours_are_left_alone(configure: Any) -> None:
    names = (
        "CLAVITOR_TEST_POSTGRES_URL",
        "CLAVITOR_INTERNAL_WORKER",
        "CLAVITORX",
        "clavitor_bind",
        "_CLAVITOR_COMPLETE",
    )
    assert configure(None, dict.fromkeys(names, "x")).origins == {}


def test_a_wrong_value_names_the_variable_or_the_flag(configure: Any) -> None:
    with pytest.raises(ConfigError, match=r"^workers: expected a valid integer \(CLAVITOR_WORKERS\)$"):
        configure(None, {"CLAVITOR_WORKERS": "many"})
    with pytest.raises(ConfigError, match=r"^bind: .* \(--bind\)$"):
        configure(bind="nonsense")


def test_a_file_that_is_not_utf8_or_cannot_be_read_is_named(configure: Any, tmp_path: Path) -> None:
    (tmp_path / "clavitor.toml").write_bytes(b"bind = '\xff'")
    with pytest.raises(ConfigError, match=r"clavitor\.toml: byte 9 is not UTF-8"):
        configure()


def test_a_broken_plugin_table_is_told_with_its_place(configure: Any, tmp_path: Path) -> None:
    from pydantic import ValidationError

    config = configure("[plugins.uplink]\nretries = 'x'")
    with pytest.raises(ValidationError) as caught:
        Uplink.model_validate(config.plugin_tables["uplink"])
    error = config.plugin_error("uplink", caught.value)
    assert str(error) == f"plugins.uplink.retries: expected a valid integer ({tmp_path}/clavitor.toml:2)"
