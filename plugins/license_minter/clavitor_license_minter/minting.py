"""The command that signs: what was asked for becomes a token, in a file or on standard output (seed section 7.2)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from clavitor_licensing.domain.canonical import split_token
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
from clavitor_licensing.domain.keys import PublicKey, PublicKeyError, load_public_keys
from clavitor_licensing.domain.limits import LicenseLimits
from clavitor_licensing.domain.schema import read_payload
from clavitor_licensing.domain.state import days_until
from clavitor_licensing.domain.validator import LicenseValidator

from clavitor_license_minter.errors import MinterError
from clavitor_license_minter.files import read_input, say, write_new, write_out
from clavitor_license_minter.mint import mint
from clavitor_license_minter.private_key import load_private_key
from clavitor_license_minter.times import shown, shown_end
from clavitor_license_minter.tokens import given_token

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def mint_command(given: argparse.Namespace, now: int) -> None:
    """Mint what the arguments ask for. now: Unix seconds. Raises `MinterError`."""
    public_keys = given_public_keys(given.public_key) if given.verify or given.renew is not None else ()
    private_key = load_private_key(given.private_key, given.passphrase_file)
    own = _public_half(private_key)
    notes: list[str] = []
    info = _license(given, now) if given.renew is None else _renewal(given, now, (own, *public_keys), notes)
    if info.exp <= now:
        raise MinterError(f"--expires is over: {shown_end(info.exp)}")
    try:
        token = mint(info, private_key)
    except ValueError as error:
        raise MinterError(str(error)) from None
    output = None if given.output in (None, "-") else Path(given.output)
    if output is not None:
        write_new(output, f"{token}\n")
    if given.verify:
        _verify(info, token, output, public_keys, now)
    if output is None:
        write_out(token)
    for line in (*notes, *_understood(info, own, now)):
        say(line)
    if given.verify:
        say("verified: a server with this public key accepts it")
    if output is not None:
        say(f"written to {output}")
    if not info.limits.explicit:
        say("warning: no --max-… is given: this license lifts nothing, every cap is that of the default tier")


def given_public_keys(text: str | None) -> tuple[PublicKey, ...]:
    """Return the keys of `--public-key`; none when it was not given. Raises `MinterError`."""
    try:
        return () if text is None else load_public_keys(text)
    except PublicKeyError as error:
        raise MinterError(f"--public-key: {error}") from None


def _license(given: argparse.Namespace, now: int) -> LicenseInfo:
    return LicenseInfo(
        license_id=given.license_id or str(uuid4()),
        tenant_id=given.tenant,
        label=given.label,
        iat=now,
        exp=given.expires,
        grace_period_days=given.grace_days or 0,
        limits=LicenseLimits(given.limits),
    )


def _renewal(given: argparse.Namespace, now: int, keys: tuple[PublicKey, ...], notes: list[str]) -> LicenseInfo:
    """Only what the vendor signed is signed again: a customer's own numbers must not come back with a signature.

    notes: takes what there is to say when all went well.
    """
    token = given_token(given.renew)
    try:
        old = read_payload(split_token(token)[0]).info
        _, ignored = LicenseValidator(keys, old.tenant_id).parse(token, now)
    except LicenseRejected as rejection:
        hint = "; --public-key names the key it was signed with" if rejection.code == "signature" else ""
        raise MinterError(f"--from: {rejection.message}{hint}") from None
    if given.tenant is not None and given.tenant != old.tenant_id:
        raise MinterError(f"--from: that license is for the tenant {old.tenant_id}; mint a new one for another tenant")
    if given.license_id == old.license_id:
        raise MinterError("--license-id: a renewal has another id than the license it renews")
    if ignored:
        notes.append(f"left out, as no server reads it: {', '.join(ignored)}")
    notes.append(f"renews {old.license_id}, which expires {shown_end(old.exp)}")
    return old._replace(
        license_id=given.license_id or str(uuid4()),
        label=old.label if given.label is None else given.label,
        iat=now,
        exp=given.expires,
        grace_period_days=old.grace_period_days if given.grace_days is None else given.grace_days,
        limits=LicenseLimits({**old.limits.explicit, **given.limits}),
    )


def _verify(info: LicenseInfo, token: str, output: Path | None, keys: tuple[PublicKey, ...], now: int) -> None:
    """Check the license as a server would, as it was written. A file that is not right is deleted."""
    right = False
    try:
        written = token if output is None else read_input(str(output), "--output").decode("utf-8", "replace")
        right = LicenseValidator(keys, info.tenant_id).validate(written, now) == info
    except LicenseRejected as rejection:
        raise MinterError(f"--verify: {rejection.message}{_fate(output)}") from None
    finally:
        if not right and output is not None:
            output.unlink(missing_ok=True)
    if not right:
        raise MinterError(f"--verify: the license reads back as another one{_fate(output)}")


def _fate(output: Path | None) -> str:
    return "" if output is None else f"; {output} is deleted"


def _public_half(private_key: Ed25519PrivateKey) -> PublicKey:
    key = private_key.public_key()
    return PublicKey(key.public_bytes_raw(), "the private key's public half", key)


def _understood(info: LicenseInfo, key: PublicKey, now: int) -> Iterator[str]:
    limits = " ".join(f"{name}={value}" for name, value in info.limits.explicit.items())
    grace = f"{info.grace_period_days} days, until {shown_end(info.grace_ends)}" if info.grace_period_days else "none"
    for name, value in (
        ("license", info.license_id),
        ("tenant", info.tenant_id),
        ("label", "none" if info.label is None else info.label),
        ("issued", shown(info.iat)),
        ("expires", f"{shown_end(info.exp)} (days: {days_until(info.exp, now)})"),
        ("grace", grace),
        ("limits", limits or "the default tier"),
        ("signed by", f"key with SHA-256 {key.fingerprint}"),
    ):
        yield f"{name + ':':<11}{value}"
