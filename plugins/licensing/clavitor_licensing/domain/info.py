"""A license as a value, and a refusal as an exception."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, TypeAlias

from clavitor_licensing.domain.limits import LicenseLimits

DAY: Final = 86_400
"""Seconds of a day; licenses know no leap seconds and no time zones."""


class LicenseInfo(NamedTuple):
    """What a license says (seed section 2). iat, exp: Unix seconds."""

    license_id: str
    tenant_id: str
    label: str | None
    iat: int
    exp: int
    grace_period_days: int
    limits: LicenseLimits

    @property
    def grace_ends(self) -> int:
        """The first second, in Unix time, at which the license counts no more."""
        return self.exp + self.grace_period_days * DAY

    def payload(self) -> dict[str, Any]:
        """Return the members of the token's payload; no label and no limits are left out."""
        payload: dict[str, Any] = {
            "licenseId": self.license_id,
            "tenantId": self.tenant_id,
            "iat": self.iat,
            "exp": self.exp,
            "gracePeriodDays": self.grace_period_days,
        }
        if self.label is not None:
            payload["label"] = self.label
        if self.limits.explicit:
            payload["limits"] = dict(self.limits.explicit)
        return payload


RejectionCode: TypeAlias = Literal["malformed", "signature", "schema", "tenant", "not_yet_valid", "no_public_key"]


class LicenseRejected(Exception):
    """A token that is no license here.

    code: stable, for programs. message: for people, without a full stop and without anything of the token but a
    tenant id that has the form of one.
    """

    def __init__(self, code: RejectionCode, message: str) -> None:
        super().__init__(message)
        self.code: RejectionCode = code
        self.message = message
