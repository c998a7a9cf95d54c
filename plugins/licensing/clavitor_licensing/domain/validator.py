"""Whether a token is a license of this server (spec section 2). The order of the checks is part of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from clavitor_licensing.domain.canonical import split_token
from clavitor_licensing.domain.info import LicenseInfo, LicenseRejected
from clavitor_licensing.domain.schema import Payload, read_payload

if TYPE_CHECKING:
    from clavitor_licensing.domain.keys import PublicKey

MAX_AHEAD: Final = 300
"""Seconds by which `iat` may be ahead of the clock."""


class LicenseValidator:
    """Verifies tokens against public keys, for one tenant.

    keys: any of them may have signed (rotation); none rejects every token. tenant_id: the server's.
    """

    def __init__(self, keys: Sequence[PublicKey], tenant_id: str) -> None:
        self.keys = tuple(keys)
        self.tenant_id = tenant_id

    def validate(self, token: str, now: int) -> LicenseInfo:
        """Return the license, whatever its age. now: Unix seconds. Raises `LicenseRejected`, and nothing else."""
        return self.parse(token, now).info

    def parse(self, token: str, now: int) -> Payload:
        """As `validate`, with the names that were ignored: they belong in one log line."""
        data, signature = split_token(token)
        if not self.keys:
            raise LicenseRejected(
                "no_public_key", "License public key is not configured: set CLAVITOR_LICENSE_PUBLIC_KEY"
            )
        if not any(key.verifies(signature, data) for key in self.keys):
            raise LicenseRejected("signature", "License signature verification failed")
        payload = read_payload(data)
        info = payload.info
        if info.tenant_id != self.tenant_id:
            raise LicenseRejected(
                "tenant", f"License tenantId '{info.tenant_id}' does not match server tenant '{self.tenant_id}'"
            )
        if info.iat > now + MAX_AHEAD:
            issued = datetime.fromtimestamp(info.iat, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise LicenseRejected(
                "not_yet_valid",
                f"License is not valid yet: it was issued at {issued}, ahead of this server's clock",
            )
        return payload
