"""docs/licensing.md: its commands work, its rules load, its numbers are those of the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from clavitor_licensing.domain.info import RejectionCode
from clavitor_licensing.domain.limits import DEFAULT_TIER_LIMITS
from clavitor_licensing.domain.state import LicenseState

PAGE = Path(__file__).parents[3] / "docs" / "licensing.md"
TEXT = PAGE.read_text("utf-8")
OPERATORS, VENDORS = TEXT.split("# For vendors\n")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    for name, what in (("clavitor", "-m clavitor_host"), ("clavitor-license-mint", "-m clavitor_license_minter")):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {what} "$@"\n')
        script.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "CLAVITOR_TENANT_ID": "acme-corp",
    }
    year = datetime.now(UTC).year
    served = "clavitor user create ada --role ADMIN --no-password\nexport CLAVITOR_LICENSE_PUBLIC_KEY=vendor.pub\n"
    commands = "".join([*blocks(VENDORS, "sh"), served, *blocks(OPERATORS, "sh")])
    commands = commands.replace("2027", str(year + 1)).replace("2028", str(year + 2))
    ran = subprocess.run(
        ["sh", "-eux"], input=commands, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (fingerprint,) = re.findall(r"^([0-9a-f]{64})  -$", ran.stdout, re.MULTILINE)
    assert f"SHA-256 {fingerprint} (license public key 1 ({tmp_path}/vendor.pub))" in ran.stdout
    assert "max_users\t3\t25\t1\t0" in ran.stdout
    assert "state now: ACTIVE" in ran.stdout
    assert (tmp_path / "acme-new-key.tok").exists()


@pytest.mark.skipif(not shutil.which("promtool"), reason="install prometheus for promtool")
def test_the_alert_fires_after_five_minutes_of_invalid_and_not_before(tmp_path: Path) -> None:
    (rules,) = blocks(OPERATORS, "yaml")
    (tmp_path / "rules.yml").write_text(rules)
    subprocess.run(["promtool", "check", "rules", "--lint=all", "--lint-fatal", "rules.yml"], cwd=tmp_path, check=True)
    alert = "{eval_time: %s, alertname: ClavitorLicenseInvalid, exp_alerts: %s}"
    fired = (
        "[{exp_labels: {severity: page, state: INVALID, instance: a}, exp_annotations: "
        "{summary: 'a refuses its license: the default tier applies', "
        "description: 'Run `clavitor license doctor` there, or open /admin/license.'}}]"
    )
    (tmp_path / "test.yml").write_text(
        "rule_files: [rules.yml]\n"
        "evaluation_interval: 1m\n"
        "tests:\n"
        "  - interval: 1m\n"
        "    input_series:\n"
        """      - {series: 'clavitor_license_state{state="INVALID",instance="a"}', values: '0 0 1x20'}\n"""
        """      - {series: 'clavitor_license_state{state="ACTIVE",instance="a"}', values: '1 1 0x20'}\n"""
        "    alert_rule_test:\n"
        f"      - {alert % ('6m', '[]')}\n"
        f"      - {alert % ('7m', fired)}\n"
    )
    ran = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_metrics_of_the_rules_are_those_of_the_plugin() -> None:
    source = (PAGE.parents[1] / "plugins/licensing/clavitor_licensing/metrics.py").read_text()
    for name in re.findall(r"clavitor_license_\w+", OPERATORS):
        assert f'"{name}"' in source, name


def test_the_tables_say_what_the_code_says() -> None:
    limits = dict(re.findall(r"^\| `(max_\w+)` \| (\d+) \|", OPERATORS, re.MULTILINE))
    assert limits == {key: str(cap) for key, cap in DEFAULT_TIER_LIMITS.items()}
    assert re.findall(r"^\| `([A-Z]+)` \|", OPERATORS, re.MULTILINE) == [state.value for state in LicenseState]
    codes = re.findall(r"^\| `([a-z_]+)` \| (?!\d)", OPERATORS, re.MULTILINE)
    assert sorted(codes) == sorted(get_args(RejectionCode))
