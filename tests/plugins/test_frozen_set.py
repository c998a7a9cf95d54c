"""What runs is what is frozen: a checkout is community, nothing can make it otherwise (editions.md section 3)."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

import clavitor_host
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.plugins.registry import PluginRegistry

ROOT = Path(clavitor_host.__file__).parent.parent

SHOW = """
from clavitor_host.plugins.frozen import frozen_set
from clavitor_host.plugins.registry import PluginRegistry
bundle = frozen_set()
registry = PluginRegistry(bundle.plugins, bundle.edition)
print(bundle.name, registry.edition, *(f"{r.name}:{r.state}" for r in registry.records))
"""

STOCK = tomllib.loads((ROOT / "bundles" / "community.toml").read_text())["plugins"]
LOADED = ["clavitor-community", "community", *(f"{name.removeprefix('clavitor-')}:loaded" for name in STOCK)]

EVIL = """
from clavitor_host.hookspecs import hookimpl
from clavitor_host.plugins.models import Plugin
class Evil(Plugin):
    name = "evil"
    version = "1"
    @hookimpl
    def edition_name(self):
        return "commercial"
plugin = Evil
"""


def run(code: str, *, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    env |= {"CLAVITOR_EDITION": "commercial", "CLAVITOR_BUNDLE": "commercial"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def package(folder: Path, plugin: str = EVIL, name: str = "clavitor_community") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "plugin.py").write_text(plugin)


def frozen_module(folder: Path, edition: str, *plugins: tuple[str, str, bool]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clavitor_frozen.py").write_text(f"NAME = 'b'\nEDITION = {edition!r}\nPLUGINS = {plugins!r}\n")


def manifest(root: Path, text: str) -> None:
    (root / "bundles").mkdir(parents=True, exist_ok=True)
    (root / "bundles" / "community.toml").write_text(textwrap.dedent(text))


def test_a_checkout_is_community() -> None:
    bundle = frozen_set()
    assert (bundle.name, bundle.edition) == ("clavitor-community", "community")
    assert PluginRegistry(bundle.plugins, bundle.edition).get("community") is not None


def test_no_module_variable_or_folder_makes_a_checkout_something_else(tmp_path: Path) -> None:
    frozen_module(tmp_path, "commercial", ("evil", "clavitor_community.plugin", False))
    manifest(tmp_path, '[bundle]\nname = "x"\nedition = "commercial"\n[plugins]\n')
    done = run(SHOW, cwd=tmp_path, path=tmp_path)
    assert done.stdout.split() == LOADED, done.stderr


def test_a_package_of_the_same_name_elsewhere_is_not_taken(tmp_path: Path) -> None:
    package(tmp_path)
    done = run(SHOW, cwd=tmp_path, path=tmp_path)
    assert done.stdout.split() == LOADED, done.stderr


def test_a_package_of_the_same_name_that_is_loaded_already_is_refused(tmp_path: Path) -> None:
    package(tmp_path)
    done = run("import clavitor_community.plugin\n" + SHOW, cwd=tmp_path, path=tmp_path)
    assert done.returncode != 0
    assert "clavitor_community was loaded from another place" in done.stderr


def test_a_frozen_module_beside_a_checkout_is_ignored(tmp_path: Path) -> None:
    frozen_module(tmp_path, "commercial")
    manifest(tmp_path, '[bundle]\nname = "c"\nedition = "community"\n[plugins]\n')
    assert frozen_set(tmp_path).edition == "community"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[bundle]\nname = "c"\nedition = "commercial"\n[plugins]\n', "edition must be community"),
        ("[bundle\n", "cannot be read"),
        ('[bundle]\nname = "c"\n', "cannot be read: KeyError"),
        ('[bundle]\nname = "c"\nedition = "community"\n[plugins]\nx = 3\n', "cannot be read"),
    ],
)
def test_a_wrong_manifest_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    manifest(tmp_path, text)
    with pytest.raises(clavitor_host.errors.StartError, match=message):
        frozen_set(tmp_path)


def test_a_host_package_alone_is_told_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(clavitor_host.errors.StartError, match="neither a bundle nor a complete checkout"):
        frozen_set(tmp_path)


def test_an_artifact_runs_what_it_froze_in_order(tmp_path: Path) -> None:
    archive = tmp_path / "app.pyz"
    with zipfile.ZipFile(archive, "w") as made:
        for folder in ("clavitor_host", "plugins/community/clavitor_community"):
            for file in sorted((ROOT / folder).rglob("*.py")):
                base = ROOT if folder == "clavitor_host" else ROOT / "plugins/community"
                made.write(file, str(file.relative_to(base)))
        second = EVIL.replace('"evil"', '"second"').replace("edition_name", "status").replace("    @hookimpl\n", "")
        made.writestr("second_plugin/__init__.py", "")
        made.writestr("second_plugin/plugin.py", second)
        plugins = (
            ("clavitor-community", "clavitor_community.plugin", False),
            ("second-plugin", "second_plugin.plugin", False),
            ("clavitor-commercial-gone", "clavitor_gone.plugin", True),
        )
        made.writestr("clavitor_frozen.py", f"NAME = 'shop'\nEDITION = 'community'\nPLUGINS = {plugins!r}\n")
    code = f"import sys; sys.path.insert(0, {str(archive)!r})\n{SHOW}"
    done = run(code, cwd=tmp_path)
    assert done.stdout.split() == [
        "shop", "community", "community:loaded", "second:loaded", "commercial_gone:quarantined"
    ], done.stderr  # fmt: skip


@pytest.mark.parametrize("plugin", ["raise RuntimeError('no gpu')", "1 +", "import no_such_module_at_all", "x = 1"])
def test_a_plugin_that_cannot_be_imported_stops_the_start_unless_optional(tmp_path: Path, plugin: str) -> None:
    name = f"clavitor_broken_{abs(hash(plugin))}"
    package(tmp_path / "p", plugin, name)
    entry = '[bundle]\nname = "c"\nedition = "community"\n[plugins]\n{} = {{ path = "p", optional = {} }}\n'
    manifest(tmp_path, entry.format(name.replace("_", "-"), "false"))
    with pytest.raises(clavitor_host.errors.PluginError, match="cannot be imported"):
        frozen_set(tmp_path)
    manifest(tmp_path, entry.format(name.replace("_", "-"), "true"))
    (frozen,) = frozen_set(tmp_path).plugins
    registry = PluginRegistry([*frozen_set().plugins, frozen], "community")
    record = registry.records[-1]
    assert record.state == "quarantined"
    assert "cannot be imported" in str(record.last_error)
