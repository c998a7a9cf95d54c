"""An artifact starts with python3 alone, from anywhere, and nothing around it changes what runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pluggy
import pytest

import clavitor_host
from clavitor_host.bundle.frozen import FrozenEntry
from tests.bundles.small import PYTHON, small_artifact, small_frozen, start

SHOW = """
import json, sys, clavitor_host, shop.counter
print(json.dumps({"argv": sys.argv, "path": sys.path, "orig": sys.orig_argv, "host": clavitor_host.__file__,
    "shop": shop.counter.__file__, "flags": [sys.flags.isolated, sys.flags.no_site, sys.flags.dont_write_bytecode],
    "arguments": arguments, "modules": sorted(sys.modules)}))
"""
EVIL = "import os; os.write(1, b'EVIL\\n')\n"
PTH = "import os, sys; os.write(1, b'again\\n' if sys.flags.isolated else b'first\\n')\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_artifact(tmp_path_factory.mktemp("bin") / "small-1.0.0.pyz")


def shown(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_it_runs_with_python_alone_and_hands_over_the_arguments(artifact: Path) -> None:
    told = shown(start(artifact, SHOW, "--one", "", "ü", "-I"))
    assert told["argv"][2:] == told["arguments"] == ["--one", "", "ü", "-I"]
    assert told["argv"][0] == str(artifact)
    assert told["host"] == f"{artifact}/clavitor_host/__init__.py"
    assert told["shop"] == f"{artifact}/shop/counter.py"
    assert told["flags"] == [1, 1, 1]
    assert not [entry for entry in told["path"] if not entry.startswith("/usr/lib/python3")]
    assert not {"site", "zipfile", "pathlib", "importlib.metadata", "importlib.resources"} & set(told["modules"])


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_code_is_the_programs_own(artifact: Path, code: int) -> None:
    assert start(artifact, f"import sys; sys.exit({code})").returncode == code


def test_an_uncaught_error_is_shown_with_its_source_lines(artifact: Path) -> None:
    done = start(artifact, "import shop.counter; shop.counter.fail()")
    assert done.returncode == 1
    assert f'File "{artifact}/shop/counter.py", line 3, in fail' in done.stderr
    assert 'raise ValueError("out of goods")  # here it breaks' in done.stderr
    assert "main()" in done.stderr


def test_an_interrupt_is_not_swallowed(artifact: Path) -> None:
    done = start(artifact, "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)")
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def interrupted(artifact: Path, tmp_path: Path, setup: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start an artifact with a Python that interrupts itself, as `setup` tells it to; see it end."""
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal, sys\n{setup}\n")
    return start(artifact, *arguments, env={"PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("call", ["os.realpath", "os.uname", "os.confstr", "os.readlink", "os.execv"])
def test_an_interrupt_before_the_program_begins_ends_it_quietly(artifact: Path, tmp_path: Path, call: str) -> None:
    """In stage 1; at the last moment before it starts itself again, it ends right after that."""
    name = call.replace("os.realpath", "os.path.realpath")
    setup = f"""
def at(*arguments, given={name}, **more):
    os.kill(os.getpid(), signal.SIGINT)
    return given(*arguments, **more)
{name} = at
"""
    done = interrupted(artifact, tmp_path, setup, "print('started')")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_while_the_launcher_checks_ends_it_quietly(tmp_path: Path) -> None:
    """What `serve` loads ahead stands for everything before the program: it interrupts, and a thread checks."""
    ahead = b"import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**6): pass\nprint('on')\n"
    mine = small_artifact(
        tmp_path / "a.pyz", {"clavitor_host/cli/__init__.py": b"", "clavitor_host/cli/main.py": ahead}
    )
    done = start(mine, "serve")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_that_is_ignored_stays_so(artifact: Path) -> None:
    code = "import os, signal as s; os.kill(os.getpid(), s.SIGINT); print(s.getsignal(2), s.pthread_sigmask(0, []))"
    shell = 'trap "" INT; exec "$0" "$1" "$2"'
    done = subprocess.run(["sh", "-c", shell, PYTHON, artifact, code], capture_output=True, text=True, check=False)
    assert done.stdout == "1 set()\n", done.stderr
    assert start(artifact, "import signal; print(signal.getsignal(2) is signal.default_int_handler)").stdout == "True\n"


def test_the_garbage_collector_is_as_python_has_it(artifact: Path) -> None:
    assert start(artifact, "import gc; print(gc.isenabled(), gc.get_freeze_count())").stdout == "True 0\n"


def test_it_runs_as_a_command_by_a_relative_path_and_by_a_link(artifact: Path, tmp_path: Path) -> None:
    direct = start(artifact, SHOW, command=(), env={"PATH": "/usr/bin:/bin"})
    assert shown(direct)["host"].startswith(str(artifact))
    relative = shown(start(f"./{artifact.name}", SHOW, cwd=artifact.parent))
    assert relative["orig"][4] == str(artifact)
    link = tmp_path / "clavitor"
    link.symlink_to(artifact)
    assert shown(start(link, SHOW))["argv"][0] == str(artifact)


def test_it_runs_from_a_read_only_place_without_a_home(artifact: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        mounted = subprocess.run(
            ["unshare", "-m", "sh", "-c", 'mount --bind "$1" "$1" && mount -o remount,ro,noexec,bind "$1" && '
             'mount -t tmpfs -o ro none "$2" && cd "$2" && exec env -i PATH=/usr/bin HOME="$2" "$3" "$4" "$5"',
             "sh", str(artifact.parent), str(tmp_path), PYTHON, str(artifact), SHOW],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "unshare failed" in mounted.stderr or "permission denied" in mounted.stderr:
            pytest.skip("needs the right to mount")
        assert shown(mounted)["flags"] == [1, 1, 1]
    done = subprocess.run([PYTHON, artifact, SHOW], env={"HOME": "/nonexistent"}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert shown(done)["flags"] == [1, 1, 1]


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder with a module of every name that could be taken for ours, or that Python runs by itself."""
    for name in ("shop", "clavitor_host", "markupsafe", "space"):
        (tmp_path / name).mkdir()
        for file in ("__init__", "counter", "__main__", "inner"):
            (tmp_path / name / f"{file}.py").write_text(EVIL)
    for name in ("clavitor_launcher", "clavitor_importer", "clavitor_resources", "clavitor_frozen", "late",
                 "sitecustomize", "usercustomize", "startup"):  # fmt: skip
        (tmp_path / f"{name}.py").write_text(EVIL)
    return tmp_path


RUNS = "import shop.counter, space.inner, late, markupsafe._speedups, clavitor_frozen; print('ours')"


def variables(evil: Path) -> Iterator[tuple[str, str]]:
    yield "PYTHONPATH", str(evil)
    yield "PYTHONSTARTUP", str(evil / "startup.py")
    yield "PYTHONWARNINGS", "error"
    yield "PYTHONBREAKPOINT", "startup.x"
    yield "PYTHONHOME", "/usr"
    yield "PYTHONINSPECT", "1"
    yield "PYTHONOPTIMIZE", "2"
    yield "PYTHONDONTWRITEBYTECODE", ""
    yield "PYTHONSAFEPATH", ""
    yield "PYTHONPLATLIBDIR", "lib"


def test_nothing_in_the_environment_or_the_working_folder_changes_what_runs(artifact: Path, evil: Path) -> None:
    environment = dict(variables(evil))
    assert start(artifact, RUNS, cwd=evil).stdout == "ours\n"
    done = start(artifact, RUNS, cwd=evil, env=environment)
    # Python runs sitecustomize and usercustomize before it looks at the artifact; from our own start on, nothing
    assert done.stdout == "EVIL\nEVIL\nours\n", done.stderr
    again = start(artifact, RUNS, cwd=evil, env=environment | {"PYTHONHOME": "/nonexistent"},
                  command=(PYTHON, "-I", "-S", "-B"))  # fmt: skip
    assert again.stdout == "ours\n", again.stderr
    assert again.stderr == ""


def test_what_loads_code_into_any_process_is_not_handed_on(artifact: Path, tmp_path: Path) -> None:
    """What chooses libraries is: it has been at work in the first process, which may not run without it."""
    settings = ("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GCONV_PATH", "LD_AUDIT")
    environment = {name: str(tmp_path / name) for name in (*settings, "LD_LIBRARY_PATH", "OTHER")}
    code = "import os; print(sorted(name for name in os.environ if name in arguments))"
    for isolated in ((), ("-I", "-S", "-B")):
        done = start(artifact, code, *environment, env=environment, command=(PYTHON, *isolated))
        assert done.stdout == "['LD_LIBRARY_PATH', 'OTHER']\n", done.stderr


def test_neither_user_site_nor_pth_files_nor_a_virtual_environment_change_what_runs(artifact: Path, evil: Path) -> None:
    base = evil / "base"
    site = base / "lib/python3.11/site-packages"
    site.mkdir(parents=True)
    (site / "late.py").write_text(EVIL)
    (site / "evil.pth").write_text(PTH)
    done = start(artifact, RUNS, env={"PYTHONUSERBASE": str(base), "HOME": str(evil)})
    assert set(done.stdout.split()) == {"first", "ours"}, done.stderr
    venv = evil / "venv"
    made = venv / "lib/python3.11/site-packages"
    made.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to(PYTHON)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    (made / "evil.pth").write_text(PTH)
    done = start(artifact, RUNS + "; import sys; print(sys.prefix)", command=(str(venv / "bin/python3"),))
    assert set(done.stdout.split()) == {"first", "ours", "/usr"}, done.stderr


def test_a_worker_started_as_the_supervisor_does_runs_the_same_and_isolated(artifact: Path, evil: Path) -> None:
    again = textwrap.dedent("""
        import os, subprocess, sys
        if not arguments[1:]:
            os.chdir(arguments[0])
            sys.exit(subprocess.call([sys.executable, *sys.orig_argv[1:], "worker"], env={"PYTHONPATH": arguments[0]}))
        import late
        print(late.__file__, sys.flags.isolated)
    """)
    done = start(f"./{artifact.name}", again, str(evil), cwd=artifact.parent)
    assert done.stdout == f"{artifact}/late.py 1\n", done.stderr


def test_closed_standard_streams_do_not_confuse_it(artifact: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"""
import os, sys, markupsafe._speedups, late
opened = os.open({str(told)!r}, os.O_WRONLY | os.O_CREAT)
targets = [os.readlink(f"/proc/self/fd/{{fd}}") for fd in (0, 1, 2)]
print("to nowhere")
os.write(opened, repr((opened > 2, targets, late.VALUE)).encode())
"""
    shell = 'exec "$0" "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, PYTHON, artifact, code], check=False)
    assert done.returncode == 0
    assert told.read_text() == repr((True, ["/dev/null"] * 3, "late"))


def test_a_refusal_with_closed_streams_still_has_its_exit_code(tmp_path: Path) -> None:
    broken = small_artifact(tmp_path / "broken.pyz")
    broken.write_bytes(broken.read_bytes().replace(b"VALUE = 'late'", b"VALUE = 'luck'"))
    assert subprocess.run(["sh", "-c", 'exec "$0" "$1" <&- >&- 2>&-', PYTHON, broken], check=False).returncode == 3


def test_every_descriptor_is_closed_in_a_program_it_starts(artifact: Path) -> None:
    code = (
        "import markupsafe._speedups, os, subprocess; print(len(os.listdir('/proc/self/fd')), flush=True);"
        "subprocess.run(['ls', '/proc/self/fd'], close_fds=False)"
    )
    own, *inherited = start(artifact, code).stdout.split()
    assert int(own) > 4
    assert inherited == ["0", "1", "2", "3"]  # 3: what ls itself opened


@pytest.mark.parametrize(
    ("python", "platform", "needs"),
    [
        ("3.12", "linux_x86_64", "needs CPython 3.12 on linux_x86_64 with glibc 2.28; this is CPython 3.11"),
        ("3.11", "linux_aarch64", "needs CPython 3.11 on linux_aarch64 with glibc 2.28; this is linux on x86_64"),
    ],
)
def test_another_python_or_machine_is_one_line_that_says_what_it_needs(
    tmp_path: Path, python: str, platform: str, needs: str
) -> None:
    done = start(small_artifact(tmp_path / "a.pyz", frozen=small_frozen(python, platform)), SHOW)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: a.pyz: {needs}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.10", "3.12", "3.13"])
def test_every_other_python_says_so_in_its_last_line(artifact: Path, version: str) -> None:
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not installed:
        pytest.skip(f"no Python {version} here")
    done = start(artifact, SHOW, command=(str(installed[0]),))
    assert done.stdout == ""
    if version in ("2.7", "3.6", "3.7"):  # these see no archive in a file that ends with a comment
        assert done.returncode == 1
        assert done.stderr.endswith("this-artifact-is-cut-short-or-damaged-or-needs-a-newer-python\n")
        return
    assert done.returncode == 3
    assert done.stderr.startswith("error: small-1.0.0.pyz: needs CPython 3.11 on linux_x86_64")
    assert f"this is CPython {version}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_replaced_artifact_goes_on_with_its_own_bytes(artifact: Path, tmp_path: Path) -> None:
    mine = small_artifact(tmp_path / "mine.pyz")
    other = small_artifact(tmp_path / "other.pyz", {"late.py": b"VALUE = 'other'\n", "aaa.py": b"x" * 5000})
    code = (
        "import os; os.rename(arguments[0], arguments[1]); import late, shop.counter, markupsafe._speedups;"
        "print(late.VALUE, open(arguments[1], 'rb').read(2))"
    )
    assert start(mine, code, str(other), str(mine)).stdout == "late b'#!'\n"
    gone = start(mine, "import os; os.unlink(arguments[0]); import late; print(late.VALUE)", str(mine))
    assert gone.stdout == "other\n", gone.stderr


def test_an_artifact_overwritten_in_place_loads_no_other_bytes(tmp_path: Path) -> None:
    mine = small_artifact(tmp_path / "mine.pyz")
    code = """
data = open(arguments[0], "rb").read()
with open(arguments[0], "r+b") as file:
    file.seek(data.index(b"VALUE = 'late'"))
    file.write(b"VALUE = 'evil'")
try:
    import late
except ImportError:
    print("taken for a missing module")
"""
    done = start(mine, code, str(mine))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: mine.pyz: late.py: not what was frozen, the file was changed while it ran; "
        "get the artifact again, and check its signature\n"
    )


def test_a_plugin_set_is_read_from_the_artifact(tmp_path: Path) -> None:
    entry = FrozenEntry("shop-goods", "shop.plugin", True, "shop", "1.0", ">=1.0,<2", ("status",))
    mine = small_artifact(tmp_path / "mine.pyz", frozen=small_frozen("3.11", "linux_x86_64", entry))
    code = "import clavitor_frozen as f; print(f.NAME, f.EDITION, f.PLUGINS)"
    assert start(mine, code).stdout == "clavitor-small community (('shop-goods', 'shop.plugin', True),)\n"


def test_what_lies_at_the_artifacts_path_by_now_is_not_looked_at(tmp_path: Path) -> None:
    """Neither as a checkout, nor for a plugin that the artifact has not: nothing but its own bytes runs."""
    host = Path(clavitor_host.__file__).parent
    members = {
        f"clavitor_host/{file.relative_to(host)}": file.read_bytes()
        for file in host.rglob("*.py")
        if file != host / "__main__.py"
    }
    members["clavitor_community/__init__.py"] = b""
    members["clavitor_community/plugin.py"] = b"from clavitor_host.plugins.models import Plugin as plugin\n"
    entries = [FrozenEntry(f"clavitor-{name}", f"clavitor_{name}.plugin", optional, name, "1.0", ">=1.0,<2", ())
               for name, optional in (("community", False), ("gone", True))]  # fmt: skip
    mine = small_artifact(tmp_path / "mine.pyz", members, small_frozen("3.11", "linux_x86_64", *entries))
    evil = tmp_path / "evil"
    for name in ("bundles", "clavitor_host", "clavitor_community", "clavitor_gone"):
        (evil / name).mkdir(parents=True)
        (evil / name / "__init__.py").write_text(EVIL)
        (evil / name / "plugin.py").write_text(EVIL)
    (evil / "clavitor_frozen.py").write_text(EVIL)
    (evil / "bundles" / "community.toml").write_text('[bundle]\nname = "e"\nedition = "community"\n[plugins]\n')
    code = f"""
import os, pkgutil, sys
sys.path.append({str(Path(pluggy.__file__).parents[1])!r})  # what the host needs of others
mine, evil, moved = arguments[:3]
os.rename(mine, moved)
(os.symlink if arguments[3:] else os.rename)(evil, mine)
from clavitor_host.plugins.frozen import frozen_set
found = frozen_set()
print(found.name, [plugin.distribution for plugin in found.plugins])
for path in (mine, mine + "/bundles", mine + "/clavitor_gone", "/" + mine + "//clavitor_gone/", mine + "/x/../bundles"):
    print([module.name for module in pkgutil.iter_modules([path]) if module.name in ("plugin", "clavitor_gone")])
"""
    expected = "clavitor-small ['clavitor-community', 'clavitor-gone']\n" + "[]\n" * 5
    for link in ((), ("link",)):
        done = start(mine, code, str(mine), str(evil), str(tmp_path / "moved"), *link)
        assert done.stdout == expected, done.stderr
        mine.unlink() if link else mine.rename(evil)
        (tmp_path / "moved").rename(mine)


def test_the_small_artifacts_python_is_the_one_under_test() -> None:
    version = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True,
                             check=True)  # fmt: skip
    assert version.stdout == f"{sys.version_info[:2]}\n"
