"""`bundles/<name>.toml`: what one build is made of. Every mistake is one line that names the file and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import clavitor_host
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.names import normalized
from clavitor_host.plugins.registry import EDITIONS

PYTHON = "3.11"
PLATFORM = "linux_x86_64"
FOLDER = "bundles"

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR|WITH) [A-Za-z0-9][A-Za-z0-9.+-]*)*")
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[(?P<extras>[^]]*)\])? *==(?P<version>[^=*,;]+)")
_EXTRA = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_SOURCES = ("path", "wheel", "requirement")
_KEYS = {
    "": ("extends", "bundle", "plugins", "forbid"),
    "bundle": ("name", "edition", "license", "extends"),
    "plugin": (*_SOURCES, "module", "optional", "extras"),
    "forbid": ("distributions", "strings"),
}


class PluginSource(NamedTuple):
    """Where one plugin comes from.

    `kind` says what `value` is: a folder or a wheel, as written in the manifest (`file` is where that lies), or a
    pinned requirement for the package index. `module` holds the plugin's class; `optional`: its failure quarantines it.
    `extras`: those asked of it, wherever the manifest says so, normalised and sorted.
    """

    distribution: str
    kind: Literal["path", "wheel", "requirement"]
    value: str
    file: Path | None
    module: str
    optional: bool
    extras: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The distribution with its extras: `acme-plugin[extra]`."""
        return with_extras(self.distribution, self.extras)

    @property
    def pinned(self) -> str | None:
        """The requirement of a plugin that comes from a package index, in one form however it was written."""
        return f"{self.asked}=={self.value.partition('==')[2].strip()}" if self.kind == "requirement" else None


class Forbid(NamedTuple):
    """What must not be in the artifact: distributions by pattern (`*` as in file names), and texts in any member."""

    distributions: tuple[str, ...]
    strings: tuple[str, ...]

    def rule_against(self, distribution: str) -> str | None:
        """Return the pattern that forbids a distribution, or None."""
        return next((rule for rule in self.distributions if fnmatchcase(distribution, rule)), None)


class Manifest(NamedTuple):
    """One manifest, with what it extends already in it. `root`: the folder that its paths count from."""

    name: str
    edition: str
    license: str
    plugins: tuple[PluginSource, ...]
    forbid: Forbid
    file: Path
    root: Path
    files: tuple[Path, ...]
    """The manifest and every one it extends, itself first."""
    python: str = PYTHON
    platform: str = PLATFORM

    @property
    def label(self) -> str:
        """The manifest as a person names it: `bundles/community.toml`."""
        return label(self.file)

    @property
    def extras(self) -> dict[str, tuple[str, ...]]:
        """The extras asked of each plugin, by its distribution."""
        return {plugin.distribution: plugin.extras for plugin in self.plugins}

    @property
    def lock_file(self) -> Path:
        """Where its lock lies."""
        return self.file.with_suffix(".lock")


def checkout() -> Path:
    """Return the folder of the checkout this program runs from. Raises BundleError when it runs from a bundle."""
    root = Path(clavitor_host.__file__).resolve().parent.parent
    if root.is_file():
        raise BundleError(f"{root.name} is a built bundle: bundles are built and locked from a checkout of the host")
    if not (root / FOLDER).is_dir() or not (root / "pyproject.toml").is_file():
        raise BundleError("no checkout of the host: pyproject.toml and bundles/ are missing beside clavitor_host")
    return root


def names(root: Path | None = None) -> list[str]:
    """Return the names of the checkout's own manifests."""
    return sorted(file.stem for file in ((root or checkout()) / FOLDER).glob("*.toml"))


def load(name_or_path: str | Path, root: Path | None = None) -> Manifest:
    """Read a manifest: the name of one in the checkout's `bundles/`, or the file of any other.

    root: the checkout (for tests). Raises BundleError.
    """
    root = root or checkout()
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        file = Path(name_or_path)
        if not file.is_file():
            raise BundleError(f"{text}: there is no such manifest")
    else:
        file = root / FOLDER / f"{text}.toml"
        if not file.is_file():
            raise BundleError(f"there is no manifest {text} in bundles/{_nearest(text, names(root))}")
    return _load(file.resolve(), root, ())


def with_extras(distribution: str, extras: Collection[str]) -> str:
    """Return a distribution with its extras, as a requirement names them."""
    return f"{distribution}[{','.join(sorted(extras))}]" if extras else distribution


def label(file: Path) -> str:
    """Return a manifest's or lock's file name, with its folder when that is `bundles`."""
    return f"{FOLDER}/{file.name}" if file.parent.name == FOLDER else file.name


