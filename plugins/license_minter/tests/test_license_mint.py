"""LicenseMinterTest of the seed's section 10: signing is a pure function of the license and the key."""

from __future__ import annotations

import os
import subprocess
import sys
from types import MappingProxyType

import pytest
from clavitor_license_minter import mint
from clavitor_licensing.domain.canonical import canonical_json, split_token
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.domain.limits import LIMITS, LicenseLimits
from clavitor_licensing.domain.schema import END_OF_TIME, read_payload
from clavitor_licensing_testing.support import LICENSE_ID, NOW, TENANT, VECTORS, license_info, private_key, validator
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

INFO = LicenseInfo(LICENSE_ID, TENANT, "ACME — “é”", NOW, NOW + 9, 30, LicenseLimits({"max_users": 1, "max_apps": 2}))
PROGRAM = """
from clavitor_license_minter import mint
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.domain.limits import LIMITS, LicenseLimits
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
limits = LicenseLimits({name: 7 for name in set(LIMITS)})
info = LicenseInfo("550e8400-e29b-41d4-a716-446655440000", "acme", "a — b", 1, 2, 3, limits)
print(mint(info, Ed25519PrivateKey.from_private_bytes(bytes(32))))
"""


def test_round_trip_with_a_throw_away_key() -> None:
    assert validator().validate(mint(INFO, private_key(0)), NOW) == INFO


def test_every_limit_makes_the_round_trip() -> None:
    info = license_info(**{name: number for number, name in enumerate(LIMITS)})
    assert validator().validate(mint(info, private_key(0)), NOW) == info


def test_the_payload_is_canonical_json() -> None:
    payload, _ = split_token(mint(INFO, private_key(0)))
    assert payload.decode() == (
        '{"exp":1760000009,"gracePeriodDays":30,"iat":1760000000,"label":"ACME — “é”",'
        '"licenseId":"550e8400-e29b-41d4-a716-446655440000","limits":{"max_apps":2,"max_users":1},"tenantId":"acme-corp"}'
    )


@pytest.mark.parametrize("name", ["active", "no label, no limits", "limit zero allowed"])
def test_the_shared_vectors_are_canonical_in_the_same_way(name: str) -> None:
    (token,) = (vector["token"] for vector in VECTORS["vectors"] if vector["name"] == name)
    payload, _ = split_token(token)
    assert canonical_json(read_payload(payload).info.payload()) == payload


def test_the_same_license_is_the_same_token() -> None:
    turned = INFO._replace(limits=LicenseLimits(MappingProxyType({"max_apps": 2, "max_users": 1})))
    assert mint(INFO, private_key(0)) == mint(turned, private_key(0)) == mint(INFO, private_key(0))


def test_the_token_does_not_depend_on_the_run_or_its_hash_seed() -> None:
    tokens = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "4294967295")
    }
    assert len(tokens) == 1


def test_a_known_token() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    token = mint(LicenseInfo(LICENSE_ID, "a", None, 0, 1, 0, LicenseLimits()), key)
    assert token == (
        "eyJleHAiOjEsImdyYWNlUGVyaW9kRGF5cyI6MCwiaWF0IjowLCJsaWNlbnNlSWQiOiI1NTBlODQwMC1lMjliLTQxZDQtYTcxNi00NDY2NTU0NDAw"
        "MDAiLCJ0ZW5hbnRJZCI6ImEifQ==."
        "bGyAC+96jGJ7Q8ZTXjo4EVSu7UQDbY12fbKK7ZKcNAGixd5fRfax23+oI0wa8UurdHKiaY2bgETAuQyoA38cCQ=="
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"license_id": "x"}, "licenseId"),
        ({"license_id": LICENSE_ID.upper()}, "letter case"),
        ({"tenant_id": ""}, "tenantId"),
        ({"exp": NOW}, "exp is not after iat"),
        ({"iat": -1}, "iat"),
        ({"exp": END_OF_TIME}, "9999"),
        ({"grace_period_days": 366}, "gracePeriodDays"),
        ({"grace_period_days": True}, "gracePeriodDays"),
        ({"label": "a" * 201}, "label"),
        ({"label": "\ud800"}, "surrogate"),
        ({"label": "\u202e"}, "label"),
        ({"limits": LicenseLimits({"max_apps": -1})}, "max_apps"),
        ({"limits": LicenseLimits({"max_apps": 2**31})}, "max_apps"),
        ({"limits": LicenseLimits({"max_unicorns": 1})}, "limit's key"),
    ],
)
def test_what_no_server_would_take_is_not_signed(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mint(INFO._replace(**changes), private_key(0))  # type: ignore[arg-type]
