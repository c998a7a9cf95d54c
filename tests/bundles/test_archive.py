"""The artifact as a file: canonical, whole or absent, and its frozen manifest strict."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.bundle import archive
from clavitor_host.bundle.archive import GENERATED, open_artifact, structural_faults
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.frozen import (
    FrozenDistribution,
    FrozenEntry,
    FrozenManifest,
    FrozenMember,
    from_bytes,
    to_bytes,
)
from clavitor_host.bundle.launcher import stage2
from tests.bundles.small import compiled, small_artifact, small_frozen, some_members

FULL = FrozenManifest(
    "clavitor-small", "1.0.0", "community", "Elastic-2.0", "3.11", "linux_x86_64", "3.11.2",
    (FrozenEntry("shop-goods", "shop.plugin", False, "shop", "1.0", ">=1.0,<2", ("status", "jobs")),),
    (FrozenDistribution("shop-goods", "1.2", "MIT", "shop_goods-1.2-py3-none-any.whl", "ab" * 32, True),),
    {"hooks": {"status": ["shop"]}, "routes": [["GET", "/shop", "shop"]]},
    (FrozenMember("a.py", 3, 4, "cd" * 32), FrozenMember("b.py", 0, 0, "ef" * 32)),
)  # fmt: skip


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


def test_the_same_members_in_any_order_are_the_same_bytes_whatever_the_umask(tmp_path: Path) -> None:
    members = some_members()
    one = archive.write(tmp_path / "one.pyz", small_frozen(), members)
    before = os.umask(0o077)
    try:
        two = archive.write(tmp_path / "two.pyz", small_frozen(), dict(reversed(members.items())))
    finally:
        os.umask(before)
    assert one == two
    assert (tmp_path / "one.pyz").read_bytes() == (tmp_path / "two.pyz").read_bytes()
    assert stat.S_IMODE((tmp_path / "two.pyz").stat().st_mode) == 0o755


def test_it_is_a_zip_file_for_everybody_else(tmp_path: Path) -> None:
    path = small_artifact(tmp_path / "a.pyz")
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        infos = opened.infolist()
        assert opened.namelist() == sorted({*some_members(), *GENERATED})
        assert opened.read("shop/text.txt") == b"ware\n"
        assert opened.comment.startswith(b"clavitor-manifest-sha256:")
    told = {(i.compress_type, i.date_time, i.create_system, i.external_attr >> 16, i.extra, i.flag_bits) for i in infos}
    assert told == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0), 3, 0o100644, b"", 0)}


def test_an_artifact_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pyz"
    frozen = archive.write(path, small_frozen(), some_members())
    with open_artifact(path) as artifact:
        assert artifact.frozen == frozen
        assert artifact.names() == sorted({*some_members(), *GENERATED})
        assert {name: artifact.data(name) for name in some_members()} == some_members()
        assert artifact.data(stage2.MANIFEST) == artifact.manifest == to_bytes(frozen)
        assert [member.name for member in frozen.members] == sorted({*artifact.names()} - {stage2.MANIFEST})
        assert list(structural_faults(artifact)) == []
        with pytest.raises(BundleError, match=r"^a\.pyz: no\.py: no such member$"):
            artifact.data("no.py")


def test_every_fault_is_told_not_only_the_first(tmp_path: Path) -> None:
    path = small_artifact(tmp_path / "a.pyz")
    data = path.read_bytes().replace(b"VALUE = 'late'", b"VALUE = 'evil'").replace(b"ware\n", b"worn\n")
    path.write_bytes(data.replace(b"env python3\n", b"env pythonX\n"))
    with open_artifact(path) as artifact:
        assert list(structural_faults(artifact)) == [
            "its first two lines: not what was frozen",
            "late.py: not what was frozen",
            "shop/text.txt: not what was frozen",
        ]


def test_an_artifact_with_the_hosts_launcher_is_compared_with_it(tmp_path: Path) -> None:
    folder = Path(stage2.__file__).parent
    launcher = {f"clavitor_host/bundle/launcher/{file.name}": file.read_bytes() for file in folder.glob("*.py")}
    good = small_artifact(tmp_path / "good.pyz", launcher)
    with open_artifact(good) as artifact:
        assert list(structural_faults(artifact)) == []
    for source, member in (("stage1.py", "__main__.py"), ("importer.py", "clavitor_importer.py")):
        name = f"clavitor_host/bundle/launcher/{source}"
        bad = small_artifact(tmp_path / "bad.pyz", launcher | {name: launcher[name] + b"# other\n"})
        with open_artifact(bad) as artifact:
            (fault,) = structural_faults(artifact)
            assert fault.startswith(f"{member}: not ")
            assert name in fault


@pytest.mark.parametrize("name", ["ü.py", "/etc/x", "a/../b", "a//b", "a\\b", "a\nb", "", "./a", "a/"])
def test_a_name_that_is_no_plain_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="no name for a member"):
        archive.write(tmp_path / "a.pyz", small_frozen(), {name: b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "__main__.py", "__main__.pyc", "__main__/__init__.pyc", "clavitor_launcher.py", "clavitor_launcher.pyc",
        "clavitor_frozen.json", "clavitor_frozen.py", "clavitor_frozen/__init__.py", "clavitor_importer/x.py",
        "clavitor_resources.abi3.so", "__main__.abi3.so",
    ],
)  # fmt: skip
def test_a_wheel_cannot_bring_a_member_of_the_launcher(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="this name belongs to the launcher"):
        archive.write(tmp_path / "a.pyz", small_frozen(), {name: b""})


def test_a_builder_may_compile_what_the_launcher_imports(tmp_path: Path) -> None:
    source = archive.launcher_members(small_frozen())[stage2.RESOURCES].decode()
    path = small_artifact(tmp_path / "a.pyz", {f"{stage2.RESOURCES}c": compiled(stage2.RESOURCES, source)})
    with open_artifact(path) as artifact:
        assert f"{stage2.RESOURCES}c" in artifact.names()


def test_what_is_no_artifact_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pyz"
    with pytest.raises(BundleError, match=r"a\.pyz cannot be read: No such file or directory"):
        open_artifact(path)
    with pytest.raises(BundleError, match=r"cannot be read: Is a directory"):
        open_artifact(tmp_path)
    for data in (b"", b"PK\5\6" + bytes(18), b"text" * 100):
        path.write_bytes(data)
        with pytest.raises(BundleError, match=r"^a\.pyz: end record: not what was frozen"):
            open_artifact(path)
    whole = small_artifact(path).read_bytes()
    path.write_bytes(whole.replace(b'"edition":"community"', b'"edition":"somethin"'))
    with pytest.raises(BundleError, match=r"^a\.pyz: clavitor_frozen\.json: not what the end record says"):
        open_artifact(path)


def test_a_full_disk_leaves_nothing_and_names_the_target(small_disk: Path) -> None:
    target = small_disk / "a.pyz"
    target.write_bytes(b"before")
    with pytest.raises(BundleError, match=rf"^{target} cannot be written: No space left on device$"):
        archive.write(target, small_frozen(), {"big.bin": os.urandom(2 << 20)})
    assert list(small_disk.iterdir()) == [target]
    assert target.read_bytes() == b"before"


def test_a_target_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written: No such file or directory"):
        archive.write(tmp_path / "no" / "a.pyz", small_frozen(), {})
    (tmp_path / "a.pyz").mkdir()
    with pytest.raises(BundleError, match="cannot be written: Is a directory"):
        archive.write(tmp_path / "a.pyz", small_frozen(), {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.pyz"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small_artifact(tmp_path / "a.pyz")
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_manifest_is_one_text_for_one_value() -> None:
    data = to_bytes(FULL)
    assert from_bytes(data) == FULL
    assert to_bytes(from_bytes(data)) == data
    assert json.loads(data)["members"] == [["a.py", 3, 4, "cd" * 32], ["b.py", 0, 0, "ef" * 32]]
    assert b'\n["a.py",3,4,"' in data


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(to_bytes(FULL))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be read"),
        (b"[]", "not a frozen manifest of format 1"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (changed(lambda d: d.update(format=2)), "not a frozen manifest of format 1"),
        (changed(lambda d: d.pop("edition")), "edition is missing"),
        (changed(lambda d: d.update(more=1)), "more is unknown"),
        (changed(lambda d: d.update(name=1)), "name is not of type str"),
        (changed(lambda d: d["plugins"][0].update(optional=0)), "optional is not of type bool"),
        (changed(lambda d: d["plugins"][0].update(hooks="jobs")), "not in the one form"),
        (changed(lambda d: d["plugins"][0].update(hooks=[1])), "hooks is not plain text"),
        (changed(lambda d: d["members"][0].__setitem__(0, "a\nb")), "name is not plain text"),
        (changed(lambda d: d.update({"a\nb": 1})), "is unknown"),
        (changed(lambda d: d["description"].update(hooks={"a": "b"})), "description.hooks is not plain text"),
        (changed(lambda d: d["distributions"][0].pop("local")), "local is missing"),
        (changed(lambda d: d["members"][0].__setitem__(1, True)), "size is not of type int"),
        (changed(lambda d: d["members"][0].append(1)), "cannot be read"),
        (changed(lambda d: d["members"].reverse()), "not in the one form"),
        (changed(lambda d: d["members"].append(d["members"][1])), "not in the one form"),
        (changed(lambda d: d.update(members=3)), "cannot be read"),
        (changed(lambda d: None), "not in the one form"),
    ],
)
def test_anything_else_is_no_frozen_manifest(data: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        from_bytes(data)
    assert str(caught.value).startswith("clavitor_frozen.json: ")
    assert "\n" not in str(caught.value)