def _load(file: Path, checkout_root: Path, extending: tuple[Path, ...]) -> Manifest:
    where = label(file)
    if file in extending:
        circle = " → ".join(label(item) for item in (*extending[extending.index(file) :], file))
        raise BundleError(f"{where}: bundle.extends goes in a circle: {circle}")
    document = _read(file)
    _known(where, "", document, _KEYS[""])
    bundle = _table(where, document, "bundle")
    _known(where, "bundle.", bundle, _KEYS["bundle"])
    base = None
    if extends := _extends(where, document, bundle):
        base = _load(_base(file, extends, checkout_root), checkout_root, (*extending, file))
    root = file.parent.parent if file.parent.name == FOLDER else file.parent
    forbid = _forbid(where, document)
    plugins = _plugins(where, root, _table(where, document, "plugins", base), base)
    manifest = Manifest(
        name=_field(where, bundle, "name", None),
        edition=_field(where, bundle, "edition", base and base.edition),
        license=_field(where, bundle, "license", base and base.license),
        plugins=plugins,
        forbid=forbid if base is None else Forbid(*(_union(*pair) for pair in zip(base.forbid, forbid, strict=True))),
        file=file,
        root=root,
        files=(file, *(base.files if base else ())),
    )
    _check(where, manifest, base)
    return manifest


