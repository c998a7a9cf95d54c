"""The sentences of the seed's sections 4 and 5, at the edges of the days."""

from __future__ import annotations

import pytest
from clavitor_licensing.domain.info import DAY, LicenseRejected
from clavitor_licensing.domain.messages import cap_message, usage_message
from clavitor_licensing.domain.state import Held
from clavitor_licensing_testing.support import license_info

EXP = 1_777_075_200
LICENSE = license_info(exp=EXP, grace=30)
BAD = LicenseRejected("signature", "License signature verification failed")


def cap(held: Held, now: int, number: int = 3) -> str:
    return cap_message(held, now, limit="max_apps", cap=number, current=3)


def test_absent() -> None:
    assert cap(None, EXP) == (
        "No license installed: default tier applies (cap = 3 for max_apps). Install a license to raise this."
    )
    assert usage_message(None, EXP) == "No license installed. Default tier applies."


def test_active() -> None:
    assert cap(LICENSE, EXP - 1, 50) == (
        "License cap reached: max_apps = 50. Current usage is 3. Contact your vendor to raise the cap."
    )


@pytest.mark.parametrize(
    ("left", "days"),
    [(1, "1 day"), (DAY, "1 day"), (DAY + 1, "2 days"), (2 * DAY, "2 days"), (365 * DAY, "365 days")],
)
def test_active_days_are_rounded_up(left: int, days: str) -> None:
    assert usage_message(LICENSE, EXP - left) == f"License active. {days} remaining."


@pytest.mark.parametrize(
    ("after", "ago", "left"),
    [
        (0, "today", "30 days"),
        (1, "today", "30 days"),
        (DAY - 1, "today", "30 days"),
        (DAY, "1 day ago", "29 days"),
        (2 * DAY - 1, "1 day ago", "29 days"),
        (2 * DAY, "2 days ago", "28 days"),
        (28 * DAY + 1, "28 days ago", "2 days"),
        (29 * DAY, "29 days ago", "1 day"),
        (30 * DAY - 1, "29 days ago", "1 day"),
    ],
)
def test_grace(after: int, ago: str, left: str) -> None:
    assert cap(LICENSE, EXP + after, 50) == (
        f"License expired {ago} and is in its grace period (ends in {left}). Cap unchanged at 50. "
        "Renew before grace ends."
    )
    assert usage_message(LICENSE, EXP + after) == (
        f"License expired {ago}. Grace period ends in {left}. Renew now to avoid degradation."
    )


@pytest.mark.parametrize(
    ("grace", "after", "ago"),
    [
        (30, 30 * DAY, "30 days ago"),
        (0, 0, "today"),
        (0, DAY - 1, "today"),
        (0, DAY, "1 day ago"),
        (1, DAY, "1 day ago"),
    ],
)
def test_expired(grace: int, after: int, ago: str) -> None:
    info = license_info(exp=EXP, grace=grace)
    assert cap(info, EXP + after) == (
        f"License expired {ago}: system reverted to default tier (cap = 3 for max_apps). Current usage is 3. "
        "Renew the license to lift the cap."
    )
    assert usage_message(info, EXP + after) == f"License expired {ago}. System reverted to default tier."


def test_invalid() -> None:
    assert cap(BAD, EXP) == (
        "License rejected (License signature verification failed): default tier applies (cap = 3 for max_apps). "
        "Fix the license to raise this."
    )
    assert usage_message(BAD, EXP) == (
        "License rejected: License signature verification failed. Default tier applies. Fix the license to recover."
    )
