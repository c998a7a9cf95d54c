"""Which editions licensing is in: community and commercial, not minimal; and the minter in none."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

BUNDLES = Path(__file__).parents[3] / "bundles"


@pytest.mark.parametrize(("edition", "licensed"), [("community", True), ("commercial", True), ("minimal", False)])
def test_licensing_is_where_it_belongs_and_the_minter_nowhere(edition: str, licensed: bool) -> None:
    locked = tomllib.loads((BUNDLES / f"{edition}.lock").read_text("utf-8"))
    names = {found["name"] for found in locked["distribution"]}
    assert ("clavitor-licensing" in names) is licensed
    assert "clavitor-license-minter" not in names
    manifest = tomllib.loads((BUNDLES / f"{edition}.toml").read_text("utf-8"))
    assert ("clavitor-licensing" in manifest["plugins"]) is licensed
    assert "clavitor-license-minter" in manifest["forbid"]["distributions"]
    assert ("clavitor-licensing" in manifest["forbid"]["distributions"]) is not licensed