def _check(where: str, manifest: Manifest, base: Manifest | None) -> None:
    if not _NAME.fullmatch(manifest.name):
        raise BundleError(f"{where}: bundle.name: {manifest.name!r} is not lower-case words joined by hyphens")
    if base is not None and manifest.name == base.name:
        raise BundleError(f"{where}: bundle.name: {manifest.name} is what it extends; give this one a name of its own")
    if manifest.edition not in EDITIONS:
        raise BundleError(f"{where}: bundle.edition: {manifest.edition!r} is not one of {', '.join(EDITIONS)}")
    if base is not None and manifest.edition != base.edition:
        raise BundleError(f"{where}: bundle.edition: it extends {base.label}, which is {base.edition}; leave it out")
    if not _LICENSE.fullmatch(manifest.license):
        raise BundleError(f"{where}: bundle.license: {manifest.license!r} is not an SPDX licence id")
    if not manifest.plugins:
        raise BundleError(f"{where}: plugins: there are none; the edition is one")
    seen: set[str] = set()
    for plugin in manifest.plugins:
        if plugin.distribution in seen:
            raise BundleError(f"{where}: plugins.{plugin.distribution}: {base and base.label} has it already")
        seen.add(plugin.distribution)
        rule = manifest.forbid.rule_against(plugin.distribution)
        if rule:
            raise BundleError(f"{where}: plugins.{plugin.distribution} is forbidden by forbid.distributions ({rule})")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"{label(file)}: {error}") from None
    except UnicodeDecodeError as error:
        raise BundleError(f"{label(file)}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise BundleError(f"{label(file)} cannot be read: {error.strerror}") from None


def _extends(where: str, document: Mapping[str, Any], bundle: Mapping[str, Any]) -> str | None:
    """Return what a manifest extends. It may stand in `[bundle]` or above all tables."""
    places = {"bundle.extends": bundle, "extends": document}
    given = {key: table["extends"] for key, table in places.items() if "extends" in table}
    if len(given) == 2:
        raise BundleError(f"{where}: extends and bundle.extends: give one of them")
    for key, value in given.items():
        return _text(where, key, value)
    return None


def _base(file: Path, name: str, checkout_root: Path) -> Path:
    beside, known = file.parent / f"{name}.toml", checkout_root / FOLDER / f"{name}.toml"
    for candidate in (beside, known):
        if _NAME.fullmatch(name) and candidate.is_file():
            return candidate.resolve()
    raise BundleError(
        f"{label(file)}: bundle.extends: there is no manifest {name!r} beside it or in the checkout's bundles/"
        + _nearest(name, names(checkout_root))
    )


def _plugins(where: str, root: Path, tables: Mapping[str, Any], base: Manifest | None) -> tuple[PluginSource, ...]:
    """Return the plugins of what a manifest extends, with the extras that it adds to them, and then its own."""
    inherited = {plugin.distribution: plugin for plugin in base.plugins} if base else {}
    own = []
    for name, table in tables.items():
        if base is None or not isinstance(table, dict) or table.keys() != {"extras"}:
            own.append(_plugin(where, root, name, table))
        elif name in inherited:
            inherited[name] = _adding(inherited[name], _extras(where, f"plugins.{name}.extras", table["extras"]))
        else:
            raise BundleError(
                f"{where}: plugins.{name}: {base.label} has no such plugin to add extras to{_nearest(name, inherited)}"
            )
    return (*inherited.values(), *own)


def _plugin(where: str, root: Path, name: str, table: Any) -> PluginSource:
    key = f"plugins.{name}"
    if not _NAME.fullmatch(name):
        raise BundleError(f"{where}: {key}: write the distribution's name in lower case with hyphens")
    if not isinstance(table, dict):
        raise BundleError(f'{where}: {key}: expected a table such as {{ path = "plugins/{name}" }}')
    _known(where, f"{key}.", table, _KEYS["plugin"])
    kinds = [kind for kind in _SOURCES if kind in table]
    if len(kinds) != 1:
        raise BundleError(f"{where}: {key}: expected exactly one of {', '.join(_SOURCES)}, found {len(kinds)}")
    value = _text(where, f"{key}.{kinds[0]}", table[kinds[0]])
    optional = table.get("optional", False)
    if not isinstance(optional, bool):
        raise BundleError(f"{where}: {key}.optional: expected true or false")
    module = _text(where, f"{key}.module", table.get("module", name.replace("-", "_") + ".plugin"))
    if not _MODULE.fullmatch(module):
        raise BundleError(f"{where}: {key}.module: {module!r} is not the name of a module")
    extras = _extras(where, f"{key}.extras", table.get("extras", []))
    plugin = PluginSource(name, kinds[0], value, None, module, optional)  # type: ignore[arg-type]
    return _adding(_located(where, root, plugin), extras)


def _located(where: str, root: Path, plugin: PluginSource) -> PluginSource:
    key = f"plugins.{plugin.distribution}.{plugin.kind}"
    if plugin.kind == "requirement":
        pinned = _PINNED.fullmatch(plugin.value)
        if pinned is None or normalized(pinned["name"]) != plugin.distribution:
            raise BundleError(f'{where}: {key}: expected "{plugin.distribution}==<version>", found "{plugin.value}"')
        written = (pinned["extras"] or "").strip()
        return _adding(plugin, _extras(where, key, [extra.strip() for extra in written.split(",")] if written else []))
    file = root / plugin.value
    if plugin.kind == "wheel":
        if file.suffix != ".whl" or not file.is_file():
            raise BundleError(f"{where}: {key}: there is no wheel {plugin.value}")
    elif not file.is_dir():
        raise BundleError(f"{where}: {key}: there is no folder {plugin.value}")
    elif not (file / "pyproject.toml").is_file():
        raise BundleError(f"{where}: {key}: {plugin.value} has no pyproject.toml")
    return plugin._replace(file=file.resolve())


def _extras(where: str, key: str, values: Any) -> list[str]:
    """Return the names of extras in their one canonical form (PEP 685)."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BundleError(f"{where}: {key}: expected a list of extras, by name")
    for value in values:
        if not _EXTRA.fullmatch(value):
            raise BundleError(f"{where}: {key}: {value!r} is not the name of an extra")
    return [normalized(value) for value in values]


def _adding(plugin: PluginSource, extras: Iterable[str]) -> PluginSource:
    return plugin._replace(extras=tuple(sorted({*plugin.extras, *extras})))


def _forbid(where: str, document: Mapping[str, Any]) -> Forbid:
    table = document.get("forbid", {})
    if not isinstance(table, dict):
        raise BundleError(f"{where}: forbid: expected a table")
    _known(where, "forbid.", table, _KEYS["forbid"])
    lists = []
    for key in _KEYS["forbid"]:
        values = table.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise BundleError(f"{where}: forbid.{key}: expected a list of texts, none of them empty")
        lists.append(tuple(values))
    return Forbid(*lists)


def _table(where: str, document: Mapping[str, Any], key: str, base: Manifest | None = None) -> dict[str, Any]:
    if key not in document and base is not None:
        return {}
    table = document.get(key)
    if not isinstance(table, dict):
        raise BundleError(f"{where}: {key}: " + ("expected a table" if key in document else "the table is missing"))
    return table


def _field(where: str, bundle: Mapping[str, Any], key: str, inherited: str | None) -> str:
    if key in bundle:
        return _text(where, f"bundle.{key}", bundle[key])
    if inherited is None:
        raise BundleError(f"{where}: bundle.{key} is missing")
    return inherited


def _text(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BundleError(f"{where}: {key}: expected a text")
    return value


def _known(where: str, prefix: str, table: Mapping[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            raise BundleError(f"{where}: there is no key {prefix}{key}{_nearest(key, known)}")


def _nearest(name: str, known: Collection[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    return f'; did you mean "{nearest[0]}"?' if nearest else f" (there are: {', '.join(sorted(known))})"


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
