"""Building: the same bytes everywhere, what lies beside an artifact, a third party's plugins, and every refusal."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from quart import Blueprint

from clavitor_host.api import Host, Plugin, hookimpl
from clavitor_host.bundle import build, lock, manifest, resolve
from clavitor_host.bundle.describe import describe
from clavitor_host.bundle.local import build_folder
from clavitor_host.bundle.sbom import Validation
from clavitor_host.bundle.workplace import workplace
from clavitor_host.errors import PluginError
from clavitor_host.plugins.frozen import BundleInfo, frozen_set
from clavitor_host.plugins.models import FrozenPlugin
from clavitor_host.testing.process import ServerProcess
from tests.bundles.conftest import attempt, clavitor
from tests.bundles.making import PLUGIN, SHELF, plugin_folder, stock, wheel, write

Built = Callable[[str], Path]

pytestmark = pytest.mark.timeout(300)

INTERPRETER = str(Path(sys.executable).resolve())
SECOND_OWNER = PLUGIN.replace(
    "    @hookimpl\n",
    '    @hookimpl\n    def edition_name(self) -> str:\n        return "community"\n\n    @hookimpl\n',
    1,
)


def beside(artifact: Path, suffix: str) -> Path:
    """Return a file beside an artifact."""
    return artifact.with_name(artifact.name + suffix)


def digest(file: Path) -> str:
    """Return a file's sha256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refusal(done: subprocess.CompletedProcess[str], out: Path) -> str:
    """Return the one error line of a build that failed, and left nothing behind."""
    assert done.returncode != 0, done.stdout
    *others, error = done.stderr.splitlines()
    assert error.startswith("error: "), done.stderr
    assert all(line.startswith("warning: ") for line in others), done.stderr
    assert not out.exists() or list(out.iterdir()) == []
    return error.removeprefix("error: ")


STOCK = [plugin.distribution for plugin in manifest.load("community").plugins]


# --- the same bytes


@pytest.mark.parametrize("name", manifest.names())
def test_the_locks_are_fresh(name: str) -> None:
    """Otherwise: clavitor bundle lock --all."""
    loaded = manifest.load(name)
    warnings: list[str] = []
    now = resolve.Resolver(warnings.append).resolve(loaded, lambda done, total: pytest.fail("it asks the index"))
    found = [str(change) for change in lock.differences(lock.read(loaded), now)]
    assert (found, lock.read(loaded)) == ([], now), f"run: clavitor bundle lock --all {warnings}"


def test_the_same_bytes_come_from_another_folder_on_another_day(built: Built, tree: Path, tmp_path: Path) -> None:
    expected = built("community")
    other = tmp_path / "deep" / "er" / "else where"
    shutil.copytree(tree, other, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__"))
    cache = tmp_path / "cache"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clavitor" / "wheels"
    (cache / "clavitor").mkdir(parents=True)
    (cache / "clavitor" / "wheels").symlink_to(user)  # what was compiled is not there
    odd = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "77", "XDG_CACHE_HOME": str(cache), "COLUMNS": "20"}
    odd |= {"SOURCE_DATE_EPOCH": "1", "PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    faketime = shutil.which("faketime")
    day = [faketime, "-f", "+40d"] if faketime else []
    command = [*day, sys.executable, "-m", "clavitor_host", "bundle", "build", "community", "-o", str(tmp_path / "out")]
    subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command], cwd=other, env={**os.environ, **odd}, check=True
    )
    for suffix in ("", ".sha256", ".cdx.json", ".intoto.json"):
        assert digest(tmp_path / "out" / (expected.name + suffix)) == digest(beside(expected, suffix)), suffix


def test_a_second_build_gives_the_same_bytes_and_drops_signatures(built: Built, tree: Path, tmp_path: Path) -> None:
    expected = built("minimal")
    beside(tmp_path / expected.name, ".sha256.sig").touch()
    said = json.loads(clavitor(tree, "bundle", "build", "minimal", "-o", str(tmp_path), "--json"))
    assert (said["sha256"], said["size"]) == (digest(expected), expected.stat().st_size)
    assert (said["edition"], [plugin["name"] for plugin in said["plugins"]]) == ("community", ["community"])
    names = {expected.name + suffix for suffix in ("", ".sha256", ".cdx.json", ".intoto.json")}
    assert {file.name for file in tmp_path.iterdir()} == names


