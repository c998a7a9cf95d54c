"""The table `[plugins.commercial_replication]`. Without a role, replication is off."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

POP_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_POP = re.compile(POP_PATTERN)
MIN_SECRET = 32
"""Characters of a shared secret, at least."""


_NO_URL = "expected a URL such as https://zurich.example.com, without user, query and fragment"


class ReplicationConfig(BaseModel):
    """Who this POP is, who the other one is, and how they know each other."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    role: Literal["primary", "backup"] | None = Field(
        default=None,
        description="What this POP begins as. Not set: replication is off. Once it has run, the role in the database "
        "counts: promoting and fencing change it there.",
    )
    source_pop: str | None = Field(default=None, description="What this POP is called: letters, digits, - and _.")
    backup_url: str | None = Field(
        default=None,
        description="URL of the backup POP, which a primary sends to. On a backup: the primary's, for a promotion.",
    )
    primary_location: str | None = Field(
        default=None, description="URL of the primary for clients: what `X-Primary-Location` says on a backup."
    )
    authorized_primaries: list[str] = Field(
        default=[], description="The POPs whose replication this one takes, by their `source_pop`."
    )
    secret: SecretStr | None = Field(default=None, description="Secret that both POPs share, of 32 characters or more.")
    secret_file: Path | None = Field(
        default=None,
        description="File with the secret; a second line is a second secret that is accepted while one is replaced.",
    )
    previous_secret: SecretStr | None = Field(
        default=None, description="A second secret that is accepted while `secret` is being replaced."
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file with this POP's certificate, shown to the other one (mTLS)."
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the key of `tls_cert`.")
    tls_ca: Path | None = Field(default=None, description="PEM file with the CA that signs the POPs' certificates.")
    insecure_http: bool = Field(
        default=False,
        description="Allow `http://` to another machine: only inside a tunnel that encrypts.",
    )
    heartbeat_interval: float = Field(
        default=10.0, ge=0.1, le=300, description="Seconds between two heartbeats while there is nothing to send."
    )
    compare_interval: float = Field(
        default=60.0, ge=0.1, le=86_400, description="Seconds between two comparisons of both POPs' hashes."
    )
    stalled_after: float = Field(
        default=60.0, ge=1, le=86_400, description="Seconds without progress after which the operator is alerted."
    )

    @field_validator("source_pop")
    @classmethod
    def _pop(cls, value: str | None) -> str | None:
        return None if value is None else _pop_name(value)

    @field_validator("authorized_primaries")
    @classmethod
    def _pops(cls, value: list[str]) -> list[str]:
        return [_pop_name(name) for name in value]

    @field_validator("backup_url", "primary_location")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else _clean_url(value)

    @field_validator("secret", "previous_secret")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_SECRET:
            raise ValueError(f"expected {MIN_SECRET} characters or more; `openssl rand -hex 32` makes one")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.role is None:
            return self
        if self.source_pop is None:
            raise ValueError(f'role = "{self.role}" needs source_pop: what this POP is called')
        if self.role == "primary" and self.backup_url is None:
            raise ValueError('role = "primary" needs backup_url: where to send to')
        if self.role == "backup" and self.primary_location is None:
            raise ValueError('role = "backup" needs primary_location: where clients are sent to write')
        if self.role == "backup" and not self.authorized_primaries:
            raise ValueError('role = "backup" needs authorized_primaries: the source_pop of the primary')
        if self.source_pop in self.authorized_primaries:
            raise ValueError("authorized_primaries names this POP itself; name the other one")
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file exclude each other")
        given = [part is not None for part in (self.tls_cert, self.tls_key, self.tls_ca)]
        if any(given) and not all(given):
            raise ValueError("tls_cert, tls_key and tls_ca belong together: give all three or none")
        if not any(given) and self.secret is None and self.secret_file is None:
            raise ValueError(
                "the POPs need a way to know each other: secret, secret_file, or tls_cert, tls_key, tls_ca"
            )
        if self.backup_url is not None:
            try:
                self.pop_url(self.backup_url)
            except ValueError as error:
                raise ValueError(f"backup_url: {error}") from None
        return self

    def pop_url(self, text: str) -> str:
        """Return a URL that this POP may show who it is at, without a slash at its end. Raises `ValueError`."""
        url = _clean_url(text)
        parts = urlsplit(url)
        if parts.scheme == "http" and not self.insecure_http and not _is_this_machine(parts.hostname or ""):
            raise ValueError("expected https://; http:// is for this machine, or with insecure_http")
        return url

    def check_files(self) -> None:
        """Raise `ConfigError` for a file that is named here and is of no use."""
        from clavitor_commercial_replication import peers, startup

        if self.role is not None:
            peers.Secrets(self).load()
            if self.mutual_tls:
                startup.check_files(self)

    @property
    def mutual_tls(self) -> bool:
        """Whether the POPs know each other by certificates."""
        return self.tls_cert is not None


def _pop_name(value: str) -> str:
    if not _POP.fullmatch(value):
        raise ValueError("expected 1 to 63 letters, digits, - and _, the first one a letter or digit")
    return value


def _clean_url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:  # such as an IPv6 address without its end
        raise ValueError(_NO_URL) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        raise ValueError(_NO_URL)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("expected a port from 1 to 65535") from None
    return text.rstrip("/")


def _is_this_machine(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
