"""`clavitor bundle inspect` and `diff`: what an artifact says of itself, and what changed between two."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clavitor_host.bundle.diff import Change, diff
from clavitor_host.bundle.inspect import BIGGEST, inspect
from tests.bundles.workshop import Workshop, wheel_members


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "checkout")


def changes(old: Path, new: Path, kind: str) -> dict[str, tuple[str, str]]:
    """Return the changes of a kind by name."""
    return {each.name: (each.sign, each.what) for each in diff(old, new).changes if each.kind == kind}


def test_inspect_says_what_is_inside(workshop: Workshop) -> None:
    found = inspect(workshop.path)
    assert found["sha256"] == hashlib.sha256(workshop.path.read_bytes()).hexdigest()
    assert found["size"] == workshop.path.stat().st_size
    assert (found["name"], found["version"], found["edition"]) == ("clavitor-workshop", "1.0.0", "community")
    assert (found["license"], found["python"], found["platform"]) == ("Elastic-2.0", "3.11", "linux_x86_64")
    (plugin,) = found["plugins"]
    assert (plugin["name"], plugin["clavitor_api"], plugin["hooks"]) == ("good", ">=1.0,<2", ["edition_name"])
    assert [each["name"] for each in found["distributions"]] == ["clavitor-good", "clavitor-host"]
    assert found["routes"] == [["GET", "/healthz", "host"]]
    assert found["commands"] == ["serve", "greet"]
    assert found["hooks"] == {"edition_name": ["good"]}
    assert len(found["biggest"]) == BIGGEST and found["biggest"][0]["size"] >= found["biggest"][1]["size"]
    assert sum(found["sizes"].values()) < found["size"]


def test_a_description_may_say_nothing(workshop: Workshop) -> None:
    workshop.build(description={})
    found = inspect(workshop.path)
    assert (found["routes"], found["hooks"], found["commands"], found["outbound_hosts"]) == ([], {}, [], {})
    assert diff(workshop.path, workshop.path).same


def test_the_same_file_differs_in_nothing(workshop: Workshop, tmp_path: Path) -> None:
    again = workshop.build(path=tmp_path / "again.pyz")
    assert diff(workshop.path, again) == (True, ())


def test_every_kind_of_change_is_told(workshop: Workshop, tmp_path: Path) -> None:
    (good,) = workshop.frozen().plugins
    more = good._replace(distribution="clavitor-more", module="clavitor_more.plugin", name="more")
    description = {
        "hooks": {"edition_name": ["good", "more"], "commands": ["more"]},
        "routes": [["GET", "/healthz", "more"], ["POST", "/more", "more"]],
        "commands": ["serve"],
        "outbound_hosts": {"more": ["example.org"]},
    }
    old = workshop.build(path=tmp_path / "old.pyz")
    host, own = workshop.distributions
    workshop.distributions = [host._replace(version="2.0.0"), own, own._replace(name="clavitor-more")]
    workshop.members |= wheel_members(
        "clavitor-more", {"clavitor_more/plugin.py": "A = 1\n", "clavitor_more/a.txt": ""}
    )
    workshop.members["clavitor_good/plugin.py"] = b"B = 1\n"
    del workshop.members["clavitor_host/__main__.py"]
    new = workshop.build(
        path=tmp_path / "new.pyz",
        version="2.0.0",
        description=description,
        plugins=(good._replace(clavitor_api=">=1.1", hooks=()), more),
    )
    assert changes(old, new, "bundle") == {"version": ("~", "1.0.0 → 2.0.0")}
    plugins = changes(old, new, "plugin")
    assert plugins["clavitor-more"][0] == "+"
    sign, what = plugins["clavitor-good"]
    assert sign == "~" and "API >=1.0,<2" in what and "→" in what and "API >=1.1" in what and "hooks none" in what
    distributions = changes(old, new, "distribution")
    assert {name: sign for name, (sign, _) in distributions.items()} == {"clavitor-host": "~", "clavitor-more": "+"}
    modules = {name: sign for name, (sign, _) in changes(old, new, "module").items()}
    assert modules == {"clavitor_good.plugin": "~", "clavitor_host.__main__": "-", "clavitor_more.plugin": "+",
                       "clavitor_frozen": "~"}  # fmt: skip
    assert changes(old, new, "file").keys() >= {"clavitor_more/a.txt"}
    assert changes(old, new, "hook") == {"commands": ("+", "more"), "edition_name": ("~", "good → good more")}
    assert changes(old, new, "route") == {
        "GET /healthz": ("~", "of host → of more"),
        "POST /more": ("+", "of more"),
    }
    assert changes(old, new, "command") == {"greet": ("-", "")}
    assert changes(old, new, "outbound host") == {"example.org of more": ("+", "")}


def test_a_difference_backwards_is_its_mirror(workshop: Workshop, tmp_path: Path) -> None:
    other = workshop.build({"clavitor_good/more.py": b""}, path=tmp_path / "other.pyz")
    (there,) = diff(workshop.path, other).changes
    (back,) = diff(other, workshop.path).changes
    assert there == Change("+", "module", "clavitor_good.more", there.what)
    assert back == there._replace(sign="-")


CLAVITOR = [str(Path(sys.executable).parent / "clavitor"), "bundle"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", "LANG": "C.UTF-8"}
    return subprocess.run([*CLAVITOR, *map(str, arguments)], env=environ, capture_output=True, text=True, check=False)


def test_diff_ends_well_unless_the_exit_code_is_asked_for(workshop: Workshop, tmp_path: Path) -> None:
    other = workshop.build({"clavitor_good/more.py": b""}, path=tmp_path / "other.pyz")
    done = command("diff", workshop.path, other)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split("\t")[:3] == ["+", "module", "clavitor_good.more"]
    assert command("diff", workshop.path, other, "--exit-code").returncode == 1
    same = command("diff", workshop.path, workshop.path, "--exit-code")
    assert (same.returncode, same.stdout) == (0, "The same file.\n")
    said = json.loads(command("diff", workshop.path, other, "--json").stdout)
    assert said["same"] is False and said["changes"][0]["name"] == "clavitor_good.more"


def test_inspect_prints_for_people_and_for_machines(workshop: Workshop) -> None:
    done = command("inspect", workshop.path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("edition:  community", "good\t1.0.0\t>=1.0,<2\trequired\tnone\tedition_name", "GET\t/healthz\thost"):
        assert text in done.stdout, done.stdout
    assert json.loads(command("inspect", workshop.path, "--json").stdout) == inspect(workshop.path)
