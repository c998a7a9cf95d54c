"""The editions are different files, and no switch leads from one to the other: shown on the built files themselves."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from clavitor_host.testing.process import ServerProcess
from tests.bundles.places import INTERPRETER, ROOT, Built, program

EDITIONS = {"community": "Community", "minimal": "Community", "commercial": "Commercial"}
WORD = "tarpit"
LEFT_OUT = re.compile(r"plugins/commercial[^/]*/|bundles/commercial\.|uv\.lock$")
"""What the community edition is built without, besides `.git`."""

NOBODY = 65534

DRIPS = 1.5
"""Seconds of a body after which it is no plain answer."""

community_editions = pytest.mark.parametrize("name", [name for name in EDITIONS if EDITIONS[name] == "Community"])


# --- built without the other edition


@pytest.fixture
def tree_without_commercial(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree that `built` builds from, but for `LEFT_OUT`; it is no git checkout either."""
    copy = tmp_path / "clavitor"
    for file in tree.rglob("*"):
        name = file.relative_to(tree)
        if file.is_file() and not LEFT_OUT.match(str(name)):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy / name)
    assert list(tree.glob("*/commercial*")) and not list(copy.glob("*/commercial*"))
    assert not (copy / "uv.lock").exists() and not (copy / ".git").exists()
    return copy


