"""One changed byte, anywhere in the file, and it does not start: one line names the member."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from clavitor_host.bundle import archive
from clavitor_host.bundle.archive import open_artifact, structural_faults
from clavitor_host.bundle.launcher import stage2
from tests.bundles.small import SPEEDUPS, small_artifact, small_frozen, some_members, start

CODE = "print('started')"
AGAIN = "get the artifact again, and check its signature"


class Sample(NamedTuple):
    data: bytes
    layout: stage2.Layout

    def region(self, name: str) -> tuple[int, int, int]:
        """Return where a member's header, its data and what follows it begin."""
        return next((at, at + len(h), at + len(h) + size) for n, h, at, size, _ in self.layout.regions if n == name)

    def entry(self, name: str) -> int:
        """Return where a member's entry in the central directory begins."""
        index = [region[0] for region in self.layout.regions].index(name)
        return self.layout.start + sum(map(len, self.layout.central[:index]))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    path = small_artifact(tmp_path_factory.mktemp("sample") / "small.pyz")
    with open_artifact(path) as artifact:
        return Sample(path.read_bytes(), artifact.layout)


def refused(path: Path, data: bytes) -> str:
    """Write and start it; return the one line it is refused with."""
    path.write_bytes(data)
    done = start(path, CODE)
    assert done.stdout == ""
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(f"error: {path.name}: "), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"{AGAIN}\n")
    return done.stderr.removeprefix(f"error: {path.name}: ")


