"""What the host's keys accept, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from clavitor_host.config.fields import keys_of
from clavitor_host.config.models import HostConfig, OidcConfig
from clavitor_host.config.values import masked_url


def test_every_key_is_documented() -> None:
    for key in keys_of(HostConfig):
        description = key.info.description or ""
        assert len(description) > 15, key.dotted
        assert description.endswith("."), key.dotted


def test_every_key_that_counts_something_names_its_unit() -> None:
    for key in keys_of(HostConfig):
        if key.annotation is float:
            assert "econds" in (key.info.description or ""), key.dotted


@pytest.mark.parametrize("bind", ["127.0.0.1:8400", "[::1]:0", "localhost:65535", "unix:/run/c.sock", "0.0.0.0:80"])
def test_addresses_to_listen_on(bind: str) -> None:
    assert HostConfig(bind=bind).bind == bind


@pytest.mark.parametrize(
    "bind", ["8400", ":8400", "::1:8400", "host:65536", "host:", "unix:", "h o:1", "unix:/" + "x" * 107, ""]
)
def test_addresses_that_cannot_be_listened_on(bind: str) -> None:
    with pytest.raises(ValidationError):
        HostConfig(bind=bind)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (None, "sqlite:////d/vault.db"),
        ("sqlite:///other.db", "sqlite:////d/other.db"),
        ("sqlite:////abs/v.db", "sqlite:////abs/v.db"),
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
    ],
)
def test_the_database_url(url: str | None, wanted: str) -> None:
    config = HostConfig(data_dir=Path("/d"), database_url=None if url is None else SecretStr(url))
    assert config.storage_url == wanted


@pytest.mark.parametrize("url", ["mysql://h/d", "postgresql://", "sqlite://", "sqlite:///", "vault.db", "sqlite://h/d"])
def test_a_database_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValidationError):
        HostConfig(database_url=SecretStr(url))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u:p@ss/w@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u@h/d?password=p&x=1", "postgresql://u@h/d?password=********&x=1"),
        ("sqlite:///v.db", "sqlite:///v.db"),
    ],
)
def test_a_password_in_a_url_is_masked(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "http://127.0.0.1:8400"),
        ({"bind": "0.0.0.0:80"}, "http://127.0.0.1:80"),
        ({"bind": "[::]:80"}, "http://[::1]:80"),
        ({"bind": "unix:/s"}, "http://localhost"),
        ({"tls": {"cert": "c", "key": "k"}}, "https://127.0.0.1:8400"),
        ({"public_url": "https://v.example.org/"}, "https://v.example.org"),
    ],
)
def test_the_url_for_people(values: dict[str, object], url: str) -> None:
    assert HostConfig.model_validate(values).base_url == url


@pytest.mark.parametrize(
    "values",
    [
        {"public_url": "v.example.org"},
        {"public_url": "https://v/?q"},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"trusted_proxies": ["proxy"]},
        {"tls": {"client_auth": "required", "cert": "c", "key": "k"}},
        {"tls": {"client_ca": "c"}},
        {"tenant_id": ""},
        {"workers": 65},
        {"metrics_token": "short"},
        {"data_dir": 3},
    ],
)
def test_values_that_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HostConfig.model_validate(values)


def test_the_issuer_is_kept_byte_for_byte() -> None:
    assert OidcConfig(issuer="https://idp.example/", client_id="c").issuer == "https://idp.example/"


def test_oidc_needs_the_openid_scope() -> None:
    with pytest.raises(ValidationError):
        OidcConfig(issuer="https://idp.example", client_id="c", scopes=["email"])


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        HostConfig().bind = "127.0.0.1:1"
