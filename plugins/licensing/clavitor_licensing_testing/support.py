"""Keys that openssl made, and tokens that are signed whatever they say."""

from __future__ import annotations

import base64
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

from clavitor_licensing.domain.canonical import encode_token
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.domain.keys import PublicKey, load_public_keys
from clavitor_licensing.domain.limits import LicenseLimits
from clavitor_licensing.domain.validator import LicenseValidator
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "tests" / "vectors" / "license_tokens.json").read_text(encoding="utf-8")
)
NOW: Final = 1_760_000_000
TENANT: Final = "acme-corp"
LICENSE_ID: Final = "550e8400-e29b-41d4-a716-446655440000"
GOOD: Final[dict[str, Any]] = {
    "licenseId": LICENSE_ID,
    "tenantId": TENANT,
    "iat": 1_745_539_200,
    "exp": 1_777_075_200,
    "gracePeriodDays": 30,
    "label": "ACME prod 2026 — site:hamburg",
    "limits": {"max_apps": 50, "max_users": 25},
}


def openssl(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Run openssl and return what it prints."""
    ran = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True)
    return ran.stdout


@cache
def private_key(number: int) -> Ed25519PrivateKey:
    """A throw-away key, the same for a number within a run."""
    return Ed25519PrivateKey.generate()


def public_pem(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_keys(*numbers: int) -> tuple[PublicKey, ...]:
    return load_public_keys(",".join(public_pem(private_key(number)) for number in numbers or (0,)))


def validator(tenant: str = TENANT) -> LicenseValidator:
    return LicenseValidator(public_keys(), tenant)


def signed(payload: bytes | str | object, key: Ed25519PrivateKey | None = None) -> str:
    """A token of any payload, rightly signed. What is neither bytes nor text is written as JSON."""
    if isinstance(payload, str):
        payload = payload.encode()
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return encode_token(data, (key or private_key(0)).sign(data))


def license_info(*, exp: int = GOOD["exp"], grace: int = 30, **limits: int) -> LicenseInfo:
    return LicenseInfo(LICENSE_ID, TENANT, "ACME", GOOD["iat"], exp, grace, LicenseLimits(limits))


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
