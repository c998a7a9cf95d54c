"""What the configuration of one plugin alone cannot tell: checked when the server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_host.api import ConfigError, log

if TYPE_CHECKING:
    from clavitor_commercial_replication.config import ReplicationConfig
    from clavitor_commercial_replication.models import State
    from clavitor_host.api import Host

_TABLE = "plugins.commercial_replication"


def check(host: Host, config: ReplicationConfig) -> None:
    """Raise `ConfigError` when the POPs could not know each other with this configuration, in one line."""
    if not host.offline:
        for text in gaps(config):
            log.warning(text)
    if not config.mutual_tls:
        return
    check_files(config)
    shared = config.secret is not None or config.secret_file is not None
    asks = host.config.tls.client_ca is not None and host.config.tls.client_auth != "none"
    if config.authorized_primaries and not shared and not asks:
        raise ConfigError(
            f'{_TABLE}.tls_cert: the other POP shows a certificate too, so [tls] needs client_auth = "optional" (or '
            '"required") and client_ca; or give both POPs a secret.'
        )


def check_left(found: State | None) -> None:
    """Raise `ConfigError` where replication is switched off by the configuration alone on a POP that is read-only: its
    clients' writes would be nobody else's, and lost with the next re-seed."""
    if found is None:
        return
    if found.role != "primary":
        is_what = "the backup" if found.role == "backup" else "fenced"
        raise ConfigError(
            f"{_TABLE}: no role is set, and this POP is {is_what}: it would take writes that the other POP never gets. "
            "Set the role again; to have it stand alone, promote it first with `clavitor replication promote`."
        )
    log.warning("No role is set for replication, and this POP is the primary: what is written now reaches no backup")


def gaps(config: ReplicationConfig) -> list[str]:
    """Return what will be missing only once this POP's role changes, a sentence each."""
    found: list[str] = []
    if not config.authorized_primaries:
        found.append(
            "authorized_primaries is not set, so this POP cannot become the backup of the other one after a failover: "
            "name the other POP there."
        )
    if config.role == "backup" and config.backup_url is None:
        found.append(
            "backup_url is not set, so after a promotion this POP would replicate nothing: set it to the other POP's."
        )
    return found


def check_files(config: ReplicationConfig) -> None:
    """Raise `ConfigError` unless the files of mTLS can be read, and are what they should be."""
    import ssl

    assert config.tls_cert is not None and config.tls_key is not None and config.tls_ca is not None
    for name in ("tls_cert", "tls_key", "tls_ca"):
        path = getattr(config, name)
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{_TABLE}.{name}: {path} cannot be read: {error.strerror}.") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key, lambda: "")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"{_TABLE}.tls_cert: {config.tls_cert} and {config.tls_key} are no PEM certificate and its plain key."
        ) from None
    try:
        context.load_verify_locations(config.tls_ca)
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{_TABLE}.tls_ca: {config.tls_ca} holds no PEM certificate.") from None
