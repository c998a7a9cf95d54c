"""The two commands on a fresh machine: what the Makefile sets up, when, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSTEM_PATH = "/usr/bin:/bin"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile, its tools and an empty workspace."""
    folder = tmp_path / "checkout"
    (folder / "plugins" / "one").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "tools", folder / "tools")
    for name in ("uv.lock", "pyproject.toml", "plugins/one/pyproject.toml"):
        (folder / name).touch()
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder at the front of PATH, with a `uv` that writes down how it was called and makes what uv makes."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script(
        folder / "uv",
        'if [ "$1" = --version ]; then echo "uv 0.99.0"; exit; fi\n'
        'echo "$@" >> calls; mkdir -p .venv/bin; env | grep ^UV_ | sort > variables\n'
        'printf "#!/bin/sh\\necho clavitor \\"\\$@\\"\\n" > .venv/bin/clavitor; chmod +x .venv/bin/clavitor\n',
    )
    (folder / "python3").symlink_to(sys.executable)
    return folder


def script(file: Path, body: str) -> None:
    """Write a shell script that can be run."""
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def make(checkout: Path, programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with nothing in its environment but PATH and HOME."""
    env = {"PATH": f"{programs}:{SYSTEM_PATH}", "HOME": str(checkout.parent)}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def calls(checkout: Path) -> list[str]:
    """Return how uv was called so far."""
    file = checkout / "calls"
    return file.read_text().splitlines() if file.exists() else []


def age(checkout: Path, *names: str) -> None:
    """Make files older than anything a test makes afterwards."""
    for name in names or ("uv.lock", "pyproject.toml", "plugins/one/pyproject.toml", "tools/setup", "tools/uv.txt"):
        os.utime(checkout / name, (1_000_000_000, 1_000_000_000))


def test_run_sets_up_the_server_without_the_test_tools_and_serves(checkout: Path, programs: Path) -> None:
    age(checkout)
    done = make(checkout, programs, "run")
    assert (done.returncode, done.stdout) == (0, "clavitor serve\n"), done.stderr
    (call,) = calls(checkout)
    assert call.startswith("sync --locked ")
    assert "--no-default-groups" in call
    assert "--inexact" in call


def test_setup_is_done_again_only_when_the_lock_or_a_pyproject_changed(checkout: Path, programs: Path) -> None:
    age(checkout)
    make(checkout, programs, "setup")
    make(checkout, programs, "setup")
    assert len(calls(checkout)) == 1
    for count, name in enumerate(("uv.lock", "pyproject.toml", "plugins/one/pyproject.toml"), 2):
        later = (checkout / ".venv/.ready-dev").stat().st_mtime + 1
        os.utime(checkout / name, (later, later))
        make(checkout, programs, "setup")
        assert len(calls(checkout)) == count, name
        age(checkout)


def test_run_after_setup_reinstalls_nothing(checkout: Path, programs: Path) -> None:
    age(checkout)
    make(checkout, programs, "setup")
    make(checkout, programs, "run")
    assert len(calls(checkout)) == 1


def test_uv_uses_this_python_the_lock_and_the_system_certificates(checkout: Path, programs: Path) -> None:
    make(checkout, programs, "setup")
    variables = dict(line.split("=", 1) for line in (checkout / "variables").read_text().splitlines())
    assert variables["UV_PYTHON_DOWNLOADS"] == "never"
    assert variables["UV_SYSTEM_CERTS"] == "1"
    assert Path(variables["UV_PYTHON"]).resolve() == Path(sys.executable).resolve()
    assert "--locked" in calls(checkout)[0]


def test_a_python_that_is_too_old_is_one_clear_line(checkout: Path, programs: Path) -> None:
    (programs / "python3").unlink()
    script(programs / "python3", "exit 1")
    done = make(checkout, programs, "run")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [
        "error: python3 is not Python 3.11 or newer: install it, or name one, as in: make PYTHON=python3.12 run"
    ]
    assert calls(checkout) == []


def test_another_python_can_be_named(checkout: Path, programs: Path) -> None:
    (programs / "python3").rename(programs / "python-new")
    script(programs / "python3", "exit 1")
    assert make(checkout, programs, "PYTHON=python-new", "run").returncode == 0


def test_without_pip_and_ensurepip_it_names_the_package_to_install(checkout: Path, programs: Path) -> None:
    (programs / "uv").unlink()
    (programs / "python3").unlink()
    script(programs / "python3", f'case "$1" in -m) exit 1;; esac\n[ "$1" = -c ] && echo {programs}/python3')
    done = make(checkout, programs, "run")
    assert done.returncode != 0
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "install the package python3-pip" in error


def test_a_missing_or_old_uv_is_installed_hash_checked(checkout: Path, programs: Path) -> None:
    script(programs / "uv", 'echo "uv 0.1.0"')
    (programs / "python3").unlink()
    script(
        programs / "python3",
        f'[ "$1" = -c ] && {{ echo {programs}/python3; exit; }}\n'
        '[ "$3" = --version ] && exit\n'
        'echo "$@" > pip; mkdir -p .tools/bin\n'
        'printf "#!/bin/sh\\n[ \\$1 = --version ] && echo uv 0.13.9 && exit\\necho \\$@ >> calls; mkdir .venv\\n" '
        "> .tools/bin/uv; chmod +x .tools/bin/uv",
    )
    done = make(checkout, programs, "setup")
    assert done.returncode == 0, done.stderr
    pip = (checkout / "pip").read_text()
    for option in ("--require-hashes", "--only-binary :all:", "--target .tools", "-r tools/uv.txt"):
        assert option in pip
    assert len(calls(checkout)) == 1


def test_every_file_of_uv_is_pinned_by_hash() -> None:
    text = (ROOT / "tools/uv.txt").read_text()
    assert re.search(r"^uv==\d+\.\d+\.\d+ \\$", text, re.MULTILINE)
    assert len(set(re.findall(r"--hash=sha256:[0-9a-f]{64}", text))) == 4


def test_help_names_every_target(checkout: Path, programs: Path) -> None:
    out = make(checkout, programs).stdout
    for target in ("run", "test", "lint", "bench", "setup", "clean", "help"):
        assert f"make {target} " in out


def test_clean_keeps_the_data(checkout: Path, programs: Path) -> None:
    for name in (".venv", ".tools", "dist", "data"):
        (checkout / name).mkdir()
    assert make(checkout, programs, "clean").returncode == 0
    assert not any((checkout / name).exists() for name in (".venv", ".tools", "dist"))
    assert (checkout / "data").exists()


def test_the_build_files_name_no_registry_and_no_place_on_this_machine() -> None:
    for name in ("Makefile", "tools/setup", "tools/uv.txt", ".ci/run"):
        text = (ROOT / name).read_text().replace("http://127.0.0.1:8400", "")
        assert "://" not in text, name
        assert str(Path.home()) not in text, name


@pytest.mark.parametrize("name", ["tools/setup", ".ci/run"])
def test_the_scripts_can_be_run_and_parse(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    shell = (ROOT / name).read_text().partition("\n")[0].rpartition("/")[2].removeprefix("env ")
    subprocess.run([shell, "-n", ROOT / name], check=True)