@pytest.mark.timeout(300)
def test_the_same_bytes_come_from_a_tree_without_the_commercial_folders(
    built: Built, tree_without_commercial: Path, tmp_path: Path
) -> None:
    expected = built("community")
    done = subprocess.run(
        [*_program_of(tree_without_commercial), "bundle", "build", "community", "-o", str(tmp_path / "dist")],
        cwd=tree_without_commercial,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _digest(tmp_path / "dist" / expected.name) == _digest(expected)


def _program_of(tree: Path) -> list[str]:
    """Return the program of another tree: this environment's packages without its links into this checkout."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    start = f"import sys; sys.path[:0] = {[str(tree), packages]!r}; from clavitor_host.__main__ import main; main()"
    return [sys.executable, "-I", "-S", "-c", start]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# --- what is in the files


@community_editions
def test_strings_finds_nothing_of_it_in_a_community_artifact(built: Built, name: str) -> None:
    assert _shell(f'strings "$1" | grep -i {WORD}', built(name)) == (1, "")


def test_strings_finds_it_in_the_commercial_artifact(built: Built) -> None:
    code, found = _shell(f'strings "$1" | grep -i {WORD}', built("commercial"))
    assert (code, len(found.splitlines()) > 10) == (0, True)


@community_editions
def test_a_community_artifact_names_no_commercial_distribution(built: Built, name: str) -> None:
    named = re.compile(rb"clavitor[-_.]commercial", re.IGNORECASE)
    assert named.search(built(name).read_bytes()) is None
    assert named.search(built("commercial").read_bytes()) is not None


@community_editions
def test_a_community_artifact_replicates_nothing(built: Built, tmp_path: Path, name: str) -> None:
    """No code, no table, and the two columns that every edition has stay as they were made."""
    replication = re.compile(rb"replication_(queue|state|peer|versions)|/api/replication")
    assert replication.search(built(name).read_bytes()) is None
    assert replication.search(built("commercial").read_bytes()) is not None
    with ServerProcess(tmp_path / "server", program=program(name, built)) as server:
        for method, body in (
            ("PUT", {"encrypted_data": "AAAA"}),
            ("DELETE", None),
            ("PUT", {"encrypted_data": "BBBB"}),
        ):
            for entry_id in ("one", "two"):
                url = f"{server.url}/api/entries/{entry_id}"
                httpx.request(method, url, json=body, headers=server.authorization).raise_for_status()
        missing = httpx.post(f"{server.url}/api/replication/apply", json={})
        assert missing.status_code == 404
    with closing(sqlite3.connect(server.data_dir / "vault.db")) as db:
        rows = db.execute("SELECT entry_id, replicated_at, replication_dirty FROM entries ORDER BY entry_id").fetchall()
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert rows == [("one", None, 0), ("two", None, 0)]
    assert not [table for table in tables if "replicat" in table]


def _shell(pipeline: str, file: Path) -> tuple[int, str]:
    if shutil.which("strings") is None:
        pytest.skip("strings is missing: install binutils")
    done = subprocess.run(["sh", "-c", pipeline, "sh", str(file)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


# --- what runs


@pytest.mark.parametrize(("name", "workers"), [("community", 3), ("minimal", 1), ("commercial", 3)])
def test_the_start_line_names_the_edition(built: Built, tmp_path: Path, name: str, workers: int) -> None:
    with ServerProcess(tmp_path / "server", program=program(name, built), workers=workers) as server:
        _check_what_runs(server, name)
        if workers > 1:
            _until_all_workers_answered(server)
        assert server.terminate() < 5
        assert server.wait_workers_gone()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("name", ["community", "commercial"])
def test_it_runs_read_only_without_exec_and_without_a_home(built: Built, tmp_path: Path, name: str) -> None:
    """The artifact on a mount that is read-only and noexec; data and temporary files on one that is noexec."""
    _skip_unless_mountable()
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    artifact = str(shutil.copy(built(name), shelf))
    mounted = f"""
        mount --bind {shelf} {shelf} && mount -o remount,bind,ro,noexec,nosuid,nodev {shelf} || exit 9
        mount --bind {tmp_path}/server {tmp_path}/server && mount -o remount,bind,noexec {tmp_path}/server || exit 9
        ! touch {shelf}/x 2>/dev/null || exit 9
        exec "$@"
    """
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", mounted, "sh")
    nowhere = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": str(tmp_path / "server")}
    server = ServerProcess(
        tmp_path / "server", program=(INTERPRETER, artifact), prefix=prefix, environ=nowhere, workers=2
    )
    with server:
        _check_what_runs(server, name)
    assert "Traceback" not in server.log


def test_it_runs_for_a_user_who_may_only_read_it(built: Built) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("becoming another user takes root and setpriv")
    python = next((name for name in (INTERPRETER, "/usr/bin/python3.11") if _open_to_all(name)), None)
    if python is None:
        pytest.skip(f"another user may not run {INTERPRETER}")
    with tempfile.TemporaryDirectory(prefix="clavitor-shelf-") as shelf:  # pytest's own folders are closed to others
        Path(shelf).chmod(0o755)
        artifact = shutil.copy(built("community"), shelf)
        Path(artifact).chmod(0o644)
        folder = Path(shelf, "server")
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")
        nowhere = {"HOME": "/nonexistent"}
        with ServerProcess(folder, program=(python, artifact), prefix=prefix, environ=nowhere) as server:
            _check_what_runs(server, "community")


def _open_to_all(program: str) -> bool:
    path = Path(program)
    return path.is_file() and all(folder.stat().st_mode & 0o005 == 0o005 for folder in path.parents)


def _check_what_runs(server: ServerProcess, name: str) -> None:
    """Check the start line, the plugins, and what becomes of a request for nothing."""
    version = httpx.get(f"{server.url}/api/v1/openapi.json").json()["info"]["version"]
    line = f"Starting Clavitor Vault v{version} - {EDITIONS[name]} Edition"
    assert [row.split("INFO")[-1].strip() for row in server.log.splitlines() if "Starting Clavitor" in row] == [line]
    status, seconds = _ask_for_nothing(server)
    assert status == 404
    assert (seconds < DRIPS) == (EDITIONS[name] == "Community"), seconds


def _ask_for_nothing(server: ServerProcess) -> tuple[int, float]:
    """Return the status of `GET /nothing` and how long its body takes, in seconds; no more than `DRIPS` are waited."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    try:
        connection.request("GET", "/nothing")
        answer = connection.getresponse()
        began = time.monotonic()
        while answer.read(1) and time.monotonic() - began < DRIPS:
            pass
        return answer.status, time.monotonic() - began
    finally:
        connection.close()


def _until_all_workers_answered(server: ServerProcess) -> None:
    seen: set[int] = set()
    deadline = time.monotonic() + 60
    while len(seen) < server.workers:
        assert time.monotonic() < deadline, f"only {len(seen)} workers answered"
        connection = http.client.HTTPConnection(*server.address, timeout=20)
        connection.request("GET", "/healthz")
        seen.add(int((connection.getresponse().getheader("X-Request-Id") or "").partition("-")[0], 16))
        connection.close()
    assert seen <= set(server.worker_pids())


def _skip_unless_mountable() -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting takes root and unshare")
    done = subprocess.run(["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")


# --- no switch

FAKES = {
    "clavitor_frozen.py": 'NAME = "clavitor-commercial"\nEDITION = "commercial"\n'
    'PLUGINS = (("clavitor-commercial", "clavitor_commercial.plugin", False),)\n',
    "clavitor_commercial/__init__.py": "",
    "clavitor_commercial/plugin.py": 'raise SystemExit("the fake was imported")\n',
    "clavitor_community/__init__.py": 'raise SystemExit("the fake was imported")\n',
    "clavitor_host/__init__.py": 'raise SystemExit("the fake was imported")\n',
    "quart/__init__.py": 'raise SystemExit("the fake was imported")\n',
    "sitecustomize.py": "import sys, types\nfake = types.ModuleType('clavitor_frozen')\nfake.EDITION = 'commercial'\n"
    "sys.modules['clavitor_frozen'] = fake\n",
    "fake.pth": "import sys; sys.modules['clavitor_host'] = None\n",
    "bundles/community.toml": '[bundle]\nname = "x"\nedition = "commercial"\n[plugins]\n',
    "bundles/commercial.toml": '[bundle]\nname = "x"\nedition = "commercial"\n[plugins]\n',
    "pyvenv.cfg": "include-system-site-packages = true\n",
}


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    folder = tmp_path / "fakes"
    for name, text in FAKES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_modules_from_elsewhere_change_nothing(built: Built, fakes: Path, tmp_path: Path) -> None:
    artifact = Path(shutil.copy(built("community"), fakes))  # the fakes lie beside it, too
    site = tmp_path / "home/.local/lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    shutil.copytree(fakes, site)
    path = os.pathsep.join([str(fakes), str(built("commercial"))])
    environ = {
        "PYTHONPATH": path,
        "PEX_PATH": str(built("commercial")),
        "PEX_EXTRA_SYS_PATH": path,
        "PYTHONUSERBASE": str(tmp_path / "home/.local"),
        "HOME": str(tmp_path / "home"),
        "VIRTUAL_ENV": str(fakes),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert _edition((INTERPRETER, artifact.name), fakes, environ) == "community"
    assert _edition((INTERPRETER, str(artifact)), tmp_path, environ) == "community"


@pytest.mark.parametrize("variable", ["CLAVITOR_EDITION", "CLAVITOR_PLUGINS", "CLAVITOR_COMMERCIAL_TELEMETRY_HOST"])
def test_no_variable_makes_it_commercial(built: Built, tmp_path: Path, variable: str) -> None:
    done = _run(program("community", built), ("serve", "--bind", "127.0.0.1:0"), tmp_path, {variable: "commercial"})
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: {variable}: no such variable")


@pytest.mark.parametrize(
    "config",
    [
        "[plugins.commercial]\n",
        f"[plugins.commercial_{WORD}]\n",
        'edition = "commercial"\n',
        '[plugins]\nclavitor-commercial = { path = "plugins/commercial" }\n',
    ],
)
def test_no_configuration_makes_it_commercial(built: Built, tmp_path: Path, config: str) -> None:
    (tmp_path / "clavitor.toml").write_text(config)
    done = _run(program("community", built), ("serve", "--bind", "127.0.0.1:0"), tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert re.match(r"error: (plugins|edition)\b", done.stderr), done.stderr


@pytest.mark.parametrize("option", ["--edition=commercial", "--plugin=clavitor_commercial"])
def test_no_option_makes_it_commercial(built: Built, tmp_path: Path, option: str) -> None:
    done = _run(program("community", built), ("serve", option), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such option" in done.stderr


def test_a_commercial_artifact_is_commercial_wherever_it_runs(built: Built, tmp_path: Path) -> None:
    assert _edition(program("commercial", built), ROOT, {"PYTHONPATH": str(ROOT)}) == "commercial"
    assert _edition(program("community", built), ROOT, {"PYTHONPATH": str(ROOT)}) == "community"


def _edition(command: tuple[str, ...], folder: Path, environ: Mapping[str, str]) -> str:
    done = _run(command, ("plugins", "--json"), folder, environ)
    assert done.returncode == 0, done.stderr
    edition: str = json.loads(done.stdout)["edition"]
    return edition


def _run(
    command: tuple[str, ...], arguments: tuple[str, ...], folder: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAVITOR_", "PYTHON"))}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**kept, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
