"""The table `[plugins.fleet]`, and the variables `CLAVITOR_FLEET_*`."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from clavitor_host.api import ConfigError


def _network(text: str) -> IPv4Network | IPv6Network:
    """Return a network in CIDR notation. Raises a ValueError of one line."""
    try:
        return ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text[:64]!r} is no network, such as 10.1.0.0/16 or fd00::/8") from None
        raise ValueError(f"{text} has host bits set; write {meant}") from None


class FleetConfig(BaseModel):
    """Agents, what they report, and where news of them is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    heartbeat_interval: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Seconds between two heartbeats of an agent. One that misses three is stale and loses its seat.",
    )
    artifact_bytes: int = Field(
        default=536_870_912, ge=1024, le=4_294_967_296, description="Bytes of an artifact; more is answered 413."
    )
    telemetry_url: SecretStr | None = Field(
        default=None,
        description="Where telemetry is kept: `clickhouse://user:password@host:port/database` (`clickhouses://` over "
        "TLS). Not set: in the vault's own database.",
    )
    outbound_allow: list[IPv4Network | IPv6Network] = Field(
        default_factory=list,
        description="Networks that outbound connections may reach although they are private, such as `10.1.0.0/16`.",
    )

    @field_validator("outbound_allow", mode="before")
    @classmethod
    def _outbound_allow(cls, value: Any) -> Any:
        return [_network(one) if isinstance(one, str) else one for one in value] if isinstance(value, list) else value

    @field_validator("telemetry_url")
    @classmethod
    def _telemetry_url(cls, value: SecretStr | None) -> SecretStr | None:
        from clavitor_fleet.telemetry.clickhouse_target import parse_target

        if value is not None:
            try:
                parse_target(value.get_secret_value())
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value
