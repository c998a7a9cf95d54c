"""What changed between two artifacts, as a reviewer asks it: by plugin, distribution, module, hook, route, host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clavitor_host.bundle.archive import Artifact
from clavitor_host.bundle.inspect import by_name, commands, routes
from clavitor_host.bundle.names import normalized
from clavitor_host.bundle.verify import digest_of, opened

Sign = Literal["+", "-", "~"]

_IDENTITY = ("name", "version", "edition", "license", "python", "platform", "builder_python")
_MODULE_ENDS = (".cpython-311-x86_64-linux-gnu.so", ".abi3.so", ".so", "/__init__.py", ".py")


class Change(NamedTuple):
    """One difference. `sign`: added, removed or changed. `kind`: of what. `what`: the values, old → new."""

    sign: Sign
    kind: str
    name: str
    what: str


class Difference(NamedTuple):
    """Two artifacts compared. `same`: they are the same file, byte for byte."""

    same: bool
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"same": self.same, "changes": [change._asdict() for change in self.changes]}


def diff(old: Path, new: Path) -> Difference:
    """Compare two artifacts by what they say of themselves. Raises BundleError."""
    with opened(old) as before, opened(new) as after:
        same = digest_of(before) == digest_of(after)
        return Difference(same, tuple(_changes(before, after)))


def _changes(old: Artifact, new: Artifact) -> Iterator[Change]:
    olds, news = _facts(old), _facts(new)
    told: set[str] = set()
    for kind in olds:
        for change in _compared(kind, olds[kind], news[kind]):
            told.add(change.name)
            if not (_module_of(change) in told or _metadata_of(change) in told):
                yield change


def _module_of(change: Change) -> str | None:
    """Return the module of a compiled one: that its bytecode differs too goes without saying."""
    if change.kind != "bytecode":
        return None
    return change.name.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".")


def _metadata_of(change: Change) -> str | None:
    """Return the distribution whose metadata a file is: new with it, gone with it, changed with it."""
    folder, inside, _ = change.name.partition(".dist-info/")
    return normalized(folder.rpartition("-")[0]) if change.kind == "file" and inside else None


def _facts(artifact: Artifact) -> dict[str, Mapping[str, str]]:
    """Return by kind what is compared: a name and what is said of it."""
    frozen = artifact.frozen
    modules, files, bytecode = _members(artifact)
    return {
        "bundle": {field: getattr(frozen, field) for field in _IDENTITY},
        "plugin": {
            each.distribution: (
                f"{each.version}, {each.module}, API {each.clavitor_api}, "
                f"{'optional' if each.optional else 'required'}, place {place}, hooks {' '.join(each.hooks) or 'none'}"
            )
            for place, each in enumerate(frozen.plugins, 1)
        },
        "distribution": {
            each.name: f"{each.version}, {each.license or 'no licence said'}, {each.sha256[:12]}…"
            for each in frozen.distributions
        },
        "module": modules,
        "file": files,
        "bytecode": bytecode,
        "hook": {name: " ".join(plugins) for name, plugins in by_name(frozen.description, "hooks").items()},
        "route": {f"{method} {path}": f"of {owner}" for method, path, owner in routes(frozen.description)},
        "command": dict.fromkeys(commands(frozen.description), ""),
        "outbound host": {
            f"{host} of {plugin}": ""
            for plugin, hosts in by_name(frozen.description, "outbound_hosts").items()
            for host in hosts
        },
    }


def _members(artifact: Artifact) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return modules, other files, and bytecode (of modules that are there as source too)."""
    modules: dict[str, str] = {}
    files: dict[str, str] = {}
    bytecode: dict[str, str] = {}
    for member in artifact.frozen.members:
        said = f"{member.size} bytes, {member.sha256[:12]}…"
        if member.name.endswith(".pyc"):
            bytecode[member.name] = said
        elif end := next((end for end in _MODULE_ENDS if member.name.endswith(end)), None):
            modules[member.name.removesuffix(end).replace("/", ".")] = said
        else:
            files[member.name] = said
    return modules, files, bytecode


def _compared(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            yield Change("-", kind, name, old[name])
        elif name not in old:
            yield Change("+", kind, name, new[name])
        elif old[name] != new[name]:
            yield Change("~", kind, name, f"{old[name]} → {new[name]}")
