"""The table `[plugins.commercial]`. Without it, and without any of its variables, nothing is sent anywhere."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

_VISIBLE = re.compile(r"[!-~]+")


class CommercialConfig(BaseModel):
    """Where operator alerts and telemetry go."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    telemetry_host: str = Field(
        default="https://clavitor.ai",
        description="URL of the server that receives alerts (`/v1/alerts`) and reports (`/v1/metrics`). "
        'https, or http on this machine itself; "" sends nothing.',
    )
    pop_name: str | None = Field(default=None, max_length=100, description="What this server is called there.")
    pop_region: str | None = Field(default=None, max_length=100, description="Where this server is.")
    telemetry_token: SecretStr | None = Field(
        default=None, min_length=1, max_length=4096, description="Bearer token sent with everything."
    )
    telemetry_interval: int = Field(default=60, ge=10, le=86_400, description="Seconds between two reports.")

    @field_validator("telemetry_host")
    @classmethod
    def _host(cls, value: str) -> str:
        return clean_host(value)

    @field_validator("pop_name", "pop_region")
    @classmethod
    def _shown(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or not value.isprintable()):
            raise ValueError("expected printable text")
        return value

    @field_validator("telemetry_token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _VISIBLE.fullmatch(value.get_secret_value()):
            raise ValueError("expected a token of visible ASCII characters, without spaces")
        return value

    @property
    def pop(self) -> dict[str, str | None]:
        """Who sends, as every body says it."""
        return {"name": self.pop_name, "region": self.pop_region}


def clean_host(text: str) -> str:
    """Return the URL without its trailing slash; "" stays "". Raises ValueError, which never repeats the URL.

    Plain http is taken for this machine alone: the bearer token and the alerts would be readable on the way.
    """
    if not text:
        return text
    parts = urlsplit(text)
    plain = _VISIBLE.fullmatch(text) is not None and not any(char in text for char in "@?#\\")
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or not _port_is_right(parts.netloc):
        raise ValueError("expected a URL such as https://clavitor.ai, without user, query and fragment")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise ValueError("expected https://; http:// is taken for this machine alone (127.0.0.1, [::1], localhost)")
    return text.rstrip("/")


def _port_is_right(netloc: str) -> bool:
    _, colon, port = netloc.rpartition("]")[2].rpartition(":")
    return not colon or (port.isdecimal() and 0 < int(port) < 65_536)


def _is_this_machine(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
