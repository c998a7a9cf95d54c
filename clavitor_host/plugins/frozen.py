"""Which plugins run: those frozen into the artifact; in a checkout always those of the community manifest.

A built bundle has a module `clavitor_frozen` beside the host package:

    NAME = "clavitor-example"
    EDITION = "community"
    PLUGINS = (("clavitor-example", "clavitor_example.plugin", False),)   # distribution, module, optional

A checkout has `bundles/community.toml` beside it and reads nothing else. Which of both this is follows from what
loaded this package, a file's loader or an archive's, never from what lies on the disk by now, the working folder,
the environment or `sys.path`; and plugins are loaded by the same loader from the same place only.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import clavitor_host
from clavitor_host.errors import PluginError, StartError
from clavitor_host.plugins.models import FrozenPlugin, Plugin
from clavitor_host.plugins.records import describe_error

FROZEN_MODULE = "clavitor_frozen"
COMMUNITY_MANIFEST = Path("bundles", "community.toml")


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """What this program is made of. `plugins` in load order."""

    name: str
    edition: str
    plugins: tuple[FrozenPlugin, ...]


class _Entry(NamedTuple):
    distribution: str
    module: str
    optional: bool
    folder: Path


def frozen_set(root: Path | None = None) -> BundleInfo:
    """Return the plugins of this program. Raises `StartError`, or `PluginError` for one that cannot be imported.

    root: the folder that is taken for a checkout (for tests).
    """
    if root is None and (archive := _archive()) is not None:
        return _from_artifact(archive)
    root = root or Path(clavitor_host.__file__).resolve().parent.parent
    if (root / COMMUNITY_MANIFEST).is_file():
        return _from_manifest(root)
    raise StartError(
        "This is neither a bundle nor a complete checkout: bundles/community.toml is missing beside clavitor_host."
    )


def bundle_digest() -> str:
    """Return what the artifact that this program runs from is known by: sha256 of its frozen manifest; "" without."""
    importer: Any = sys.modules.get("clavitor_importer")
    loader = clavitor_host.__loader__
    return loader.bundle_digest() if importer is not None and isinstance(loader, importer.Loader) else ""


def _archive() -> Path | None:
    """Return the archive that this package was loaded from, None for files. Nothing is asked of the file system."""
    files = isinstance(clavitor_host.__loader__, SourceFileLoader)
    return None if files else Path(clavitor_host.__file__).parent.parent


def _from_artifact(root: Path) -> BundleInfo:
    spec = _find(FROZEN_MODULE, root)
    if spec is None:
        raise StartError(f"This bundle is not complete: {FROZEN_MODULE} is missing in it.")
    module = _load(spec)
    entries = [_Entry(str(name), str(path), bool(optional), root) for name, path, optional in module.PLUGINS]
    return BundleInfo(str(module.NAME), str(module.EDITION), _load_plugins(entries))


def _from_manifest(root: Path) -> BundleInfo:
    file = root / COMMUNITY_MANIFEST
    try:
        manifest = tomllib.loads(file.read_text("utf-8"))
        bundle, plugins = manifest["bundle"], manifest["plugins"]
        name, edition = str(bundle["name"]), str(bundle["edition"])
        entries = [_entry(distribution, table, root) for distribution, table in plugins.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartError(f"{COMMUNITY_MANIFEST} cannot be read: {describe_error(error)}") from error
    if edition != "community":
        raise StartError(f"{COMMUNITY_MANIFEST}: edition must be community; other editions run from a built bundle.")
    return BundleInfo(name, edition, _load_plugins(entries))


def _entry(distribution: str, table: dict[str, Any], root: Path) -> _Entry:
    module = distribution.replace("-", "_") + ".plugin"
    return _Entry(distribution, module, bool(table.get("optional", False)), root / table["path"])


def _load_plugins(entries: Iterable[_Entry]) -> tuple[FrozenPlugin, ...]:
    return tuple(FrozenPlugin(entry.distribution, _plugin_class(entry), entry.optional) for entry in entries)


def _plugin_class(entry: _Entry) -> type[Plugin]:
    try:
        return _import_plugin(entry)
    except Exception as error:
        message = f"{entry.distribution} cannot be imported: {describe_error(error)}"
        if not entry.optional:
            raise PluginError(f"plugin {message}") from error
        return _broken(entry.distribution, message)


def _import_plugin(entry: _Entry) -> type[Plugin]:
    package = entry.module.partition(".")[0]
    spec = _find(package, entry.folder)
    if spec is None:
        raise ModuleNotFoundError(f"no package {package} in {entry.folder.name}")
    loaded = sys.modules.get(package)
    if loaded is None:
        _load(spec, register=True)
    elif getattr(loaded, "__file__", None) != spec.origin:
        raise ImportError(f"{package} was loaded from another place")
    plugin: type[Plugin] = import_module(entry.module).plugin
    return plugin


def _find(name: str, folder: Path) -> ModuleSpec | None:
    """Find a top-level module in a folder or archive. Raises ImportError when another loader has it than ours."""
    spec = PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.loader is None:
        return None
    if type(spec.loader) is not type(clavitor_host.__loader__):
        raise ImportError(f"{name} is not where this program was loaded from")
    return spec


def _load(spec: ModuleSpec, *, register: bool = False) -> ModuleType:
    module = module_from_spec(spec)
    if register:
        sys.modules[spec.name] = module
    assert spec.loader is not None
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if register:
            del sys.modules[spec.name]
        raise
    return module


def _broken(distribution: str, message: str) -> type[Plugin]:
    """Return a stand-in for an optional plugin that cannot be imported: it fails to register, with the cause."""

    class Broken(Plugin):
        name = distribution.removeprefix("clavitor-").replace("-", "_").lower()
        version = ""

        def __init__(self) -> None:
            raise PluginError(message)

    return Broken