# --- a file that is replaced


def test_a_running_server_stays_what_it_is_when_its_file_is_replaced(built: Built, tmp_path: Path) -> None:
    artifact, other = tmp_path / "clavitor.pyz", tmp_path / "other.pyz"
    shutil.copyfile(built("community"), artifact)
    shutil.copyfile(built("minimal"), other)
    with ServerProcess(tmp_path / "server", program=(INTERPRETER, str(artifact)), workers=2) as server:
        of_this_file = server.worker_pids()
        other.replace(artifact)
        for pid in of_this_file:
            os.kill(pid, signal.SIGKILL)
        assert server.wait() == 1
        lines = [line for line in server.log.splitlines() if "restart the server" in line]
        assert len(lines) == 2
        assert "The file was replaced while the server runs, no worker starts from it" in lines[0]


# --- beside the artifact


def test_sha256sum_takes_the_checksum(built: Built) -> None:
    artifact = built("community")
    command = ["sha256sum", "--check", "--strict", beside(artifact, ".sha256").name]
    assert subprocess.run(command, cwd=artifact.parent, capture_output=True, check=False).returncode == 0


def test_the_bill_of_materials_is_strict_cyclonedx_of_exactly_what_is_inside(built: Built) -> None:
    artifact = built("community")
    data = beside(artifact, ".cdx.json").read_bytes()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    bom = json.loads(data)
    component = bom["metadata"]["component"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": digest(artifact)}]
    assert component["licenses"] == [{"license": {"id": "Elastic-2.0"}}]
    locked = {item.name: item for item in lock.read(manifest.load("community")).distributions}
    found = {item["name"]: item for item in bom["components"]}
    assert found.keys() == locked.keys()
    assert all(found[name]["version"] == item.version for name, item in locked.items())
    for item in (item for item in locked.values() if item.path is None):
        assert found[item.name]["hashes"] == [{"alg": "SHA-256", "content": item.sha256}]
        assert found[item.name]["purl"] == f"pkg:pypi/{item.name}@{item.version}"
    graph = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    assert len(graph) == len(bom["dependencies"]) == len(locked) + 1
    assert len(graph[component["bom-ref"]]) == 1 + len(STOCK)
    assert found["greenlet"]["bom-ref"] in graph[found["sqlalchemy"]["bom-ref"]]  # by its extra `asyncio`
    assert len([item for item in found.values() if "licenses" in item]) > 45
    assert "timestamp" not in bom["metadata"]


def test_a_bill_of_materials_that_is_none_is_refused() -> None:
    validation = Validation()
    validation.begin(b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "extra": 1}')
    assert "extra" in validation.fault()


def test_the_provenance_names_what_went_in_and_nothing_of_the_machine(built: Built, tree: Path) -> None:
    artifact = built("community")
    text = beside(artifact, ".intoto.json").read_text()
    statement = json.loads(text)
    assert statement["subject"] == [{"name": artifact.name, "digest": {"sha256": digest(artifact)}}]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["inputs"] == [
        {"name": f"bundles/{name}", "digest": {"sha256": digest(tree / "bundles" / name)}}
        for name in ("community.toml", "community.lock")
    ]
    assert len(definition["resolvedDependencies"]) == len(lock.read(manifest.load("community")).distributions)
    assert {len(item["digest"]["sha256"]) for item in definition["resolvedDependencies"]} == {64}
    for private in (str(tree), str(Path.home()), os.uname().nodename, "time"):
        assert private not in text


def test_describe_says_what_the_artifact_is_made_of(built: Built) -> None:
    said = run(built("community"), "bundle", "describe", "--json")
    assert (said["edition"], [plugin["distribution"] for plugin in said["plugins"]]) == (
        "community",
        STOCK,
    )
    assert said["hooks"]["edition_name"] == ["community"]
    assert ["PUT", "/api/entries/<entry_id>", "host"] in said["routes"]
    assert {"serve", "bundle"} <= set(said["commands"])
    assert said["outbound_hosts"] == {}


def test_the_commercial_bundle_says_whom_it_calls(built: Built) -> None:
    said = run(built("commercial"), "bundle", "describe", "--json")
    assert said["edition"] == "commercial"
    assert said["outbound_hosts"] == {"commercial": ["clavitor.ai"]}


def run(artifact: Path, *arguments: str) -> Any:
    """Run an artifact and return what it says as JSON."""
    done = subprocess.run([INTERPRETER, str(artifact), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_artifact_cannot_build(built: Built) -> None:
    artifact = built("community")
    for command in (["build", "community"], ["lock", "community"]):
        done = subprocess.run(
            [INTERPRETER, str(artifact), "bundle", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert done.stderr == (
            f"error: {artifact.name} is a built bundle: bundles are built and locked from a checkout of the host\n"
        )


# --- third parties


def test_third_parties_add_a_folder_a_wheel_and_a_pinned_requirement(tree: Path, tmp_path: Path) -> None:
    """Three plugins made outside of the checkout, in one bundle, each answering on its own route; two with an extra."""
    shelf, mine = tmp_path / "index", tmp_path / "mine"
    shelf.mkdir()
    stock(shelf)
    wheel(shelf, "left-pad")
    wheel(shelf, "right-pad")
    plugin_folder(mine / "plugin", extras={"fast": ["left-pad"]})
    for name, folder in (("beta", mine), ("gamma", shelf)):
        source = plugin_folder(tmp_path / "sources" / name, name, extras={"fast": ["right-pad"]})
        file, data = build_folder(source, name, print)
        (folder / file).write_bytes(data)
    text = """\
[bundle]
name = "acme-vault"
extends = "community"
[plugins]
clavitor-acme = { path = "plugin", extras = ["fast"] }
clavitor-beta = { wheel = "clavitor_beta-2.5-py3-none-any.whl", optional = true }
clavitor-gamma = { requirement = "clavitor-gamma[fast]==2.5" }
"""
    own = write(mine, {"vault.toml": text.replace("Plugin", "")}) / "vault.toml"
    index = {**SHELF, "PIP_FIND_LINKS": str(shelf)}
    assert "added clavitor-gamma 2.5" in clavitor(tree, "bundle", "lock", str(own), env=index)
    clavitor(tree, "bundle", "build", str(own), "-o", str(tmp_path / "out"), env=index)
    (artifact,) = (tmp_path / "out").glob("acme-vault-*.pyz")
    bom = json.loads(beside(artifact, ".cdx.json").read_text())
    graph = {entry["ref"]: entry["dependsOn"] for entry in bom["dependencies"]}
    padding = {ref: [other for other in others if "-pad@" in other] for ref, others in graph.items()}
    assert {ref: others for ref, others in padding.items() if others} == {
        "pkg:generic/clavitor-acme@2.5": ["pkg:pypi/left-pad@1.0"],
        "pkg:pypi/clavitor-gamma@2.5": ["pkg:pypi/right-pad@1.0"],
    }
    said = run(artifact, "bundle", "describe", "--json")
    assert [plugin["name"] for plugin in said["plugins"]] == [
        *(name.removeprefix("clavitor-") for name in STOCK),
        "acme",
        "beta",
        "gamma",
    ]
    assert said["outbound_hosts"]["acme"] == ["telemetry.acme.example"]
    assert ["GET", "/api/v1/beta", "beta"] in said["routes"]
    with ServerProcess(tmp_path / "server", program=(INTERPRETER, str(artifact))) as server:
        for name in ("acme", "beta", "gamma"):
            answer = httpx.get(f"{server.url}/api/v1/{name}", headers=server.authorization)
            assert (answer.status_code, answer.json()) == (200, {"hello": f"from {name}"})


# --- refusals


@pytest.fixture
def mine(tree: Path, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
    """Makes a third party's bundle of one plugin, locked; returns its manifest and where to build it."""

    def make(source: str = PLUGIN, more: str = "", extra: str = "") -> tuple[str, Path]:
        plugin_folder(tmp_path / "mine" / "plugin", source=source)
        text = '[bundle]\nextends = "community"\nname = "acme"\n'
        text += f'[plugins]\nclavitor-acme = {{ path = "plugin"{extra} }}\n{more}'
        file = write(tmp_path / "mine", {"acme.toml": text}) / "acme.toml"
        clavitor(tree, "bundle", "lock", str(file))
        return str(file), tmp_path / "out"

    return make


Mine = Callable[..., tuple[str, Path]]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (SECOND_OWNER, 'acme.toml: more than one plugin implements "edition_name": acme, community'),
        (
            PLUGIN.replace('version = "2.5"', 'version = "2.5"\n    clavitor_api = ">=2"'),
            "acme.toml: plugin acme: registration failed: it needs plugin API >=2, this host has 1.0: take a version "
            "made for it",
        ),
    ],
    ids=["two owners", "api range"],
)
def test_plugins_that_cannot_run_together_are_refused(tree: Path, mine: Mine, source: str, says: str) -> None:
    """Also when the plugin is optional: what is quarantined from the start is a mistake of the bundle."""
    file, out = mine(source, extra=", optional = true")
    assert refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out).startswith(says)


def test_what_a_start_would_refuse_cannot_be_described() -> None:
    class Taken(Plugin):
        name = "taken"
        version = "1"
        path = "/api/v1/me"

        @hookimpl
        def blueprints(self, host: Host) -> list[Blueprint]:
            routes = Blueprint("taken", __name__)
            routes.get(self.path)(lambda: "")
            return [routes]

    class Loose(Taken):
        path = "/taken"
        outbound_hosts = "example.org"  # type: ignore[assignment]

    community = frozen_set().plugins
    for plugin, says in (
        (Taken, "route GET /api/v1/me is given by both the host and plugin taken"),
        (Loose, "plugin taken: outbound_hosts must be a tuple of host names"),
    ):
        bundle = BundleInfo("x", "community", (*community, FrozenPlugin("clavitor-taken", plugin, optional=True)))
        with pytest.raises(PluginError, match=f"^{says}$"):
            describe(bundle, ["serve"])


def test_another_edition_than_the_manifests_is_refused(tree: Path, tmp_path: Path) -> None:
    text = f"""\
[bundle]
name = "acme"
edition = "commercial"
license = "MIT"
[plugins]
clavitor-community = {{ path = "{os.path.relpath(tree / "plugins" / "community", tmp_path)}" }}
"""
    file = str(write(tmp_path, {"acme.toml": text, "acme.lock": ""}) / "acme.toml")
    stocked = lock.read(manifest.load("minimal"))
    shutil.copyfile(tree / "bundles" / "minimal.lock", tmp_path / "acme.lock")
    (tmp_path / "acme.lock").write_text(
        (tmp_path / "acme.lock").read_text().replace('manifest = "clavitor-minimal"', 'manifest = "acme"')
    )
    assert stocked.fetched
    out = tmp_path / "out"
    assert refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out) == (
        "acme.toml: plugin community makes this the community edition, its bundle is commercial"
    )


def test_a_forbidden_text_is_refused_with_the_member_that_has_it(tree: Path, mine: Mine) -> None:
    file, out = mine(PLUGIN + '\nSECRET = "Very HUSH hush"\n', '[forbid]\nstrings = ["hush HUSH"]\n')
    said = refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out)
    assert said == "acme.toml: clavitor_acme/plugin.py contains 'hush HUSH', which forbid.strings forbids"


def test_a_forbidden_dependency_is_refused_also_when_the_lock_has_it(tree: Path, mine: Mine, tmp_path: Path) -> None:
    file, out = mine()
    Path(file).write_text(Path(file).read_text() + '[forbid]\ndistributions = ["greenlet"]\n')
    assert refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out) == (
        "acme.toml: greenlet is forbidden by forbid.distributions (greenlet), and sqlalchemy requires it"
    )


