"""A small checkout of its own, and the artifact that it would build: with manifest, lock, and all that lies beside.

`clavitor-good` is in the artifact; `clavitor-secret` is forbidden, by name and by the text `hidden mechanism`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clavitor_host.bundle import archive
from clavitor_host.bundle.compile import compile_source
from clavitor_host.bundle.frozen import FrozenDistribution, FrozenEntry, FrozenManifest
from clavitor_host.bundle.local import packed
from clavitor_host.bundle.verify import Options, Report, verify

HOST = {
    "clavitor_host/__init__.py": '"""A host."""\n\n__version__ = "1.0.0"\nAPI_VERSION = "1.0"\n',
    "clavitor_host/__main__.py": "def main() -> None:\n    print('the small host is running')\n",
}
GOOD = {
    "clavitor_good/__init__.py": "",
    "clavitor_good/plugin.py": (
        '"""A plugin that may be here."""\n\n\nclass GoodPlugin:\n    name = "good"\n\n'
        "    def greeting_of_everyone(self, names):\n"
        "        return [f'good morning, {name}, it is a fine day' for name in names]\n"
    ),
}
SECRET_MODULE = '''"""How the sealed ledger is turned, day by day; nobody outside may read this description."""

from __future__ import annotations

LEDGER_OF_TURNS = "ledger of turns kept since the founding"
TURNS_BEFORE_REST = 12


class LedgerTurner:
    """Turns the sealed ledger one step at a time and remembers where it was left."""

    def __init__(self, starting_page, pages_each_turn):
        self.current_page = starting_page
        self.pages_each_turn = pages_each_turn

    def turn_the_ledger(self, number_of_turns):
        """Turn it so many times, resting as the rules of the house demand it."""
        turned_so_far = 0
        for turn in range(number_of_turns):
            if turn % TURNS_BEFORE_REST == 0:
                self.rest_until_morning("the ledger rests here until the morning bell")
            self.current_page = self.current_page + self.pages_each_turn
            turned_so_far = turned_so_far + self.pages_each_turn
        return turned_so_far

    def rest_until_morning(self, why_it_rests):
        """Wait without looking at any clock, as there is none in the house."""
        for candle in reversed(sorted(why_it_rests)):
            if candle in LEDGER_OF_TURNS and self.current_page > TURNS_BEFORE_REST:
                return candle.upper() + why_it_rests.lower()
        return None
'''
SECRET = {
    "clavitor_secret/__init__.py": "",
    "clavitor_secret/plugin.py": SECRET_MODULE,
    "clavitor_secret/chart.svg": "<svg><!-- the chart of the ledger house --><path d='M1 2L3 4'/></svg>\n",
}
MANIFEST = """
[bundle]
name = "clavitor-workshop"
edition = "community"
license = "Elastic-2.0"
[plugins]
clavitor-good = { path = "plugins/good" }
[forbid]
distributions = ["clavitor-secret*", "clavitor-absent"]
strings = ["Hidden Mechanism"]
"""

Members = dict[str, bytes]


class Workshop:
    """The checkout in `root`, with the artifact `path`; `members` are what it was made of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "dist" / "clavitor-workshop-1.0.0.pyz"
        self.path.parent.mkdir(parents=True)
        self.manifest = root / "bundles" / "workshop.toml"
        self.manifest.parent.mkdir()
        self.manifest.write_text(MANIFEST)
        _source(root / "plugins/good", "clavitor-good", GOOD)
        _source(root / "plugins/secret", "clavitor-secret", SECRET)
        self.members = {**wheel_members("clavitor-host", HOST), **wheel_members("clavitor-good", GOOD)}
        self.distributions = [_distribution(name, self.members) for name in ("clavitor-host", "clavitor-good")]
        self.write_lock()
        self.build()

    def write_lock(self) -> None:
        """Write the lock that the distributions stand for."""
        lines = ["format = 1", 'manifest = "clavitor-workshop"', 'python = "3.11"', 'platform = "linux_x86_64"']
        lines.append("inputs = []")
        for each in self.distributions:
            lines += ["[[distribution]]", f'name = "{each.name}"', f'version = "{each.version}"']
            lines += [f'wheel = "{each.wheel}"', f'sha256 = "{each.sha256}"']
            lines += ['path = "plugins/good"'] if each.local else []
        self.manifest.with_suffix(".lock").write_text("\n".join(lines) + "\n")

    def frozen(self, **changes: Any) -> FrozenManifest:
        """Return the frozen manifest without members, with other values where they are given."""
        import platform

        entry = FrozenEntry(
            "clavitor-good", "clavitor_good.plugin", False, "good", "1.0.0", ">=1.0,<2", ("edition_name",)
        )
        description = {
            "hooks": {"edition_name": ["good"]},
            "routes": [["GET", "/healthz", "host"]],
            "commands": ["serve", "greet"],
            "outbound_hosts": {},
        }
        values: dict[str, Any] = {
            "name": "clavitor-workshop",
            "version": "1.0.0",
            "edition": "community",
            "license": "Elastic-2.0",
            "python": "3.11",
            "platform": "linux_x86_64",
            "builder_python": platform.python_version(),
            "plugins": (entry,),
            "distributions": tuple(sorted(self.distributions)),
            "description": description,
        }
        return FrozenManifest(**{**values, **changes})

    def build(self, extra: Mapping[str, bytes] | None = None, path: Path | None = None, **changes: Any) -> Path:
        """Write the artifact with further members, as a builder would who means harm: consistent in itself."""
        path = path or self.path
        archive.write(path, self.frozen(**changes), {**self.members, **(extra or {})})
        write_beside(path, self.frozen(**changes))
        return path

    def smuggled(self, extra: Mapping[str, bytes], distribution: str = "clavitor-good") -> Path:
        """Write the artifact with further members that the distribution's RECORD owns, compiled, and lock that."""
        record = record_of(distribution)
        shown = {name: data for name, data in extra.items() if not name.endswith(".pyc")}
        rows = "".join(record_row(name, data) for name, data in shown.items()).encode()
        compiled = {f"{name}c": compile_source(name, data) for name, data in shown.items() if name.endswith(".py")}
        everything = {name: data for name, data in compiled.items() if data} | dict(extra)
        everything[record] = self.members[record] + rows
        self.lock_as_built(everything)
        return self.build(everything)

    def fetched(self, name: str) -> bytes:
        """Make a distribution one that a package index gave, and return its wheel."""
        self.distributions = [each._replace(local=each.local and each.name != name) for each in self.distributions]
        self.write_lock()
        self.build()
        return packed({file: self.members[file] for file in listed(self.members, name)})

    def lock_as_built(self, extra: Mapping[str, bytes]) -> None:
        """Write the lock of what the distributions are with further members: as if that was in the checkout."""
        members = {**self.members, **extra}
        known = {each.name: each for each in self.distributions}
        fresh = {name: _distribution(name, members).sha256 for name in known if record_of(name) in members}
        self.distributions = [each._replace(sha256=fresh.get(name, each.sha256)) for name, each in known.items()]
        self.write_lock()

    def verify(self, path: Path | None = None, **options: Any) -> Report:
        """Verify the artifact against the manifest."""
        return verify(path or self.path, Options(**{"manifest": str(self.manifest), **options}))


