"""Words for people that the commands and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from clavitor_licensing.domain.limits import LIMITS, VALUE_LIMITS
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.models import iso

if TYPE_CHECKING:
    from clavitor_licensing.models import LimitUsage, Preview, RetentionPreview, View

LIMIT_NAMES: Final = dict(
    zip(
        LIMITS,
        (
            "Environments",
            "Apps",
            "Agents",
            "Users",
            "Outbound connections",
            "Alert rules",
            "CPU, in thousandths of a core",
            "Memory, in MB",
            "Replicas",
            "Days that executions are kept",
            "Days that logs are kept",
            "Days that metrics are kept",
            "JAR versions that are kept",
        ),
        strict=True,
    )
)

_DELETED: Final = dict(
    zip(
        LIMITS[-4:],
        (
            "executions, processors, route diagrams and agent events older than {} are deleted",
            "logs older than {} are deleted",
            "metrics older than {} are deleted",
            "of each app all but the newest {}, and those that a deployment uses, are deleted",
        ),
        strict=True,
    )
)
"""What a cap does to what is there, by the limits on a value."""

SETTINGS: Final = {"env": "CLAVITOR_LICENSE_TOKEN", "file": "CLAVITOR_LICENSE_FILE"}
"""The settings that win at every start, by the source that they are."""

_SOURCES: Final = {
    "env": "from CLAVITOR_LICENSE_TOKEN",
    "file": "from CLAVITOR_LICENSE_FILE",
    "api": "over the API or on the page",
    "command": "with clavitor license install",
}

_ADVICE: Final[dict[LicenseState, str]] = {
    LicenseState.GRACE: "Ask your vendor for a renewed license and install it before the grace period ends.",
    LicenseState.EXPIRED: "Ask your vendor for a renewed license and install it.",
    LicenseState.INVALID: "Install a license that this server accepts, or remove the one that it refuses.",
}

_REASONS: Final = {
    "malformed": "Take the token anew from what your vendor sent: a paste that lost characters does this.",
    "no_public_key": "Set CLAVITOR_LICENSE_PUBLIC_KEY to your vendor's public key and restart the server.",
    "signature": "Compare CLAVITOR_LICENSE_PUBLIC_KEY with your vendor's public key; if they agree, the token was "
    "changed after it was signed: ask for it again.",
    "schema": "Ask your vendor for another token: this one was not made for this version.",
    "tenant": "Set CLAVITOR_TENANT_ID to the tenant of the license, or ask your vendor for a license of this tenant.",
    "not_yet_valid": "Set the clock of this machine right; if it is, ask your vendor for another token.",
}


_STORED: Final = {
    **_REASONS,
    "malformed": "What is stored was damaged or edited: install the token again from what your vendor sent.",
    "signature": "Compare CLAVITOR_LICENSE_PUBLIC_KEY with your vendor's public key: another key signed the stored "
    "license, or it was changed in the database. If they agree, install the token again.",
    "tenant": "Set CLAVITOR_TENANT_ID back to the tenant of the stored license, or ask your vendor for a license of "
    "this tenant and install it.",
}
"""The same of a license that is stored, and was good when it was installed."""

FILE_UNREADABLE: Final = (
    "See that the file CLAVITOR_LICENSE_FILE names is there, that the user the server runs as can read it, and that it "
    "holds the token; or unset the variable. Then restart the server."
)


def is_full(limit: LimitUsage) -> bool:
    """Whether the next one is refused."""
    return limit.current == limit.cap and limit.key not in VALUE_LIMITS


def warnings(preview: Preview) -> Iterator[str]:
    """Yield what is worse about a license than what there is now."""
    info, old = preview.license, preview.replaces
    if preview.state is LicenseState.EXPIRED:
        yield "this license has expired: it would lift nothing."
    elif preview.state is LicenseState.GRACE:
        yield "this license has expired and is in its grace period."
    elif old is not None and info.exp < old.exp:
        yield f"it expires earlier ({iso(info.exp)}) than the one that is stored ({iso(old.exp)})."
    yield from deletions(preview.retention)
    over = [limit.key for limit in preview.limits if limit.over_by and limit.key not in VALUE_LIMITS]
    if over:
        yield f"more is in use than it allows: {', '.join(over)}. What is above a cap stays; new ones are refused."


def deleted(limit: str, cap: int) -> str:
    """Return what is deleted under the cap of a limit on a value, and not kept."""
    unit = "artifact" if limit == LIMITS[-1] else "day"
    return _DELETED[limit].format(f"{cap} {unit}{'' if cap == 1 else 's'}")


def deletions(shrunk: Iterable[RetentionPreview]) -> Iterator[str]:
    """Yield what would be deleted, a sentence a limit, with the environments where it is."""
    environments: dict[tuple[str, int], list[str]] = {}
    for one in shrunk:
        if one.limit in _DELETED:
            environments.setdefault((one.limit, one.new), []).append(f"{one.environment} (now {one.old})")
    for (limit, new), named in environments.items():
        yield f"{deleted(limit, new)} soon, in {', '.join(named)}."


def installed_how(source: str | None) -> str:
    """Return how a license came here; "" for a source nobody knows."""
    return _SOURCES.get(source or "", "")


def advice(view: View) -> str | None:
    """Return what to do about how licensing stands, None when there is nothing to do."""
    if view.state is not LicenseState.INVALID:
        return _ADVICE.get(view.state)
    if view.rejection is None:
        return about_stored(view)
    return about_setting(view.rejection.source, view.rejection.code, view.rejection.message) or _ADVICE[view.state]


def about_stored(view: View) -> str:
    """Return what to do about a stored license that is refused."""
    return _STORED.get(view.stored_refusal or "") or _ADVICE[LicenseState.INVALID]


def about_setting(source: str, code: str, message: str) -> str | None:
    """Return what to do about a token that was refused, by where it came from."""
    if source == "file" and message.startswith("License file "):
        return FILE_UNREADABLE
    return about_refusal(code)


def about_refusal(code: str | None) -> str | None:
    """Return what to do about a token that was refused, None for a code of anything else."""
    return _REASONS.get(code or "")


def shadow_notice(setting: str) -> str:
    """Return that the license lasts until the next start. setting: the source that wins then."""
    return (
        f"{SETTINGS.get(setting, setting)} names another token, which is installed at every start: "
        "the license that is in force lasts until the next restart."
    )
