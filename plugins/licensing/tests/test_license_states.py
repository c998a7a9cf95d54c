"""LicenseStateMachineTest of the seed's section 10: the five states, their edges, and every way between them."""

from __future__ import annotations

import pytest
from clavitor_licensing.domain.info import DAY, LicenseInfo, LicenseRejected
from clavitor_licensing.domain.limits import DEFAULT_TIER
from clavitor_licensing.domain.state import (
    Held,
    LicenseState,
    LicenseStateMachine,
    days_remaining,
    days_since,
    days_until,
    effective_limits,
    license_state,
)
from clavitor_licensing_testing.support import license_info
from hypothesis import given
from hypothesis import strategies as st

EXP = 1_777_075_200
BAD = LicenseRejected("signature", "License signature verification failed")
OTHER = LicenseRejected("schema", "License payload is not valid")
LICENSE = license_info(exp=EXP, grace=30, max_users=25)
GRACE_ENDS = EXP + 30 * DAY
MACHINES = {
    "ABSENT": LicenseStateMachine(),
    "ACTIVE": LicenseStateMachine(LICENSE),
    "GRACE": LicenseStateMachine(license_info(exp=EXP - 5, grace=30)),
    "EXPIRED": LicenseStateMachine(license_info(exp=EXP - 5, grace=0)),
    "INVALID": LicenseStateMachine(BAD),
}
AT = EXP - 1


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (0, "ACTIVE"),
        (EXP - 1, "ACTIVE"),
        (EXP, "GRACE"),
        (EXP + 1, "GRACE"),
        (GRACE_ENDS - 1, "GRACE"),
        (GRACE_ENDS, "EXPIRED"),
        (GRACE_ENDS + 10**9, "EXPIRED"),
    ],
)
def test_the_clock_alone_leads_from_active_to_grace_to_expired(now: int, state: str) -> None:
    assert license_state(LICENSE, now) == state
    assert LicenseStateMachine(LICENSE).state(now) == state
    lifted = state in ("ACTIVE", "GRACE")
    assert effective_limits(LICENSE, now).cap("max_users") == (25 if lifted else 3)
    assert LicenseStateMachine(LICENSE).limits(now).source("max_users") == ("license" if lifted else "default")


def test_without_grace_it_is_expired_at_once() -> None:
    info = license_info(exp=EXP, grace=0)
    assert [license_state(info, EXP + step) for step in (-1, 0)] == ["ACTIVE", "EXPIRED"]


def test_a_clock_that_goes_back_leads_back() -> None:
    assert [license_state(LICENSE, now) for now in (GRACE_ENDS, EXP, EXP - 1)] == ["EXPIRED", "GRACE", "ACTIVE"]


@pytest.mark.parametrize(("held", "state"), [(None, "ABSENT"), (BAD, "INVALID")])
def test_without_a_license_the_default_tier_applies(held: Held, state: str) -> None:
    for now in (0, EXP, 10**12):
        assert license_state(held, now) == state
        assert effective_limits(held, now) is DEFAULT_TIER
        assert days_remaining(held, now) is None


def test_the_machines_of_these_tests_are_in_the_state_of_their_name() -> None:
    assert {name: str(machine.state(AT)) for name, machine in MACHINES.items()} == {name: name for name in MACHINES}
    assert list(MACHINES) == [str(state) for state in LicenseState]


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("new", "state"),
    [
        (LICENSE, "ACTIVE"),
        (license_info(exp=AT, grace=1), "GRACE"),
        (license_info(exp=AT, grace=0), "EXPIRED"),
    ],
)
def test_a_valid_license_replaces_any_state(name: str, new: LicenseInfo, state: str) -> None:
    machine = MACHINES[name].refuse(OTHER).install(new)
    assert machine.state(AT) == state
    assert machine.held is new


@pytest.mark.parametrize("name", MACHINES)
def test_a_rejected_token_makes_any_state_invalid_but_absent(name: str) -> None:
    machine = MACHINES[name].refuse(OTHER)
    assert machine.state(AT) == ("ABSENT" if name == "ABSENT" else "INVALID")
    if name != "ABSENT":
        assert isinstance(machine.held, LicenseRejected)
        assert (machine.held.code, machine.held.message) == (OTHER.code, OTHER.message)
        assert machine.limits(AT) is DEFAULT_TIER