def test_a_stale_or_missing_lock_is_refused(tree: Path, mine: Mine, tmp_path: Path) -> None:
    file, out = mine()
    write(tmp_path / "mine" / "plugin", {"clavitor_acme/more.py": ""})
    said = refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out)
    assert said.startswith("acme.lock is stale: clavitor-acme was locked as ")
    assert said.endswith("…; run: clavitor bundle lock acme.toml")
    Path(file).with_suffix(".lock").unlink()
    assert refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out) == (
        "acme.lock is missing; run: clavitor bundle lock acme.toml"
    )


def test_two_wheels_with_the_same_member_are_refused(tree: Path, tmp_path: Path) -> None:
    wheel(tmp_path, "clavitor-acme", files={"clavitor_acme/plugin.py": b"", "anyio/__init__.py": b""})
    text = '[bundle]\nextends = "community"\nname = "acme"\n'
    text += '[plugins]\nclavitor-acme = { wheel = "clavitor_acme-1.0-py3-none-any.whl" }\n'
    file, out = str(write(tmp_path, {"acme.toml": text}) / "acme.toml"), tmp_path / "out"
    clavitor(tree, "bundle", "lock", file)
    said = refusal(attempt(tree, "bundle", "build", file, "-o", str(out)), out)
    assert said.startswith("anyio/__init__.py is in both clavitor_acme-1.0-py3-none-any.whl and anyio-")