def flipped(data: bytes, at: int, mask: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def test_the_sample_itself_starts(tmp_path: Path, sample: Sample) -> None:
    path = tmp_path / "a.pyz"
    path.write_bytes(sample.data)
    assert start(path, CODE).stdout == "started\n"


@pytest.mark.parametrize(
    "name",
    [
        "clavitor_launcher.py", "clavitor_frozen.json", "clavitor_frozen.py", "clavitor_importer.py",
        "clavitor_resources.py", "late.py", "shop/counter.pyc", "shop/text.txt", "shop_goods-1.2.dist-info/METADATA",
        SPEEDUPS,
    ],
)  # fmt: skip
def test_a_changed_member_is_named(tmp_path: Path, sample: Sample, name: str) -> None:
    _, start_, end = sample.region(name)
    for at in (start_, (start_ + end) // 2, end - 1):
        line = refused(tmp_path / "a.pyz", flipped(sample.data, at))
        assert line.startswith(f"{name}: not what "), line


def test_a_changed_comment_in_stage_1_is_named(tmp_path: Path, sample: Sample) -> None:
    at = sample.data.index(b"# Becomes `__main__.py`") + 5
    assert refused(tmp_path / "a.pyz", flipped(sample.data, at)).startswith("__main__.py: not what was frozen")


def test_a_changed_local_header_is_named(tmp_path: Path, sample: Sample) -> None:
    for name in ("late.py", "shop/text.txt"):
        at, data, _ = sample.region(name)
        for offset in (0, 10, 14, 22, data - at - 1):
            line = refused(tmp_path / "a.pyz", flipped(sample.data, at + offset))
            assert line.startswith(f"{name}: its ZIP header is not what was frozen"), line


def test_a_changed_entry_of_the_central_directory_is_named(tmp_path: Path, sample: Sample) -> None:
    for name in ("late.py", "shop/text.txt"):
        for offset in (0, 4, 12, 16, 20, 38, 42, 46):
            line = refused(tmp_path / "a.pyz", flipped(sample.data, sample.entry(name) + offset))
            reason = "missing" if offset in (0, 46) else "its entry in the central directory"
            assert line.startswith(f"{name}: {reason}"), line


def test_the_first_two_lines_the_end_record_and_its_comment_are_compared(tmp_path: Path, sample: Sample) -> None:
    path, length = tmp_path / "a.pyz", len(sample.data)
    for at in (0, 5, len(stage2.PREFIX) - 1):
        assert refused(path, flipped(sample.data, at)).startswith("its first two lines: not what was frozen")
    end = length - len(sample.layout.end)
    for at in (end + 4, end + 6, end + 8, end + 10):
        assert refused(path, flipped(sample.data, at)).startswith("end record: not what was frozen")
    for at in (length - 1, length - 64):
        assert refused(path, flipped(sample.data, at)).startswith("clavitor_frozen.json: not what the end record says")
    assert refused(path, flipped(sample.data, length - 80)).startswith("end record: not what was frozen")


def test_no_byte_of_the_file_is_left_out(tmp_path: Path) -> None:
    """Every byte of stage 1 and the launcher, every byte that is no member's, every 32nd of the rest."""
    small, path = _without_extension(tmp_path)
    with open_artifact(path) as artifact:
        inside = {
            at + len(header) + index
            for name, header, at, size, _ in artifact.layout.regions
            if name not in ("__main__.py", "clavitor_launcher.py")
            for index in range(size)
            if index % 32
        }
    unseen = []
    with path.open("r+b", buffering=0) as file:
        for at in sorted(set(range(len(small))) - inside):
            os.pwrite(file.fileno(), bytes([small[at] ^ 1 << at % 8]), at)
            try:
                _check(path)
            except stage2.ArtifactError:
                os.pwrite(file.fileno(), small[at : at + 1], at)
            else:
                unseen.append(at)
    assert unseen == []
    _check(path)


def test_of_a_member_that_was_read_already_only_its_surroundings_are_compared_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order, and however the chunks fall; every byte that is not such a member's counts."""
    members = {"clavitor_host/__main__.py": b"def main(): pass\n"}
    members |= {f"{letter}/{size}.{kind}": letter.encode() * size
                for letter in "ax" for size in (0, 1, 40, 500) for kind in ("so", "txt")}  # fmt: skip
    path = tmp_path / "a.pyz"
    archive.write(path, small_frozen(), members)
    whole = path.read_bytes()
    with open_artifact(path) as artifact:
        plan = artifact.layout
    known = {"a/40.so", "a/500.txt", "x/500.so"}
    places = {name: range(at + len(header), at + len(header) + size) for name, header, at, size, _ in plan.regions}
    inside = [place for name, place in places.items() if name in known]
    ours = [place for name, place in places.items() if name.startswith(("clavitor_", "__main__"))]
    with path.open("r+b", buffering=0) as file:
        for size in (64, 300, 1 << 20):
            monkeypatch.setattr(stage2, "_CHUNK", size)
            assert stage2.faults(file.fileno(), plan) == stage2.faults(file.fileno(), plan, known=known) == []
            for at in range(0, plan.start, 3):
                if any(at in place for place in ours):
                    continue
                os.pwrite(file.fileno(), bytes([whole[at] ^ 1]), at)
                found = [stage2.faults(file.fileno(), plan, threads=n, known=known) for n in (1, 2)]
                os.pwrite(file.fileno(), whole[at : at + 1], at)
                assert [len(lines) for lines in found] == [not any(at in place for place in inside)] * 2, (at, found)


def _check(path: Path) -> None:
    store, checking = stage2.begin(str(path))
    try:
        checking.finish()
    finally:
        os.close(store.fd)


def _without_extension(tmp_path: Path) -> tuple[bytes, Path]:
    path = tmp_path / "tiny.pyz"
    archive.write(path, small_frozen(), {"clavitor_host/__main__.py": b"def main(): print('started')\n"})
    return path.read_bytes(), path


def test_no_change_in_stage_1_or_the_launcher_gets_past_it(tmp_path: Path) -> None:
    small, path = _without_extension(tmp_path)
    with open_artifact(path) as artifact:
        places = {name: (at + len(header), size) for name, header, at, size, _ in artifact.layout.regions}
    positions = [
        (places[name][0] + places[name][1] * step // count, 1 << step % 7)
        for name, count in (("__main__.py", 60), ("clavitor_launcher.py", 5))
        for step in range(count)
    ]

    def run(place: tuple[int, int]) -> tuple[tuple[int, int], subprocess.CompletedProcess[str]]:
        copy = tmp_path / f"{place[0]}.pyz"
        copy.write_bytes(flipped(small, *place))
        return place, start(copy, CODE)

    with ThreadPoolExecutor(3) as pool:
        for place, done in pool.map(run, positions):
            assert "started" not in done.stdout, place
            assert done.returncode != 0, place
            # what Python itself cannot read, it says by the name of its main module
            assert "__main__" in done.stderr or "clavitor_launcher.py" in done.stderr or "needs C" in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"-I", "-S"', b'"-V", "-S"'),  # would print a version and end well
        (b'"-I", "-S"', b'"-h", "-S"'),
        (b'"-S", "-B"', b'"-c", "-B"'),
        (b"\nmain()", b"\n#ain()"),
        (b'    sys.modules["clavitor_launcher"].run', b'  # sys.modules["clavitor_launcher"].run'[:42]),
        (b"flags.isolated and", b"flags.ignorated and"[:18]),
        (b"if not (flags", b"if    (flags"),
        (b"!= LAUNCHER", b"== LAUNCHER"),
        (b"sys.exit(3)", b"sys.exit(0)"),
    ],
)
def test_a_change_that_would_end_it_quietly_is_a_failure(tmp_path: Path, old: bytes, new: bytes) -> None:
    small, path = _without_extension(tmp_path)
    assert old in small
    path.write_bytes(small.replace(old, new.ljust(len(old)), 1))
    done = start(path, CODE)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert "__main__.py" in done.stderr or "clavitor_launcher.py: not what was frozen" in done.stderr


def test_a_file_cut_short_says_so(tmp_path: Path, sample: Sample) -> None:
    path = tmp_path / "a.pyz"
    length = len(sample.data)
    for kept in (len(stage2.PREFIX), 1000, length // 2, sample.layout.start, length - 111, length - 1):
        path.write_bytes(sample.data[:kept])
        done = start(path, CODE)
        assert (done.returncode != 0, done.stdout) == (True, ""), kept
        said = done.stderr.splitlines()[-1]
        assert "this-artifact-is-cut-short" in said or "end record: not what was frozen" in said, said
    for changed in (sample.data + b"\0", sample.data[:2000] + sample.data[2010:], b"\n" + sample.data):
        path.write_bytes(changed)
        done = start(path, CODE)
        assert (done.returncode != 0, done.stdout) == (True, "")
        assert AGAIN in done.stderr or "this-artifact-is-cut-short" in done.stderr


def rezipped(data: bytes, change: Callable[[dict[str, bytes]], None], method: int, comment: bool) -> bytes:
    """Return the archive as another program would write it, with changed members and right CRCs."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", method) as new:
        members = {info.filename: old.read(info) for info in old.infolist()}
        change(members)
        for name, content in members.items():
            new.writestr(zipfile.ZipInfo(name), content, method)
        new.comment = old.comment if comment else b""
    return stage2.PREFIX + made.getvalue()


def test_a_packed_again_artifact_is_refused(tmp_path: Path, sample: Sample) -> None:
    path = tmp_path / "a.pyz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        line = refused(path, rezipped(sample.data, lambda members: None, method, comment=False))
        assert line.startswith("end record: not what was frozen, the file was re-packed or changed")
        line = refused(path, rezipped(sample.data, lambda members: None, method, comment=True))
        assert line.startswith(("__main__.py: its ZIP header is not", "clavitor_frozen.json: not what"))


def forged(members: dict[str, bytes], manifest: bytes) -> bytes:
    """Return an artifact in the canonical form, whose members are not those its frozen manifest lists."""
    rest = [(name, len(data), zlib.crc32(data), "") for name, data in members.items() if name != stage2.MANIFEST]
    layout = stage2.layout(rest, manifest)
    pieces = [header + members[name] for name, header, *_ in layout.regions]
    return b"".join([stage2.PREFIX, *pieces, *layout.central, layout.end])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda members: members.update({"late.py": b"VALUE = 'evil'\n"}), "late.py"),
        (lambda members: members.update({"late.py": b"VALUE = 'much longer than before'\n"}), "late.py"),
        (lambda members: members.update({"extra.py": b"VALUE = 1\n"}), "extra.py"),
        (lambda members: members.pop("late.py"), "late.py"),
        (lambda members: members.update({"later.py": members.pop("late.py")}), "late.py"),
    ],
)
def test_other_members_with_everything_else_put_right_are_refused(
    tmp_path: Path, sample: Sample, change: Callable[[dict[str, bytes]], None], name: str
) -> None:
    """The canonical form, CRCs, sizes and offsets are right; only the frozen manifest is the old one."""
    path = tmp_path / "a.pyz"
    with zipfile.ZipFile(io.BytesIO(sample.data)) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    manifest = members[stage2.MANIFEST]
    change(members)
    line = refused(path, forged(members, manifest))
    assert line.startswith(f"{name}: "), line


def test_a_launcher_and_a_manifest_rewritten_together_are_seen_by_their_source(tmp_path: Path) -> None:
    """Such a file starts: only its signature tells. But it is not what the host inside it would have written."""
    source = Path(stage2.__file__).read_bytes()
    members = some_members() | {"clavitor_host/bundle/launcher/stage2.py": source + b"\n# another\n"}
    path = small_artifact(tmp_path / "a.pyz", members)
    with open_artifact(path) as artifact:
        assert list(structural_faults(artifact)) == [
            "clavitor_launcher.py: not the same as clavitor_host/bundle/launcher/stage2.py"
        ]
