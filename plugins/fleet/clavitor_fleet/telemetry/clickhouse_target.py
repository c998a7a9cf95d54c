"""Which ClickHouse a `telemetry_url` names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from clavitor_host.api import ConfigError

PORTS: Final[Mapping[str, int]] = {"clickhouse": 8123, "clickhouses": 8443}
DATABASE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "clickhouse": frozenset(),
    "clickhouses": frozenset({"ca_file"}),
    "chdb": frozenset({"database"}),
}


class Target(NamedTuple):
    """Where ClickHouse is, over HTTP. `ca_file`: a PEM file of the authorities that its certificate is checked against,
    None for the system's. `path`: the folder of an embedded ClickHouse (chdb), None for a server."""

    host: str
    port: int
    secure: bool
    user: str
    password: str
    database: str
    ca_file: str | None = None
    path: str | None = None


def parse_target(url: str) -> Target:
    """Return what a `telemetry_url` says. Raises ConfigError with one line, which repeats no part of the URL."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True)) if parts.query else {}
        port = parts.port
    except ValueError:
        raise _wrong() from None
    if parts.scheme not in _OPTIONS or parts.fragment:
        raise _wrong()
    unknown = sorted(options.keys() - _OPTIONS[parts.scheme])
    if unknown:
        raise ConfigError("expected no option but ca_file, and that only with clickhouses://")
    if parts.scheme == "chdb":
        if parts.netloc or not parts.path.startswith("/"):
            raise _wrong()
        database = _database(options.get("database", "clavitor"))
        return Target("", 0, False, "", "", database, path=unquote(parts.path))
    if not parts.hostname or port == 0:
        raise _wrong()
    return Target(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        secure=parts.scheme == "clickhouses",
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=_database(unquote(parts.path.strip("/")) or "default"),
        ca_file=options.get("ca_file"),
    )


def _database(name: str) -> str:
    if DATABASE_NAME.fullmatch(name):
        return name
    raise ConfigError("expected a database name of at most 64 letters, digits and underscores")


def _wrong() -> ConfigError:
    return ConfigError("expected clickhouse://user:password@host:port/database, or clickhouses:// for TLS")
