"""Small wheels, plugins and manifests, made on the spot."""

from __future__ import annotations

import base64
import hashlib
import os
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from clavitor_host.bundle import index, lock, manifest, wheels

SHELF = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1"}
"""With `PIP_FIND_LINKS`: a folder of wheels in place of every package index."""

OUTSIDE = {name: os.environ.get(name) for name in (*SHELF, "PIP_FIND_LINKS", "XDG_CACHE_HOME")}
"""What this run was started with: the user's own index and cache."""

PLUGIN = '''\
"""A plugin of a third party."""

from collections.abc import Sequence
from typing import Any

from quart import Blueprint

from clavitor_host.api import Host, Plugin, Request, endpoint, hookimpl


class AcmePlugin(Plugin):
    name = "acme"
    version = "2.5"
    outbound_hosts = ("telemetry.acme.example",)

    @hookimpl
    def blueprints(self, host: Host) -> Sequence[Blueprint]:
        routes = Blueprint("acme", __name__)

        @routes.get("/api/v1/acme")
        @endpoint(action="entries.read", summary="Say hello", tag="acme")
        async def hello(request: Request) -> dict[str, Any]:
            return {"hello": "from acme"}

        return [routes]


plugin = AcmePlugin
'''


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write text files into a folder and return it."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return folder


def plugin_folder(
    folder: Path,
    name: str = "acme",
    *,
    source: str = PLUGIN,
    requires: Sequence[str] = ("clavitor-host>=1.0",),
    extras: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Make a third party's plugin as its author has it: a project of its own, built by hatchling."""
    optional = "".join(f"{extra!r} = {list(texts)!r}\n" for extra, texts in (extras or {}).items())
    pyproject = f"""\
[project]
name = "clavitor-{name}"
version = "2.5"
license = "MIT"
requires-python = ">=3.11"
dependencies = {list(requires)!r}

[project.optional-dependencies]
{optional}
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["clavitor_{name}"]
"""
    package = {f"clavitor_{name}/__init__.py": "", f"clavitor_{name}/plugin.py": source.replace("acme", name)}
    return write(folder, {"pyproject.toml": pyproject, **package})


@contextmanager
def outside() -> Iterator[None]:
    """For a while, the user's own index and cache."""
    with mock.patch.dict(os.environ):
        for name, value in OUTSIDE.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}
        yield


def stock(shelf: Path) -> None:
    """Put every wheel of the community lock on a shelf: the real ones, from the user's cache or index."""
    with outside():
        fetched = lock.read(manifest.load("community")).fetched
        kept = {item: wheels.cached(item.wheel, item.sha256) for item in fetched}
        new = index.fetch([item for item in fetched if kept[item] is None], lambda done, total: None)
    for item in fetched:
        (shelf / item.wheel).write_bytes(kept[item] or new[item.name])


def shelve_tested(shelf: Path, *names: str) -> dict[str, str]:
    """Put more wheels on a shelf, and what they require, in the versions of uv.lock; return all of those versions."""
    packages = tomllib.loads((manifest.checkout() / "uv.lock").read_text("utf-8"))["package"]
    versions = {package["name"]: package["version"] for package in packages if "registry" in package["source"]}
    with outside():
        index.resolve(
            names, [f"{name}=={version}" for name, version in versions.items()], shelf, lambda done, total: None
        )
    return versions


def wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    tag: str = "py3-none-any",
    record: Mapping[str, str] | None = None,
    metadata: str = "",
) -> Path:
    """Make a wheel. files: in place of one empty package; record: digests that differ from the files'."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    members = dict({f"{module}/__init__.py": b""} if files is None else files)
    lines = "".join(f"Requires-Dist: {text}\n" for text in requires)
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}{lines}\n".encode()
    )
    members[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    digests = {member: _digest(data) for member, data in members.items()} | dict(record or {})
    rows = "".join(f"{member},{digest},\n" for member, digest in digests.items() if digest != "absent")
    members[f"{info}/RECORD"] = f"{rows}{info}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
