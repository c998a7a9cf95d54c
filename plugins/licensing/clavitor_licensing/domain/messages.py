"""What people read: why something was refused (seed section 4), and how the license fares (seed section 5).

Days are whole: those that passed rounded down, those that are left rounded up.
"""

from __future__ import annotations

from clavitor_licensing.domain.info import LicenseRejected
from clavitor_licensing.domain.state import Held, LicenseState, days_since, days_until, license_state


def cap_message(held: Held, now: int, *, limit: str, cap: int, current: int) -> str:
    """Return why nothing more can be created. limit: its key. cap: what applies now. now: Unix seconds."""
    if held is None:
        return f"No license installed: {_default_tier(limit, cap)}. Install a license to raise this."
    if isinstance(held, LicenseRejected):
        return f"License rejected ({held.message}): {_default_tier(limit, cap)}. Fix the license to raise this."
    state = license_state(held, now)
    usage = f"Current usage is {current}."
    if state is LicenseState.ACTIVE:
        return f"License cap reached: {limit} = {cap}. {usage} Contact your vendor to raise the cap."
    expired = f"License expired {_ago(held.exp, now)}"
    if state is LicenseState.GRACE:
        left = _days(days_until(held.grace_ends, now))
        return (
            f"{expired} and is in its grace period (ends in {left}). Cap unchanged at {cap}. Renew before grace ends."
        )
    tier = f"system reverted to default tier (cap = {cap} for {limit})"
    return f"{expired}: {tier}. {usage} Renew the license to lift the cap."


def usage_message(held: Held, now: int) -> str:
    """Return how the license fares, in one or two sentences. now: Unix seconds."""
    if held is None:
        return "No license installed. Default tier applies."
    if isinstance(held, LicenseRejected):
        return f"License rejected: {held.message}. Default tier applies. Fix the license to recover."
    state = license_state(held, now)
    if state is LicenseState.ACTIVE:
        return f"License active. {_days(days_until(held.exp, now))} remaining."
    expired = f"License expired {_ago(held.exp, now)}."
    if state is LicenseState.GRACE:
        left = _days(days_until(held.grace_ends, now))
        return f"{expired} Grace period ends in {left}. Renew now to avoid degradation."
    return f"{expired} System reverted to default tier."


def _default_tier(limit: str, cap: int) -> str:
    return f"default tier applies (cap = {cap} for {limit})"


def _ago(then: int, now: int) -> str:
    days = days_since(then, now)
    return f"{_days(days)} ago" if days else "today"


def _days(days: int) -> str:
    return "1 day" if days == 1 else f"{days} days"
