"""`inspect`: what a license says, what it is worth now, and whether its signature is right."""

from __future__ import annotations

import argparse
import json

from clavitor_licensing.domain.canonical import split_token
from clavitor_licensing.domain.info import LicenseRejected
from clavitor_licensing.domain.messages import usage_message
from clavitor_licensing.domain.schema import read_payload
from clavitor_licensing.domain.state import Held, license_state
from clavitor_licensing.domain.strict import loads
from clavitor_licensing.domain.validator import LicenseValidator

from clavitor_license_minter.errors import MinterError
from clavitor_license_minter.files import write_out
from clavitor_license_minter.minting import given_public_keys
from clavitor_license_minter.times import shown, shown_end
from clavitor_license_minter.tokens import given_token


def inspect_command(given: argparse.Namespace, now: int) -> int:
    """Show a license. Returns 0, or 1 when no server would take it. now: Unix seconds. Raises `MinterError`."""
    keys = given_public_keys(given.public_key)
    token = given_token(given.token)
    try:
        data, made = split_token(token)
        info, ignored = read_payload(data)
    except LicenseRejected as rejection:
        raise MinterError(rejection.message) from None
    held: Held = info
    signature = "not checked; --public-key checks it"
    if keys:
        by = next((key for key in keys if key.verifies(made, data)), None)
        signature = f"right, by the key with SHA-256 {by.fingerprint}" if by else "WRONG"
        try:
            LicenseValidator(keys, info.tenant_id).validate(token, now)
        except LicenseRejected as rejection:
            held = rejection
    lines = [
        _readable(loads(data)),
        f"issued:    {shown(info.iat)}",
        f"expires:   {shown_end(info.exp)}",
        f"grace:     until {shown_end(info.grace_ends)}" if info.grace_period_days else "grace:     none",
        f"state now: {license_state(held, now)}. {usage_message(held, now)}",
        f"signature: {signature}",
        *([f"ignored:   {', '.join(ignored)}"] if ignored else []),
    ]
    write_out("\n".join(lines))
    return 1 if isinstance(held, LicenseRejected) else 0


def _readable(payload: object) -> str:
    """As JSON; in ASCII when it has characters that could write over the terminal."""
    text = json.dumps(payload, indent=2, ensure_ascii=False, sort_keys=True)
    return text if all(line.isprintable() for line in text.split("\n")) else json.dumps(payload, indent=2)