@pytest.mark.parametrize("name", MACHINES)
def test_a_rejected_token_of_the_configuration_is_invalid_over_anything(name: str) -> None:
    assert MACHINES[name].refuse(OTHER, configured=True).state(AT) == "INVALID"


@pytest.mark.parametrize("name", MACHINES)
def test_forgetting_what_was_refused_leads_back(name: str) -> None:
    machine = MACHINES[name]
    assert machine.refuse(OTHER, configured=True).forget() == machine
    assert machine.forget() == machine


@pytest.mark.parametrize("name", MACHINES)
def test_removal_leads_to_absent(name: str) -> None:
    assert MACHINES[name].refuse(OTHER, configured=True).remove().state(AT) == "ABSENT"


def test_valid_install_from_invalid_recovers_to_active() -> None:
    assert MACHINES["INVALID"].install(LICENSE).state(AT) == "ACTIVE"


def test_revalidation_of_the_stored_token_does_not_clear_what_was_refused() -> None:
    machine = LicenseStateMachine(LICENSE).refuse(OTHER)
    assert machine.revalidate(LICENSE).state(AT) == "INVALID"
    assert machine.revalidate(LICENSE).install(LICENSE).state(AT) == "ACTIVE"


def test_a_public_key_that_goes_and_comes_back() -> None:
    gone = LicenseStateMachine(LICENSE).revalidate(LicenseRejected("no_public_key", "no key"))
    assert gone.state(AT) == "INVALID"
    assert gone.revalidate(LICENSE).state(AT) == "ACTIVE"
    assert gone.revalidate(None).state(AT) == "ABSENT"


@pytest.mark.parametrize("stored", [LICENSE, None])
def test_the_last_refusal_is_the_one_that_is_said(stored: Held) -> None:
    held = LicenseStateMachine(stored).refuse(BAD, configured=True).refuse(OTHER).held
    assert isinstance(held, LicenseRejected)
    assert held.code == "schema"


def test_what_is_held_has_no_traceback_with_the_token_in_it() -> None:
    try:
        raise BAD
    except LicenseRejected as rejection:
        held = LicenseStateMachine(LICENSE).refuse(rejection).held
        again = LicenseStateMachine().revalidate(rejection).held
    for one in (held, again):
        assert isinstance(one, LicenseRejected)
        assert one.__traceback__ is None
        assert one.__context__ is None


def test_severity_of_the_states() -> None:
    assert [state.severity for state in LicenseState] == ["INFO", "INFO", "WARNING", "ERROR", "ERROR"]


@pytest.mark.parametrize(
    ("seconds", "since", "until"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (DAY - 1, 0, 1),
        (DAY, 1, 1),
        (DAY + 1, 1, 2),
        (2 * DAY - 1, 1, 2),
        (2 * DAY, 2, 2),
        (365 * DAY, 365, 365),
    ],
)
def test_days_that_passed_are_rounded_down_and_days_left_up(seconds: int, since: int, until: int) -> None:
    assert days_since(EXP, EXP + seconds) == since
    assert days_until(EXP, EXP - seconds) == until
    assert days_since(EXP, EXP - seconds) == 0
    assert days_until(EXP, EXP + seconds) == 0


@pytest.mark.parametrize(
    ("after", "days"),
    [
        (-DAY - 1, 2),
        (-DAY, 1),
        (-1, 1),
        (0, -1),
        (DAY - 1, -1),
        (DAY, -1),
        (2 * DAY - 1, -1),
        (2 * DAY, -2),
        (40 * DAY, -40),
    ],
)
def test_days_remaining_are_negative_after_exp(after: int, days: int) -> None:
    assert days_remaining(LICENSE, EXP + after) == days


@given(st.integers(0, 2**40), st.integers(1, 2**40), st.integers(0, 365))
def test_the_state_follows_from_two_comparisons(now: int, exp: int, grace: int) -> None:
    state = license_state(license_info(exp=exp, grace=grace), now)
    assert (state is LicenseState.ACTIVE) == (now < exp)
    assert (state is LicenseState.GRACE) == (exp <= now < exp + grace * DAY)
    assert (state is LicenseState.EXPIRED) == (now >= exp + grace * DAY)
