"""`config show`: what is in force, with nothing secret in it; and the reference page."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from clavitor_host.config.fields import keys_of
from clavitor_host.config.models import HostConfig
from clavitor_host.config.reference import PAGE, drift, render
from clavitor_host.config.show import MASK, as_toml, show
from clavitor_host.config.sources import load
from clavitor_host.errors import ConfigError
from clavitor_host.plugins.configure import config_models
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.plugins.registry import PluginRegistry

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery"


class Peer(BaseModel):
    """One of several."""

    name: str
    key: SecretStr


class Sample(BaseModel):
    """A plugin with secrets in every place."""

    token: SecretStr | None = None
    spare: list[SecretStr] = []
    peers: list[Peer] = []
    retries: int = 3


def test_no_secret_is_shown_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "clavitor.toml").write_text(
        f"""
        database_url = "postgresql://vault:{SECRET}@db/vault"
        metrics_token = "{SECRET}"
        oidc = {{ issuer = "https://idp", client_id = "me", client_secret = "{SECRET}" }}
        [plugins.sample]
        token = "{SECRET}"
        spare = ["{SECRET}"]
        peers = [{{ name = "a", key = "{SECRET}" }}]
        """
    )
    config = load({}, {"sample": Sample}, {}, tmp_path)
    shown = show(config, {"sample": Sample})
    assert shown["database_url"] == "postgresql://vault:********@db/vault"
    assert shown["plugins"]["sample"]["peers"] == [{"name": "a", "key": MASK}]
    for text in (str(shown), as_toml(config, shown), repr(config)):
        assert SECRET not in text


def test_what_is_shown_is_toml_and_says_where_each_value_was_set(tmp_path: Path) -> None:
    config = load({"bind": "[::1]:1"}, {"sample": Sample}, {"CLAVITOR_SAMPLE_RETRIES": "5"}, tmp_path)
    text = as_toml(config, show(config, {"sample": Sample}))
    assert 'bind = "[::1]:1"  # --bind\n' in text
    assert "retries = 5  # CLAVITOR_SAMPLE_RETRIES\n" in text
    assert "workers = 1  # default\n" in text
    assert "# public_url is not set\n" in text
    assert tomllib.loads(text)["plugins"]["sample"] == {"spare": [], "peers": [], "retries": 5}


def test_a_plugin_table_that_its_model_refuses_is_an_error(tmp_path: Path) -> None:
    config = load({}, {"sample": Sample}, {"CLAVITOR_SAMPLE_RETRIES": "x"}, tmp_path)
    with pytest.raises(ConfigError, match=r"^plugins\.sample\.retries: expected a valid integer \(CLAVITOR_SAMPLE"):
        show(config, {"sample": Sample})


def test_the_reference_names_every_key_and_variable() -> None:
    page = render({"sample": Sample})
    for key in (*keys_of(HostConfig), *keys_of(Sample, ("plugins", "sample"))):
        assert f"`{key.path[-1]}`" in page
        for variable in key.env:
            assert f"`{variable}`" in page


def test_the_reference_page_is_up_to_date() -> None:
    bundle = frozen_set()
    models = config_models(PluginRegistry(bundle.plugins, bundle.edition))
    assert drift(ROOT / PAGE, models) == "", "run: make references"


def test_drift_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "configuration.md"
    page.write_text(render({}).replace("Server processes.", "Servers."))
    assert "+| `workers`" in drift(page, {})
    assert drift(tmp_path / "missing.md", {})