def wheel_members(name: str, files: Mapping[str, str]) -> Members:
    """Return what a wheel of these files puts into an artifact, with bytecode."""
    folder = f"{name.replace('-', '_')}-1.0.0.dist-info"
    members = {file: text.encode() for file, text in files.items()}
    members[f"{folder}/METADATA"] = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0.0\n".encode()
    rows = "".join(record_row(file, data) for file, data in members.items())
    bytecode = {f"{file}c": compile_source(file, data) for file, data in members.items() if file.endswith(".py")}
    record = (rows + f"{folder}/RECORD,,\n").encode()
    return {**members, **{file: data for file, data in bytecode.items() if data}, f"{folder}/RECORD": record}


def record_of(name: str) -> str:
    """Return the name of a distribution's RECORD."""
    return f"{name.replace('-', '_')}-1.0.0.dist-info/RECORD"


def listed(members: Mapping[str, bytes], distribution: str) -> list[str]:
    """Return the members that a distribution's RECORD lists."""
    return [row.partition(",")[0] for row in members[record_of(distribution)].decode().splitlines()]


def record_row(name: str, data: bytes) -> str:
    """Return the row of a RECORD for a member."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"{name},sha256={digest},{len(data)}\n"


def write_beside(path: Path, frozen: FrozenManifest) -> None:
    """Write checksum, provenance and bill of materials of an artifact."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": digest}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {},
    }
    path.with_name(f"{path.name}.intoto.json").write_text(json.dumps(statement))
    components = [
        {
            "type": "library",
            "name": each.name,
            "version": each.version,
            "hashes": [{"alg": "SHA-256", "content": each.sha256}],
        }
        for each in frozen.distributions
    ]
    materials = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}
    path.with_name(f"{path.name}.cdx.json").write_text(json.dumps(materials))


def make_key(folder: Path, name: str = "private", algorithm: str = "ed25519", *options: str) -> tuple[Path, Path]:
    """Make a key pair with openssl; returns the private and the public key's file."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    openssl("genpkey", "-algorithm", algorithm, *options, "-out", str(private))
    private.chmod(0o600)
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def openssl(*arguments: str) -> str:
    """Run openssl; returns what it printed."""
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def _distribution(name: str, members: Mapping[str, bytes]) -> FrozenDistribution:
    digest = hashlib.sha256(packed({file: members[file] for file in listed(members, name)})).hexdigest()
    return FrozenDistribution(
        name, "1.0.0", "Elastic-2.0", f"{name.replace('-', '_')}-1.0.0-py3-none-any.whl", digest, True
    )


def _source(folder: Path, name: str, files: Mapping[str, str]) -> None:
    for file, text in files.items():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1.0.0"\n')
