"""The JSON bodies of `/api/v1/admin/license`. Names are the seed's; a token goes in and never comes out."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.models import LimitUsage, Preview, View, iso, iso_of

StateName = Literal["ABSENT", "ACTIVE", "GRACE", "EXPIRED", "INVALID"]
Moment = Annotated[str, Field(description="RFC 3339, UTC, whole seconds.", examples=["2027-04-25T00:00:00Z"])]
Shadow = Annotated[
    Literal["env", "file"] | None,
    Field(description="The setting whose token will replace this at the next start, if one will."),
]


class _Reply(BaseModel):
    model_config = ConfigDict(defer_build=True)


class InstallLicense(BaseModel):
    """A license to install."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    token: SecretStr = Field(description="The token; white space in it does not count.")


class Envelope(_Reply):
    """What a license says."""

    licenseId: str
    tenantId: str
    label: str | None
    iat: int = Field(description="Unix seconds.")
    exp: int = Field(description="Unix seconds.")
    gracePeriodDays: int
    limits: dict[str, int] = Field(description="The limits that stand in it; the default tier holds for the others.")

    @classmethod
    def of(cls, info: LicenseInfo) -> Self:
        return cls(
            licenseId=info.license_id,
            tenantId=info.tenant_id,
            label=info.label,
            iat=info.iat,
            exp=info.exp,
            gracePeriodDays=info.grace_period_days,
            limits=dict(info.limits.explicit),
        )


class LicenseOut(_Reply):
    """The license that is installed. When a later token was refused the state is INVALID, and the envelope still that
    of the stored one."""

    state: StateName
    envelope: Envelope | None
    lastValidatedAt: Moment | None

    @classmethod
    def of(cls, view: View) -> Self:
        return cls(
            state=view.state.value,
            envelope=Envelope.of(view.installed) if view.installed else None,
            lastValidatedAt=iso_of(view.last_validated_at),
        )


class LicenseChanged(LicenseOut):
    """What became of it. `effective_until_restart`: the next start undoes this."""

    effective_until_restart: bool
    shadowed_by: Shadow

    @classmethod
    def of(cls, view: View) -> Self:
        before = LicenseOut.of(view)
        shadow = view.shadowed_by
        return cls(
            state=before.state,
            envelope=before.envelope,
            lastValidatedAt=before.lastValidatedAt,
            effective_until_restart=shadow is not None,
            shadowed_by=shadow,
        )


class LimitOut(_Reply):
    """One limit: what is used, what is allowed, and where that comes from."""

    key: str
    current: int
    cap: int
    source: Literal["license", "default"]


class UsageOut(_Reply):
    """How the license fares (seed section 5)."""

    state: StateName
    expiresAt: Moment | None
    daysRemaining: int | None = Field(description="Negative when it has expired.")
    gracePeriodDays: int | None
    tenantId: str
    label: str | None
    lastValidatedAt: Moment | None
    message: str
    limits: list[LimitOut]

    @classmethod
    def of(cls, view: View, usage: tuple[LimitUsage, ...]) -> Self:
        info = view.license
        return cls(
            state=view.state.value,
            expiresAt=iso(info.exp) if info else None,
            daysRemaining=view.days_remaining,
            gracePeriodDays=info.grace_period_days if info else None,
            tenantId=view.tenant_id,
            label=info.label if info else None,
            lastValidatedAt=iso_of(view.last_validated_at),
            message=view.message,
            limits=[LimitOut(**limit._asdict()) for limit in usage],
        )


class LimitPreviewOut(_Reply):
    """What would become of one cap. `over_by`: how much of what is used would be above it."""

    key: str
    old: int
    new: int
    used: int
    over_by: int


class RetentionPreviewOut(_Reply):
    """What an environment would keep less of: days, or versions. `old` and `new` are what is in force."""

    environment: str
    limit: str
    old: int
    new: int


class PreviewOut(_Reply):
    """What installing would do. Nothing was changed."""

    dry_run: Literal[True] = True
    state: StateName
    envelope: Envelope
    limits: list[LimitPreviewOut]
    retention: list[RetentionPreviewOut]
    effective_until_restart: bool
    shadowed_by: Shadow

    @classmethod
    def of(cls, preview: Preview) -> Self:
        return cls(
            state=preview.state.value,
            envelope=Envelope.of(preview.license),
            limits=[LimitPreviewOut(**limit._asdict()) for limit in preview.limits],
            retention=[RetentionPreviewOut(**shrunk._asdict()) for shrunk in preview.retention],
            effective_until_restart=preview.shadowed_by is not None,
            shadowed_by=preview.shadowed_by,
        )
