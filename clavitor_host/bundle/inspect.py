"""What an artifact says that it is made of. Nothing is proven here: that is what `verify` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.frozen import FrozenMember
from clavitor_host.bundle.verify import digest_of, opened

BIGGEST = 10
"""How many of the biggest members are shown."""

_KINDS = {".py": "source", ".pyc": "bytecode", ".so": "extension modules"}


def inspect(path: Path) -> dict[str, Any]:
    """Return what the artifact at `path` says of itself, as JSON values; sizes in bytes. Raises BundleError."""
    with opened(path) as artifact:
        return _described(artifact)


def routes(description: Any) -> list[tuple[str, str, str]]:
    """Return method, path and owner of every route; what is not of this form is left out."""
    rows = description.get("routes") if isinstance(description, dict) else None
    return [(str(row[0]), str(row[1]), str(row[2])) for row in _lists(rows, 3)]


def commands(description: Any) -> list[str]:
    """Return the names of every command."""
    names = description.get("commands") if isinstance(description, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def by_name(description: Any, key: str) -> dict[str, tuple[str, ...]]:
    """Return a mapping of names to lists of names: `hooks` by hook, `outbound_hosts` by plugin."""
    found = description.get(key) if isinstance(description, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(name): tuple(map(str, values)) for name, values in found.items() if isinstance(values, list)}


def _described(artifact: Artifact) -> dict[str, Any]:
    frozen = artifact.frozen
    sizes: dict[str, int] = {}
    for member in frozen.members:
        kind = _KINDS.get(Path(member.name).suffix, "other files")
        sizes[kind] = sizes.get(kind, 0) + member.size
    return {
        "artifact": artifact.path.name,
        "sha256": digest_of(artifact),
        "size": os.fstat(artifact.fd).st_size,
        "name": frozen.name,
        "version": frozen.version,
        "edition": frozen.edition,
        "license": frozen.license,
        "python": frozen.python,
        "platform": frozen.platform,
        "builder_python": frozen.builder_python,
        "plugins": [{**plugin._asdict(), "hooks": list(plugin.hooks)} for plugin in frozen.plugins],
        "distributions": [each._asdict() for each in frozen.distributions],
        "members": len(frozen.members) + 1,
        "sizes": dict(sorted(sizes.items(), key=lambda item: -item[1])),
        "hooks": {name: list(plugins) for name, plugins in by_name(frozen.description, "hooks").items()},
        "routes": [list(route) for route in routes(frozen.description)],
        "commands": commands(frozen.description),
        "outbound_hosts": {name: list(hosts) for name, hosts in by_name(frozen.description, "outbound_hosts").items()},
        "biggest": [{"name": each.name, "size": each.size} for each in _biggest(frozen.members)],
    }


def _biggest(members: tuple[FrozenMember, ...]) -> list[FrozenMember]:
    return sorted(members, key=lambda member: (-member.size, member.name))[:BIGGEST]


def _lists(rows: Any, length: int) -> list[list[Any]]:
    if not isinstance(rows, list):
        return []
    return [row for row in rows if isinstance(row, list) and len(row) == length]
