"""What a payload must hold (spec section 2, seed section 2.1), checked in the order of the specification."""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from clavitor_licensing.domain.info import DAY, LicenseInfo, LicenseRejected
from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS, MAX_LIMIT, LicenseLimits
from clavitor_licensing.domain.strict import StrictJSONError, loads

MAX_GRACE_DAYS: Final = 365
MAX_LABEL: Final = 200
"""Characters."""
END_OF_TIME: Final = 253_402_300_799
"""9999-12-31T23:59:59Z: the last second that every date type can hold."""

_REQUIRED: Final = ("licenseId", "tenantId", "iat", "exp")
_FIELDS: Final = frozenset((*_REQUIRED, "label", "gracePeriodDays", "limits"))
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Payload(NamedTuple):
    """A payload that was read. ignored: the fields and limits nobody knows, ready to be shown: ASCII, cut short."""

    info: LicenseInfo
    ignored: tuple[str, ...] = ()


def read_payload(data: bytes) -> Payload:
    """Read the payload of a token. Raises `LicenseRejected` (`schema`)."""
    try:
        fields, problem = loads(data), ""
    except StrictJSONError as error:
        fields, problem = None, str(error)
    if problem:
        raise _schema(problem)
    if not isinstance(fields, dict):
        raise _schema("it is not a JSON object")
    for name in _REQUIRED:
        if name not in fields:
            raise _schema(f"{name} is missing")
    license_id, tenant_id = fields["licenseId"], fields["tenantId"]
    if not is_license_id(license_id):
        raise _schema("licenseId is not a UUID")
    if not is_tenant_id(tenant_id):
        raise _schema("tenantId is not 1 to 128 of A-Z a-z 0-9 . _ - that begin with a letter or digit")
    iat = _whole("iat", fields["iat"], END_OF_TIME)
    exp = _whole("exp", fields["exp"], END_OF_TIME)
    if iat >= exp:
        raise _schema("exp is not after iat")
    grace = _whole("gracePeriodDays", fields.get("gracePeriodDays", 0), MAX_GRACE_DAYS)
    if exp + grace * DAY > END_OF_TIME:
        raise _schema("exp and gracePeriodDays lead beyond the year 9999")
    limits = _limits(fields.get("limits", {}))
    label = fields.get("label")
    if "label" in fields and not is_label(label):
        raise _schema(f"label is not a text of at most {MAX_LABEL} printable characters")
    info = LicenseInfo(license_id.lower(), tenant_id, label, iat, exp, grace, limits)
    return Payload(info, _ignored(fields))


def is_license_id(value: object) -> bool:
    """Whether it is a UUID as RFC 9562 writes it: five groups of hexadecimal digits."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def is_tenant_id(value: object) -> bool:
    """Whether it can be a tenant's id."""
    return isinstance(value, str) and _TENANT.fullmatch(value) is not None


def is_label(value: object) -> bool:
    """Whether it can be a label: short, without control, formatting and unassigned characters."""
    return isinstance(value, str) and len(value) <= MAX_LABEL and value.isprintable()


def _limits(value: Any) -> LicenseLimits:
    if not isinstance(value, dict):
        raise _schema("limits is not an object")
    explicit = {key: _whole(key, value[key], MAX_LIMIT) for key in DEFAULT_TIER_LIMITS if key in value}
    return LicenseLimits(MappingProxyType(explicit))


def _whole(name: str, value: object, highest: int) -> int:
    # `type`, not `isinstance`: to Python a boolean is an integer.
    if type(value) is not int or not 0 <= value <= highest:
        raise _schema(f"{name} is not an integer from 0 to {highest}")
    return value


def _ignored(fields: dict[str, Any]) -> tuple[str, ...]:
    names = [name for name in fields if name not in _FIELDS]
    names += [f"limits.{key}" for key in fields.get("limits", ()) if key not in DEFAULT_TIER_LIMITS]
    return tuple(json.dumps(name)[1:-1][:80] for name in names) if names else ()


def _schema(why: str) -> LicenseRejected:
    return LicenseRejected("schema", f"License payload is not valid: {why}")
