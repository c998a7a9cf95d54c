"""How the other POP is known: by a bearer that a shared secret and the date make, or by its certificate.

Neither is good for anything but `/api/replication`, and no other credential is good there.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from clavitor_commercial_replication.config import MIN_SECRET, POP_PATTERN, ReplicationConfig
from clavitor_host.api import ConfigError, Identity, Problem, Request, log, problem

if TYPE_CHECKING:
    from pathlib import Path

    from clavitor_commercial_replication.service import Replication
    from clavitor_host.api import Host

PREFIX = "/api/replication/"
"""Where the other POP's credential is good."""

ACTOR = "pop:"
"""What the actor of another POP begins with; its name follows."""

MAX_FILE = 4096
"""Bytes of a secret file, at most."""

_POP = re.compile(POP_PATTERN)
_BEARER = re.compile(rf"pop\.({POP_PATTERN})\.([0-9a-f]{{64}})")
_DAYS = (-1, 0, 1)


class Secrets:
    """The secrets that both POPs share: the one in use, and one that is accepted beside it."""

    def __init__(self, config: ReplicationConfig) -> None:
        self._file = config.secret_file
        self._previous = _revealed(config.previous_secret)
        self._keys = [*_revealed(config.secret), *self._previous]
        self._seen: object = None

    @property
    def known(self) -> bool:
        """Whether there is one at all; without, the POPs know each other by certificates only."""
        return bool(self._keys)

    def load(self) -> None:
        """Read the secret file, where there is one. Raises `ConfigError`."""
        if self._file is not None:
            self._seen = _mark(self._file)
            self._keys = [*_read(self._file), *self._previous]

    def reload(self) -> bool:
        """Read the file again, and return whether it said something new. One that cannot be used changes nothing."""
        before = self._keys
        try:
            self.load()
        except ConfigError as error:
            log.warning("The secret is not read again", error=str(error))
        return self._keys != before

    def bearer(self, pop: str, now_us: int) -> str:
        """Return the token that shows who `pop` is, good today. now_us: µs since the epoch."""
        return f"pop.{pop}.{_mac(self._keys[0], pop, _day(now_us, 0))}"

    def verify(self, token: str, now_us: int) -> str | None:
        """Return the POP whose token this is, None for one that no secret of ours made for yesterday, today or
        tomorrow. A file that has changed is read first, so a secret that was taken out of it is good no longer."""
        match = _BEARER.fullmatch(token)
        if match is None:
            return None
        if self._file is not None and _mark(self._file) != self._seen:
            self.reload()
        return match[1] if self._matches(match[1], match[2], now_us) else None

    def _matches(self, pop: str, shown: str, now_us: int) -> bool:
        found = False
        for key in self._keys:
            for day in _DAYS:
                found |= hmac.compare_digest(_mac(key, pop, _day(now_us, day)), shown)
        return found


def by_credential(service: Replication, request: Request) -> Identity | None:
    """Return the POP that makes a request to `/api/replication`, None when none that we know does."""
    if not request.path.startswith(PREFIX):
        return None
    shown = request.header(b"authorization")
    pop: str | None = None
    if shown is not None:
        scheme, _, token = shown.partition(" ")
        if scheme.lower() == "bearer":
            pop = service.secrets.verify(token.strip(" "), service.host.clock.now_us())
    elif service.config.mutual_tls and request.peer_certificate is not None:
        pop = _certified(request.peer_certificate, service.config.authorized_primaries)
    return None if pop is None else Identity("peer", f"{ACTOR}{pop}", scope="write", via="plugin")


def check_ca(host: Host, config: ReplicationConfig) -> None:
    """Raise `ConfigError` unless the CA of those who connect is that of the POPs: under another one, anybody with a
    certificate for a POP's name, an agent's maybe, would be that POP."""
    ours, theirs = config.tls_ca, host.config.tls.client_ca
    if not config.mutual_tls or ours is None or theirs is None or host.config.tls.client_auth == "none":
        return
    try:
        same = ours.read_bytes().split() == theirs.read_bytes().split()
    except OSError as error:
        raise ConfigError(f"[tls] client_ca: {theirs} cannot be read: {error.strerror}.") from None
    if not same:
        raise ConfigError(
            f"plugins.commercial_replication.tls_ca: {ours} and [tls] client_ca, {theirs}, have to be the same CA: who "
            "shows a certificate of client_ca with a POP's name is taken for that POP."
        )


def check_authorized(service: Replication, identity: Identity) -> None:
    """Raise unless the POP may replicate here: 409 `same_pop` for this one itself, 403 `pop_not_authorized`."""
    pop = pop_of(identity)
    if pop == service.config.source_pop:
        raise problem(409, "same_pop", f"This POP is {pop} itself: replication leads back to where it comes from.")
    if pop not in service.config.authorized_primaries:
        raise Problem(403, "pop_not_authorized", f"The POP {pop} is not in authorized_primaries here.")


def pop_of(identity: Identity) -> str:
    """Return the name of a POP that was authenticated."""
    return identity.actor.removeprefix(ACTOR)


def _certified(certificate: Mapping[str, Any], expected: Sequence[str]) -> str | None:
    """Return the POP that a verified certificate names: by its alternative names, or its CN when it has none."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    pops = [name for name in names if _POP.fullmatch(name)]
    return next((name for name in pops if name in expected), pops[0] if pops else None)


def _mac(key: bytes, pop: str, day: str) -> str:
    return hmac.digest(key, f"{pop}\n{day}".encode(), "sha256").hex()


def _day(now_us: int, offset: int) -> str:
    return (datetime.fromtimestamp(now_us // 1_000_000, UTC) + timedelta(days=offset)).strftime("%Y-%m-%d")


def _revealed(*secrets: Any) -> list[bytes]:
    return [secret.get_secret_value().encode() for secret in secrets if secret is not None]


def _mark(path: Path) -> object:
    """Return what changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> Iterable[bytes]:
    where = f"plugins.commercial_replication.secret_file: {path}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}.") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if len(content) > MAX_FILE or not 1 <= len(lines) <= 2:
        raise ConfigError(f"{where}: expected one line with the secret, and at most a second one.")
    if any(len(line) < MIN_SECRET for line in lines):
        raise ConfigError(
            f"{where}: expected {MIN_SECRET} characters or more a line; `openssl rand -hex 32` makes one."
        )
    return lines