def test_a_wheel_that_is_not_the_locks_is_refused(tree: Path, mine: Mine, tmp_path: Path) -> None:
    file, out = mine()
    locked = Path(file).with_suffix(".lock")
    pinned = next(item for item in lock.read(manifest.load("community")).fetched if item.name == "idna")
    locked.write_text(locked.read_text().replace(pinned.sha256, "0" * 64))
    (tmp_path / "index").mkdir()
    stock(tmp_path / "index")
    index = {**SHELF, "PIP_FIND_LINKS": str(tmp_path / "index")}
    said = refusal(attempt(tree, "bundle", "build", file, "-o", str(out), env=index), out)
    assert said == f"idna=={pinned.version}: the package index gives a file whose sha256 is not the one in the lock"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "clavitor", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_behind(tree: Path, small_disk: Path) -> None:
    said = refusal(attempt(tree, "bundle", "build", "community", "-o", str(small_disk)), small_disk)
    assert said.startswith(f"{small_disk}/clavitor-community-")
    assert said.endswith(".pyz cannot be written: No space left on device")


def begun(tree: Path, out: Path) -> tuple[subprocess.Popen[str], Path]:
    """Begin a build, and wait until its working folder has the artifact in it."""
    command = [sys.executable, "-m", "clavitor_host", "bundle", "build", "minimal", "-o", str(out)]
    process = subprocess.Popen(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (found := list(out.glob(".building-*/*.pyz"))):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process, found[0].parent


def test_a_build_that_is_told_to_end_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    process, _ = begun(tree, tmp_path)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + signal.SIGTERM, "")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_builds_have_left_is_swept_up_and_nothing_else(tree: Path, tmp_path: Path) -> None:
    process, left = begun(tree, tmp_path)
    process.kill()
    process.communicate()
    assert list(left.iterdir()) != []
    others = [tmp_path / name for name in (".building-", ".building-site", ".building-abcdefg", "building-abcdefgh")]
    for other in others:
        other.mkdir()
    (tmp_path / ".building-filefile").touch()
    (tmp_path / ".building-linklink").symlink_to(others[0])
    with workplace(tmp_path) as living:
        assert not left.exists()
        with workplace(tmp_path):
            assert living.exists()
    names = {other.name for other in others} | {".building-filefile", ".building-linklink"}
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.parametrize("done", range(6))
def test_a_build_killed_while_it_puts_files_leaves_no_set_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """Whatever number of steps was done: the signatures are gone, and the checksum is not the old artifact's."""
    suffixes = (".sha256", ".cdx.json", ".intoto.json", "", ".sha256.sig", ".intoto.dsse.json")
    old, new = tmp_path / "a.pyz", tmp_path / "new" / "a.pyz"
    new.parent.mkdir()
    for suffix in suffixes:
        beside(old, suffix).write_text("old")
    for suffix in suffixes[:4]:
        beside(new, suffix).write_text("new")
    steps: list[str] = []

    def step(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Path, *arguments: Any, **more: Any) -> Any:
            if len(steps) == done:
                raise KeyboardInterrupt
            steps.append(path.name)
            return call(path, *arguments, **more)

        return counted

    monkeypatch.setattr(Path, "unlink", step(Path.unlink))
    monkeypatch.setattr(Path, "replace", step(Path.replace))
    with pytest.raises(KeyboardInterrupt):
        build._put(new, old, suffixes[:3])
    found = {suffix: beside(old, suffix).read_text() for suffix in suffixes if beside(old, suffix).exists()}
    if done == 0:
        assert set(found.values()) == {"old"}
    elif done > 2:
        assert (found[".sha256"], found[""]) == ("new", "old")
    assert (".sha256.sig" in found) == (done < 1)
    assert (".intoto.dsse.json" in found) == (done < 2)


def test_a_place_that_cannot_be_written_is_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = attempt(tree, "bundle", "build", "community", "-o", str(tmp_path / "file"))
    assert refusal(done, tmp_path / "none") == f"{tmp_path / 'file'} cannot be written: File exists"
