"""What licences cost: a token that is validated, a cap that is looked up, and a user who is created under one."""

from __future__ import annotations

import http.client
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.load import Result, percentile
from bench.report import Measured, Ratio, Section
from bench.rounds import Bench, BrokenError, progress
from bench.seed import Vault, fresh, grow_wal, temporary

VALIDATE_TARGET = 1.3
"""Most of the time of the bare verify."""
MEMORY_TARGET = 5e-6
"""Seconds."""
CREATE_TARGET = 1.15
"""Most of the time of a create without licensing."""

TENANT = "bench"
LIMIT = "max_users"
CAP = 1_000_000
DAY = 86_400


def run(bench: Bench, *, quick: bool) -> Section:
    """Measure what is done in memory, then users being created."""
    section = Section("Licenses: Ed25519 tokens, caps from memory, users created within a cap", unit="1/s")
    keys = _keys()
    _validating(section, keys, rounds=50 if quick else 200)
    _creating(bench, section, keys, Path(bench.stack.enter_context(temporary())))
    return section


class _Keys:
    """A vendor's keys, and a licence of every limit that they signed."""

    def __init__(self, private: bytes, public: str, token: str) -> None:
        self.private, self.public, self.token = private, public, token


def _keys() -> _Keys:
    import base64

    from clavitor_licensing.domain.canonical import canonical_json, encode_token
    from clavitor_licensing.domain.info import LicenseInfo
    from clavitor_licensing.domain.limits import LIMITS, LicenseLimits
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = Ed25519PrivateKey.generate()
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    limits = LicenseLimits(dict.fromkeys(LIMITS, CAP))
    now = int(time.time())
    info = LicenseInfo("550e8400-e29b-41d4-a716-446655440000", TENANT, "bench", now, now + 365 * DAY, 30, limits)
    payload = canonical_json(info.payload())
    return _Keys(
        private.private_bytes_raw(), base64.b64encode(der).decode(), encode_token(payload, private.sign(payload))
    )


# --- in memory


def _validating(section: Section, keys: _Keys, rounds: int) -> None:
    """Measure in many short rounds: what disturbs one then disturbs its neighbours too."""
    from clavitor_licensing.clock import HighWater
    from clavitor_licensing.domain.canonical import split_token
    from clavitor_licensing.domain.keys import load_public_keys
    from clavitor_licensing.domain.state import LicenseState, LicenseStateMachine
    from clavitor_licensing.domain.validator import LicenseValidator
    from clavitor_licensing.standing import Standing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data, signature = split_token(keys.token)
    public = Ed25519PrivateKey.from_private_bytes(keys.private).public_key()
    validator = LicenseValidator(load_public_keys(keys.public), TENANT)
    now = int(time.time())
    info = validator.validate(keys.token, now)
    standing = Standing(1, LicenseStateMachine(info), HighWater(now * 1_000_000))
    wall = time.time_ns() // 1000

    def bare() -> object:
        public.verify(signature, data)
        return json.loads(data)

    def in_memory() -> object:
        return standing.state(wall), standing.limits(wall).cap(LIMIT)

    if in_memory() != (LicenseState.ACTIVE, CAP):
        raise BrokenError("the license that is measured is none")
    validate = Measured("validate a token")
    floor = Measured("verify and json.loads, nothing else")
    memory = Measured("state and cap from memory")
    works: list[tuple[Measured, Callable[[], object], int]] = [
        (validate, lambda: validator.validate(keys.token, now), 50),
        (floor, bare, 50),
        (memory, in_memory, 5000),
    ]
    for number in range(rounds + 1):
        progress(f"licensing: round {number + 1} of {rounds + 1}, in memory")
        for measured, work, times in works:
            result = _timed(work, times)
            if number:
                measured.rounds.append(result)
    progress("")
    section.measured += [validate, floor, memory]
    _slower(section, validate, floor, VALIDATE_TARGET)
    share = 1 / memory.per_second / MEMORY_TARGET
    section.ratios.append(Ratio(_each(memory), f"{MEMORY_TARGET * 1e6:g} µs", share, 1.0, at_least=False))


def _timed(work: Callable[[], object], times: int) -> Result:
    began = perf_counter()
    for _ in range(times):
        work()
    elapsed = perf_counter() - began
    return Result(times, elapsed, elapsed / times, elapsed / times, times, 0.0)


# --- a create


def _creating(bench: Bench, section: Section, keys: _Keys, folder: Path) -> None:
    """Create users over HTTP, one after the other, with and without the plugin."""
    (folder / "license.tok").write_text(keys.token)
    (folder / "vendor.pub").write_text(keys.public)
    found = []
    for name, kind in (("create a user, licensed", "licensed"), ("create a user, no licensing", "unlicensed")):
        vault = fresh(folder / kind)
        bench.stack.enter_context(closing(grow_wal(vault.file)))
        server = bench.server(kind, f"--data={vault.folder}", f"--license={folder}")
        creating = partial(_users, bench, server.port, vault.token)
        found.append((bench.add(name, creating, server.process.pid), vault))
    section.measured += bench.run("licensing")
    (licensed, vault), (without, _) = found
    if _state_of(vault) != TENANT:
        raise BrokenError("the server that is measured with a license has none")
    _slower(section, licensed, without, CREATE_TARGET)
    section.notes.append(
        "Users are created over HTTP, one after the other, with their audit row and fsync, and without"
    )
    section.notes.append("a password: with one, argon2 is nearly all of it.")


def _users(bench: Bench, port: int, token: str, number: int) -> Result:
    times: list[float] = []
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        until = perf_counter() + bench.pace.seconds
        while (began := perf_counter()) < until:
            user = json.dumps({"name": f"user-{number}-{len(times)}", "role": "VIEWER"})
            connection.request("POST", "/api/v1/admin/users", user, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 201:
                raise BrokenError(f"a user was not created: {body.decode(errors='replace')}")
            times.append(perf_counter() - began)
    elapsed = sum(times)
    times.sort()
    return Result(len(times), elapsed, percentile(times, 0.5), percentile(times, 0.99), len(times), 0.0)


def _state_of(vault: Vault) -> str:
    """Return the tenant of the licence that a server has installed."""
    with closing(sqlite3.connect(vault.file)) as database:
        row = database.execute("SELECT tenant_id FROM license").fetchone()
    return str(row[0]) if row else ""


def _slower(section: Section, value: Measured, floor: Measured, target: float) -> None:
    """Add how many times as long as `floor` it takes, the median over neighbouring rounds."""
    ratio = median(b.per_second / a.per_second for a, b in zip(value.rounds, floor.rounds, strict=True))
    by_cpu = median(value.cpu) / median(floor.cpu) if value.cpu else None
    section.ratios.append(Ratio(_each(value), _each(floor), ratio, target, at_least=False, by_cpu=by_cpu))


def _each(measured: Measured) -> str:
    micros = 1e6 / measured.per_second
    return f"{measured.name} ({micros:,.2f} µs)" if micros < 10 else f"{measured.name} ({micros:,.0f} µs)"
