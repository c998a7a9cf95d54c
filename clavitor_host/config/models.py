"""The host's own configuration: every key, its type, default and meaning.

This file is the source of the reference page, of the `CLAVITOR_*` variable names and of the error messages.
Plugins add their own tables, `[plugins.<name>]`, by the `config_model` hook.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from clavitor_host.config.values import (
    BindAddress,
    RelativeTo,
    ShownAs,
    clean_base_url,
    clean_database_url,
    masked_url,
    reachable_host,
)


class Section(BaseModel):
    """Base of every table: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, defer_build=True)


class LogConfig(Section):
    """What is logged, and how. Logs go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe lines that are written."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="`text` for people, `json` for one JSON object a line."
    )
    access: bool = Field(
        default=False, description="Log one line for every request. Costs about a quarter of the throughput."
    )

    @field_validator("level", "format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class TlsConfig(Section):
    """HTTPS. Without `cert` the server speaks plain HTTP. Files are read again on SIGHUP."""

    cert: Path | None = Field(default=None, description="PEM file with the certificate, then its intermediates.")
    key: Path | None = Field(default=None, description="PEM file with the certificate's private key, not encrypted.")
    client_ca: Path | None = Field(
        default=None, description="PEM file with the authorities whose client certificates count."
    )
    client_auth: Literal["none", "optional", "required"] = Field(
        default="none", description="Whether clients are asked for a certificate (mTLS), and refused without one."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: give both or neither")
        if self.client_auth != "none" and self.client_ca is None:
            raise ValueError(f'client_auth = "{self.client_auth}" needs client_ca')
        if self.client_ca is not None and self.cert is None:
            raise ValueError("client_ca needs cert and key")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self.cert is not None


class LimitsConfig(Section):
    """Bounds on what one client, and all clients together, can hold. Times in seconds, sizes in bytes."""

    max_connections: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Connections open at once in one worker; a further one is answered 503.",
    )
    keep_alive: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds an idle connection is kept open between two requests."
    )
    header_timeout: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds a client may take to send a request's headers, or the TLS handshake.",
    )
    header_bytes: int = Field(
        default=16_384,
        ge=1024,
        le=1_048_576,
        description="Bytes of a request's line and headers; more is answered 431.",
    )
    body_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds without progress after which a stalled request body is answered 408.",
    )
    body_bytes: int = Field(
        default=2_097_152,
        ge=1024,
        le=1_073_741_824,
        description="Bytes of any other request body; more is answered 413.",
    )
    batch_bytes: int = Field(
        default=16_777_216,
        ge=1024,
        le=1_073_741_824,
        description="Bytes of the body of `POST /api/entries/batch`; more is answered 413.",
    )
    send_timeout: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds a client may leave a response unread before it is disconnected.",
    )
    graceful: float = Field(
        default=0.6, ge=0, le=600, description="Seconds that requests in flight get to finish when the server stops."
    )


class OidcConfig(Section):
    """Login through an OpenID Connect provider (authorization code with PKCE)."""

    issuer: str = Field(description="The provider's issuer URL; its discovery document is read from there.")
    client_id: str = Field(min_length=1, description="The client id that the provider gave this server.")
    client_secret: SecretStr | None = Field(default=None, description="The client secret, for a confidential client.")
    scopes: list[str] = Field(
        default=["openid", "profile", "email"], description="Scopes to ask for; `openid` is needed."
    )
    label: str = Field(default="Single sign-on", min_length=1, max_length=60, description="Text of the login button.")
    auto_signup: bool = Field(
        default=True, description="Make an unknown person who logs in a new user with role VIEWER."
    )

    @field_validator("issuer")
    @classmethod
    def _issuer(cls, value: str) -> str:
        clean_base_url(value)
        return value

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: list[str]) -> list[str]:
        if "openid" not in value:
            raise ValueError('must contain "openid"')
        return value


class LoginConfig(Section):
    """Throttling of failed logins: above a bound, logins answer 429 until the window has passed."""

    failures_per_name: int = Field(
        default=10, ge=1, le=10_000, description="Failures for one user name within the window."
    )
    failures_per_address: int = Field(
        default=50, ge=1, le=100_000, description="Failures from one address (IPv6: one /64) within the window."
    )
    window: float = Field(default=900.0, ge=1, le=86_400, description="Seconds that a failure counts.")


class SessionConfig(Section):
    """Sessions of the pages."""

    lifetime: float = Field(
        default=43_200.0, ge=60, le=31_536_000, description="Seconds after a login at which its session ends."
    )


class AuditConfig(Section):
    """The audit log."""

    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Days after which rows are dropped, behind a signed checkpoint. Not set: they are kept for ever.",
    )
    trusted_keys: list[str] = Field(
        default=[],
        description="Public keys (base64) of other nodes whose retention checkpoints count too.",
    )


class HostConfig(Section):
    """Keys at the top of `clavitor.toml`."""

    data_dir: Path = Field(
        default=Path("data"),
        description="Folder of the database and of everything else the server keeps. Made when missing.",
    )
    bind: Annotated[BindAddress, RelativeTo("unix:")] = Field(
        default="127.0.0.1:8400",
        description="Where to listen: `host:port`, `[ipv6]:port` or `unix:PATH`. Port 0 takes any free port.",
    )
    workers: int = Field(default=1, ge=1, le=64, description="Server processes. One per core is enough.")
    database_url: Annotated[SecretStr | None, ShownAs(masked_url)] = Field(
        default=None,
        description="`postgresql://user:password@host/name`, or `sqlite:///FILE` (a relative FILE is in `data_dir`). "
        "Not set: SQLite in `vault.db` in `data_dir`.",
    )
    tenant_id: str = Field(
        default="default",
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="Name of this deployment; a licence is made for one tenant.",
    )
    public_url: str | None = Field(
        default=None,
        description="URL under which people reach the server, for links and OIDC redirects. "
        "Not set: derived from `bind`.",
    )
    trusted_proxies: list[str] = Field(
        default=[],
        description="Addresses or networks of the reverse proxies whose `proxy_header` is believed; "
        "`unix` for whoever connects to the unix socket.",
    )
    proxy_header: Literal["x-forwarded-for", "forwarded"] = Field(
        default="x-forwarded-for",
        description="The header in which the trusted proxies name the client. The other one is never read.",
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Bearer token for `/api/v1/prometheus`. Not set: metrics answer to loopback, "
        "and to metrics tokens of `clavitor token create`.",
    )
    # Defaults are not validated: constructing them spares the start a compiled schema for each table.
    log: LogConfig = LogConfig.model_construct()
    tls: TlsConfig = TlsConfig.model_construct()
    limits: LimitsConfig = LimitsConfig.model_construct()
    oidc: OidcConfig | None = None
    login: LoginConfig = LoginConfig.model_construct()
    session: SessionConfig = SessionConfig.model_construct()
    audit: AuditConfig = AuditConfig.model_construct()

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(clean_database_url(value.get_secret_value()))

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str | None) -> str | None:
        return None if value is None else clean_base_url(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            if text == "unix":
                continue
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"expected IP addresses, networks or unix: {error}") from None
        return value

    @property
    def storage_url(self) -> str:
        """The database as `Database` wants it: `sqlite:///ABSOLUTE/FILE` or `postgresql://…`."""
        url = "sqlite:///vault.db" if self.database_url is None else self.database_url.get_secret_value()
        if not url.startswith("sqlite:///"):
            return url
        return f"sqlite:///{(self.data_dir / url.removeprefix('sqlite:///')).absolute()}"

    @property
    def unix_path(self) -> Path | None:
        """The socket file when `bind` is `unix:PATH`, else None."""
        return Path(self.bind.removeprefix("unix:")) if self.bind.startswith("unix:") else None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The address and TCP port of `bind`. Raises ValueError for a unix socket."""
        if self.unix_path is not None:
            raise ValueError(f"{self.bind} is not a TCP address")
        parts = urlsplit(f"//{self.bind}")
        assert parts.hostname is not None and parts.port is not None  # BindAddress has checked it
        return parts.hostname, parts.port

    @property
    def base_url(self) -> str:
        """`public_url`, or the URL that `bind` amounts to: for links shown to people."""
        if self.public_url is not None:
            return self.public_url
        if self.unix_path is not None:
            return "http://localhost"
        host, port = self.host_and_port
        reachable = reachable_host(host)
        return (
            f"{'https' if self.tls.enabled else 'http'}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
        )
