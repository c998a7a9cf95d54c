"""DefaultTierLimitsTest of the seed's section 10, and what a license makes of the default tier."""

from __future__ import annotations

import subprocess
import sys

import pytest
from clavitor_licensing.domain.limits import DEFAULT_TIER, DEFAULT_TIER_LIMITS, LIMITS, LicenseLimits

DOCUMENTED = """
max_environments 1
max_apps 3
max_agents 5
max_users 3
max_outbound_connections 1
max_alert_rules 2
max_total_cpu_millis 2000
max_total_memory_mb 2048
max_total_replicas 5
max_execution_retention_days 1
max_log_retention_days 1
max_metric_retention_days 1
max_jar_retention_count 3
"""


def test_every_documented_key_has_its_default_in_the_documented_order() -> None:
    assert [f"{key} {value}" for key, value in DEFAULT_TIER_LIMITS.items()] == DOCUMENTED.split("\n")[1:-1]
    assert len(LIMITS) == 13


@pytest.mark.parametrize("key", LIMITS)
def test_a_missing_limit_inherits_the_default(key: str) -> None:
    assert (DEFAULT_TIER.cap(key), DEFAULT_TIER.source(key)) == (DEFAULT_TIER_LIMITS[key], "default")
    lifted = LicenseLimits({key: 99})
    assert (lifted.cap(key), lifted.source(key)) == (99, "license")
    assert all(lifted.cap(other) == DEFAULT_TIER_LIMITS[other] for other in LIMITS if other != key)


def test_a_license_may_say_less_than_the_default_and_nothing_at_all() -> None:
    assert LicenseLimits({"max_apps": 0}).cap("max_apps") == 0
    assert LicenseLimits({"max_apps": 0}).source("max_apps") == "license"


def test_a_key_that_is_no_limit() -> None:
    with pytest.raises(KeyError):
        LicenseLimits({"max_unicorns": 1}).cap("max_unicorns")


def test_the_default_tier_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        DEFAULT_TIER_LIMITS["max_apps"] = 5  # type: ignore[index]


def test_the_domain_imports_neither_web_nor_database_nor_host() -> None:
    code = (
        "import pkgutil, sys, clavitor_licensing.domain as domain\n"
        "for module in pkgutil.iter_modules(domain.__path__, 'clavitor_licensing.domain.'): __import__(module.name)\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    unwanted = {
        "clavitor_host",
        "quart",
        "hypercorn",
        "sqlalchemy",
        "databases",
        "httpx",
        "pydantic",
        "loguru",
        "typer",
    }
    assert unwanted.isdisjoint(loaded)
    assert "clavitor_licensing" in loaded
