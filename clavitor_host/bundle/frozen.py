"""The frozen manifest: what an artifact says it is made of, as its member `clavitor_frozen.json`.

One text for one value: keys sorted, a list item a line, so that two artifacts can also be compared with `diff`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_type_hints

from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.launcher.stage2 import MANIFEST
from clavitor_host.terminal import printable

FORMAT = 1
PLUGINS = "clavitor_frozen.py"
"""The member that tells the host which plugins to load."""


class FrozenMember(NamedTuple):
    """One file of the artifact. `size` in bytes, `crc` the CRC-32, `sha256` in hex."""

    name: str
    size: int
    crc: int
    sha256: str


class FrozenDistribution(NamedTuple):
    """What was vendored: the wheel's file name and its sha256 in hex. `local`: built from the checkout."""

    name: str
    version: str
    license: str
    wheel: str
    sha256: str
    local: bool


class FrozenEntry(NamedTuple):
    """A plugin, in load order. `clavitor_api`: the range of host API versions it needs."""

    distribution: str
    module: str
    optional: bool
    name: str
    version: str
    clavitor_api: str
    hooks: tuple[str, ...]


class FrozenManifest(NamedTuple):
    """`python`: as 3.11; `platform`: as linux_x86_64; `description`: hooks, routes, commands, outbound hosts.

    `members` are all files but the frozen manifest itself, in the order of their names.
    """

    name: str
    version: str
    edition: str
    license: str
    python: str
    platform: str
    builder_python: str
    plugins: tuple[FrozenEntry, ...]
    distributions: tuple[FrozenDistribution, ...]
    description: Mapping[str, Any]
    members: tuple[FrozenMember, ...] = ()


Row = TypeVar("Row", bound=tuple[Any, ...])


def to_bytes(manifest: FrozenManifest) -> bytes:
    """Return the bytes of `clavitor_frozen.json`."""
    document: dict[str, Any] = {"format": FORMAT, **manifest._asdict()}
    document["plugins"] = [plugin._asdict() for plugin in manifest.plugins]
    document["distributions"] = [distribution._asdict() for distribution in manifest.distributions]
    lines = ",\n".join(f"{_compact(key)}:{_by_line(value)}" for key, value in sorted(document.items()))
    return f"{{\n{lines}\n}}\n".encode("ascii")


def from_bytes(data: bytes) -> FrozenManifest:
    """Read `clavitor_frozen.json`. Raises `BundleError` for anything `to_bytes` would not have written."""
    try:
        document = json.loads(data)
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise BundleError(f"{MANIFEST}: not a frozen manifest of format {FORMAT}")
        document["plugins"] = tuple(
            _row(FrozenEntry, {**item, "hooks": tuple(item["hooks"])}) for item in document["plugins"]
        )
        document["distributions"] = tuple(_row(FrozenDistribution, item) for item in document["distributions"])
        document["members"] = tuple(
            _row(FrozenMember, dict(zip(FrozenMember._fields, item, strict=True))) for item in document["members"]
        )
        _check_description(document.get("description"))
        manifest = _row(FrozenManifest, document)
        names = [member.name for member in manifest.members]
        if names != sorted(set(names)) or to_bytes(manifest) != data:
            raise BundleError(f"{MANIFEST}: not in the one form a frozen manifest has")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: cannot be read: {printable(str(error))}") from error
    return manifest


def plugins_module(manifest: FrozenManifest) -> bytes:
    """Return the bytes of `clavitor_frozen.py`, from which the host takes its name, edition and plugins."""
    plugins = "".join(f"    {(entry.distribution, entry.module, entry.optional)!r},\n" for entry in manifest.plugins)
    return (
        '"""What this artifact runs."""\n\n'
        f"NAME = {manifest.name!r}\nEDITION = {manifest.edition!r}\nPLUGINS = (\n{plugins})\n"
    ).encode()


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _by_line(value: object) -> str:
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(map(_compact, value)) + "\n]"
    return _compact(value)


@cache
def _types(kind: type[tuple[Any, ...]]) -> dict[str, Any]:
    return get_type_hints(kind)


def _row(kind: type[Row], values: Mapping[str, Any]) -> Row:
    """Return the named tuple of these values; ValueError names what is missing, unknown or mistyped."""
    types = _types(kind)
    for name in sorted(types.keys() ^ values.keys()):
        raise ValueError(f"{name} is {'missing' if name in types else 'unknown'}")
    for name, wanted in types.items():
        if wanted in (str, int, bool) and type(values[name]) is not wanted:
            raise ValueError(f"{name} is not of type {wanted.__name__}")
        if wanted is str or wanted == tuple[str, ...]:
            _check_texts([values[name]] if wanted is str else values[name], name)
    return kind(**values)


def _check_texts(values: Any, where: str) -> None:
    """Raise ValueError unless these are texts that can be shown on one line."""
    if not isinstance(values, list | tuple) or not all(type(each) is str and each.isprintable() for each in values):
        raise ValueError(f"{where} is not plain text")


def _check_named(values: Any, where: str) -> None:
    """Raise ValueError unless this gives a list of texts for each name."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is not a table")
    _check_texts(list(values), where)
    for each in values.values():
        _check_texts(each, where)


def _check_routes(values: Any, where: str) -> None:
    """Raise ValueError unless these are lists of method, path and owner."""
    if not isinstance(values, list) or not all(isinstance(each, list) and len(each) == 3 for each in values):
        raise ValueError(f"{where} are not lists of method, path and owner")
    for each in values:
        _check_texts(each, where)


_DESCRIPTION: Mapping[str, Callable[[Any, str], None]] = {
    "commands": _check_texts,
    "hooks": _check_named,
    "outbound_hosts": _check_named,
    "routes": _check_routes,
}


def _check_description(description: Any) -> None:
    """Raise ValueError unless the description has the parts that a build gives it, each of its type."""
    if not isinstance(description, dict) or not description.keys() <= _DESCRIPTION.keys():
        raise ValueError(f"description is not a table of {', '.join(_DESCRIPTION)}")
    for key, value in description.items():
        _DESCRIPTION[key](value, f"description.{key}")
