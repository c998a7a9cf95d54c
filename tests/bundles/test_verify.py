"""`clavitor bundle verify`: passes on what was built, and names the member that breaks each rule."""

from __future__ import annotations

import hashlib
import io
import json
import marshal
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from binascii import crc32
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h11
import pytest

from clavitor_host.bundle import archive, wheels
from clavitor_host.bundle import frozen as frozen_manifest
from clavitor_host.bundle.background import Background
from clavitor_host.bundle.checks.structure import archive_kind
from clavitor_host.bundle.compile import compile_source
from clavitor_host.bundle.diff import diff
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.frozen import FrozenMember
from clavitor_host.bundle.inspect import inspect
from clavitor_host.bundle.keys import read_private
from clavitor_host.bundle.launcher import stage2
from clavitor_host.bundle.sign import sign
from clavitor_host.bundle.verify import Options, Report, verify
from tests.bundles.workshop import SECRET_MODULE, Workshop, make_key, record_row, wheel_members, write_beside

Built = Callable[[str], Path]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "checkout")


def failed(report: Report) -> dict[str, list[str]]:
    """Return the faults by check."""
    return {check.name: [str(fault) for fault in check.faults] for check in report.checks if check.status == "FAIL"}


def status(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def expect(report: Report, check: str, *words: str) -> None:
    """Fail unless one fault of the check has all the words."""
    faults = failed(report).get(check, [])
    assert any(all(word in fault for word in words) for fault in faults), failed(report)


def raw_write(path: Path, workshop: Workshop, members: Mapping[str, bytes], **crcs: int) -> Path:
    """Write an artifact as `archive.write` does, refusing nothing; crcs: false CRCs by name."""
    plain = workshop.frozen()
    everything = {**members, **archive.launcher_members(plain)}
    everything[frozen_manifest.PLUGINS] = frozen_manifest.plugins_module(plain)
    rows = [
        FrozenMember(name, len(data), crcs.get(name, crc32(data)), hashlib.sha256(data).hexdigest())
        for name, data in sorted(everything.items())
    ]
    frozen = plain._replace(members=tuple(rows))
    everything[stage2.MANIFEST] = manifest = frozen_manifest.to_bytes(frozen)
    layout = stage2.layout(rows, manifest)
    pieces = [stage2.PREFIX]
    for name, header, *_ in layout.regions:
        pieces += [header, everything[name]]
    path.write_bytes(b"".join([*pieces, *layout.central, layout.end]))
    write_beside(path, frozen)
    return path


# --- what passes


def test_what_was_built_passes_every_check(workshop: Workshop) -> None:
    report = workshop.verify(recompile=True)
    assert failed(report) == {}
    assert status(report) == {
        **dict.fromkeys(("structure", "members", "records", "plugins", "manifest", "lock", "forbidden"), "ok"),
        **dict.fromkeys(("bytecode", "content", "checksum", "provenance", "materials", "recompiled", "sources"), "ok"),
        "signature": "skipped",
    }
    assert all(check.what for check in report.checks)


def test_a_source_folder_that_is_not_here_is_said(workshop: Workshop) -> None:
    content = next(check for check in workshop.verify().checks if check.name == "content")
    assert content.what.endswith("skipped: plugins/absent not in this checkout")
    shutil.rmtree(workshop.root / "plugins/secret")
    content = next(check for check in workshop.verify().checks if check.name == "content")
    assert content.status == "skipped"
    assert content.what == "plugins/secret* not in this checkout; plugins/absent not in this checkout"


# --- what is smuggled in, by someone who makes the frozen manifest and the RECORD fit


def test_a_forbidden_package_is_found_by_its_name(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_secret/__init__.py": b""})
    report = workshop.verify()
    assert failed(report).keys() == {"forbidden"}
    expect(report, "forbidden", "clavitor_secret/__init__.py: its name names clavitor_secret", "clavitor-secret*")
    expect(report, "forbidden", "clavitor_good-1.0.0.dist-info/RECORD: it names clavitor_secret")


def test_a_forbidden_distribution_is_found_by_its_metadata(workshop: Workshop) -> None:
    workshop.build({"x-1.dist-info/METADATA": b"Name: Clavitor.Secret-Dial\nVersion: 1\n", "x-1.dist-info/RECORD": b""})
    report = workshop.verify()
    expect(report, "manifest", "x-1.dist-info/METADATA: distribution clavitor-secret-dial is forbidden")
    expect(report, "forbidden", "x-1.dist-info/METADATA: it names clavitor.secret-dial")
    expect(report, "plugins", "distribution clavitor-secret-dial is not in clavitor_frozen.json")


def test_a_name_without_a_star_must_stand_alone(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_good/a.txt": b"see clavitor-absentee, clavitor_absent_minded"})
    assert failed(workshop.verify()) == {}
    workshop.smuggled({"clavitor_good/a.txt": b"import Clavitor_Absent.plugin"})
    expect(workshop.verify(), "forbidden", "clavitor_good/a.txt: it names clavitor_absent, which clavitor-absent")


@pytest.mark.parametrize("data", [b"\0\1the HIDDEN mechanism\xff", "the hidden mechanism".encode("utf-16")])
def test_a_forbidden_text_is_found_in_any_bytes(workshop: Workshop, data: bytes) -> None:
    workshop.smuggled({"clavitor_good/logo.png": data})
    expect(workshop.verify(), "forbidden", "clavitor_good/logo.png: ", "it holds the forbidden text 'Hidden Mechanism'")


def test_a_forbidden_text_is_found_in_a_name(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_good/the HIDDEN mechanism.txt": b""})
    expect(workshop.verify(), "forbidden", "HIDDEN mechanism.txt: its name holds the forbidden text")


def test_content_is_found_under_an_innocent_name(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_good/notes.txt": SECRET_MODULE.encode()})
    report = workshop.verify()
    assert failed(report).keys() == {"content"}
    expect(report, "content", "clavitor_good/notes.txt: it is plugins/secret/clavitor_secret/plugin.py")
    expect(report, "content", "clavitor_good/notes.txt: it holds", "lines of plugins/secret/clavitor_secret/plugin.py")


def test_content_is_found_in_pieces(workshop: Workshop) -> None:
    text = SECRET_MODULE.replace("\n", "\r\n").replace("    ", "\t").encode()
    pieces = {f"clavitor_good/part{at:05}.bin": b"\0" + text[at : at + 250] for at in range(0, len(text), 250)}
    workshop.smuggled(pieces)
    found = {fault.partition(":")[0] for fault in failed(workshop.verify())["content"]}
    assert len(found) >= len(pieces) - 2, found


def test_content_is_found_inside_another_source_as_a_string(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_good/table.json": json.dumps({"text": SECRET_MODULE}).encode()})
    expect(workshop.verify(), "content", "clavitor_good/table.json: it holds", "lines of")


def test_a_file_that_is_no_source_is_found_by_its_digest(workshop: Workshop) -> None:
    chart = (workshop.root / "plugins/secret/clavitor_secret/chart.svg").read_bytes()
    workshop.smuggled({"clavitor_good/a.svg": chart})
    expect(workshop.verify(), "content", "clavitor_good/a.svg: it is plugins/secret/clavitor_secret/chart.svg")


@pytest.mark.parametrize("name", ["clavitor_good/help.pyc", "clavitor_good/help.txt"])
def test_content_is_found_compiled(workshop: Workshop, name: str) -> None:
    compiled = compile_source("clavitor_good/help.py", SECRET_MODULE.encode())
    assert compiled
    workshop.smuggled({"clavitor_good/help.py": b"HELP = 1\n", name: compiled})
    report = workshop.verify(recompile=True)
    expect(report, "content", f"{name}: it holds compiled functions of plugins/secret/clavitor_secret/plugin.py")
    expect(report, "content", f"{name}: it holds", "constants of plugins/secret/clavitor_secret/plugin.py")
    expect(report, "content", f"{name}: it uses the names", "of plugins/secret/clavitor_secret/plugin.py")
    assert ("recompiled" in failed(report)) == name.endswith("c")


def test_compiled_code_is_found_without_its_texts_and_names(workshop: Workshop) -> None:
    """Bytecode alone, constants alone, names alone."""
    alike = SECRET_MODULE.replace("LedgerTurner", "Dealer").replace("LEDGER_OF_TURNS", "X").replace("ledger", "table")
    for source, word in (
        (
            '"""The ledger rests."""\ndef f():\n    return "the ledger rests here until the morning bell"\n',
            "1 constant",
        ),
        ("def f(a):\n    return a.turn_the_ledger(a.rest_until_morning, a.LedgerTurner)\n", "it uses the names"),
        (alike, "compiled functions"),
    ):
        data = compile_source("clavitor_good/a.py", source.encode())
        assert data
        workshop.smuggled({"clavitor_good/a.py": b"", "clavitor_good/a.pyc": data})
        expect(workshop.verify(), "content", "clavitor_good/a.pyc", word)


def test_what_the_allowed_sources_say_too_gives_nothing_away(workshop: Workshop) -> None:
    shared = '\n\ndef shared_helper(values):\n    """Add them up, as both of these plugins need it done."""\n' + (
        "    total_of_everything = sum(value * 2 for value in values if value is not None)\n"
        "    return total_of_everything\n"
    )
    for plugin in ("good", "secret"):
        file = workshop.root / f"plugins/{plugin}/clavitor_{plugin}/plugin.py"
        file.write_text(file.read_text() + shared)
    data = (workshop.root / "plugins/good/clavitor_good/plugin.py").read_bytes()
    compiled = compile_source("clavitor_good/more.py", data)
    assert compiled
    workshop.smuggled({"clavitor_good/more.py": data, "clavitor_good/more.pyc": compiled})
    assert failed(workshop.verify()) == {}


def test_a_helper_that_both_have_with_other_words_around_it_gives_nothing_away(workshop: Workshop) -> None:
    helper = "\n\ndef added(values{0}):\n{1}    total = sum(value * 2 for value in values if value)\n" + (
        "    for value in values:\n        total = total + value.size - len(values)\n    return total\n"
    )
    texts = {"good": helper.format("", ""), "secret": helper.format(": list", '    """Add them up."""\n')}
    for plugin, text in texts.items():
        file = workshop.root / f"plugins/{plugin}/clavitor_{plugin}/helper.py"
        file.write_text(text)
    compiled = compile_source("clavitor_good/helper.py", texts["good"].encode())
    assert compiled
    own = {"clavitor_good/helper.py": texts["good"].encode(), "clavitor_good/helper.pyc": compiled}
    workshop.smuggled(own)
    assert failed(workshop.verify()) == {}
    workshop.smuggled({**own, "clavitor_good/other.py": b"", "clavitor_good/other.pyc": compiled})
    assert failed(workshop.verify()).keys() == {"content", "recompiled"}


def test_what_a_library_says_by_itself_gives_nothing_away_there(workshop: Workshop) -> None:
    library = Path(h11.__file__).with_name("_connection.py").read_bytes()
    line = next(line for line in library.split(b"\n") if len(line.strip()) > 50 and line.startswith(b"        self."))
    file = workshop.root / "plugins/secret/clavitor_secret/plugin.py"
    file.write_bytes(file.read_bytes() + b"\n\nclass H11(object):\n    def __init__(self):\n" + line + b"\n")
    workshop.smuggled({"h11/_connection.py": library})
    assert failed(workshop.verify()) == {}
    workshop.smuggled({"h11/_connection.py": library + SECRET_MODULE.encode(), "clavitor_good/a.txt": line})
    expect(workshop.verify(), "content", "h11/_connection.py: it holds", "lines of")
    expect(workshop.verify(), "content", "clavitor_good/a.txt: it holds 1 line of")


def test_a_forbidden_file_copied_into_an_allowed_folder_is_found(workshop: Workshop) -> None:
    """The mistake that someone makes by hand: what was copied must not count as allowed."""
    copy = workshop.root / "plugins/good/clavitor_good/ledger.py"
    copy.write_text("# ours now\n" + SECRET_MODULE)
    workshop.smuggled({"clavitor_good/ledger.py": copy.read_bytes()})
    expect(workshop.verify(), "content", "clavitor_good/ledger.py: it holds", "lines of plugins/secret")


def test_a_nested_archive_is_found(workshop: Workshop) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as nested:
        nested.writestr("clavitor_secret/plugin.py", SECRET_MODULE)
    workshop.smuggled({"clavitor_good/a.dat": inner.getvalue(), "clavitor_good/b.dat": b"plain" + inner.getvalue()})
    report = workshop.verify()
    expect(report, "structure", "clavitor_good/a.dat: an archive or compressed data inside the artifact (zip)")
    expect(report, "structure", "clavitor_good/b.dat: an archive or compressed data inside the artifact (zip)")


def test_every_usual_kind_of_archive_is_known() -> None:
    import bz2
    import gzip
    import lzma
    import tarfile
    import zlib

    text = SECRET_MODULE.encode()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive_file:
        info = tarfile.TarInfo("a")
        info.size = len(text)
        archive_file.addfile(info, io.BytesIO(text))
    made = {
        "gzip": gzip.compress(text),
        "bzip2": bz2.compress(text),
        "xz": lzma.compress(text),
        "lzma": lzma.compress(text, lzma.FORMAT_ALONE),
        "zlib": zlib.compress(text),
        "tar": tar.getvalue(),
    }
    assert {kind: archive_kind(data) for kind, data in made.items()} == {kind: kind for kind in made}
    assert [archive_kind(data) for data in (b"", b"PK", b"x\x9c not so", text, b"PK\5\6" + b"\0" * 30)] == [""] * 4 + [
        "zip"
    ]


def test_bytecode_that_ends_the_interpreter_is_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is another process: here it is really killed, at the second and the last member."""
    loads = marshal.loads

    def fragile(data: Any) -> Any:
        if b"ends here" in bytes(data):
            os.kill(os.getpid(), signal.SIGKILL)
        return loads(data)

    monkeypatch.setattr(marshal, "loads", fragile)
    compiled = compile_source("a.py", b"A = 'it ends here'\n")
    secret = compile_source("b.py", SECRET_MODULE.encode())
    assert compiled and secret
    names = {"a": compiled, "b": secret, "z": compiled}
    workshop.smuggled({f"clavitor_good/{name}.pyc": data for name, data in names.items()} | {
        f"clavitor_good/{name}.py": b"" for name in names
    })  # fmt: skip
    report = workshop.verify()
    for name in ("a", "z"):
        expect(report, "bytecode", f"clavitor_good/{name}.pyc: its bytecode cannot be read safely: ", "SIGKILL")
    expect(report, "content", "clavitor_good/b.pyc: it holds compiled functions")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not bytecode at all", "named as bytecode, and is none"),
        (b"\xa7\x0d\r\n" + b"\0" * 12 + b"\xff\xff\xff", "no bytecode: "),
        (b"\xa7\x0d\r\n" + b"\0" * 12 + b"i\0\0\0\0", "bytecode that is no module"),
        (b"\xcb\x0d\r\n" + b"\0" * 12 + b"i\0\0\0\0", "bytecode of another Python"),
    ],
)
def test_what_is_no_bytecode_is_named(workshop: Workshop, data: bytes, reason: str) -> None:
    workshop.smuggled({"clavitor_good/a.py": b"", "clavitor_good/a.pyc": data})
    expect(workshop.verify(), "bytecode", "clavitor_good/a.pyc", reason)


def test_work_that_dies_says_how() -> None:
    def dying() -> Any:
        yield "first"
        os.kill(os.getpid(), 9)

    def failing() -> Any:
        yield "first"
        raise ValueError("no more")

    assert Background(dying).finish() == (["first"], "killed by SIGKILL")
    assert Background(failing).finish() == (["first"], "ValueError: no more")
    assert Background(lambda: [1, 2]).finish() == ([1, 2], "")


# --- the file and its members


def test_random_flips_in_headers_and_directory_are_all_found(workshop: Workshop) -> None:
    whole = workshop.path.read_bytes()
    with archive.open_artifact(workshop.path) as opened:
        layout = opened.layout
    places = [range(len(stage2.PREFIX)), range(layout.start, layout.size)]
    places += [range(at, at + len(header)) for _, header, at, *_ in layout.regions]
    dice = random.Random(3)
    workshop.path.with_name(f"{workshop.path.name}.cdx.json").unlink()
    for _ in range(30):
        at = dice.choice(dice.choice(places))
        data = bytearray(whole)
        data[at] ^= 1 << dice.randrange(8)
        workshop.path.write_bytes(data)
        try:
            report = workshop.verify(manifest=None, no_manifest=True)
        except BundleError:
            continue
        assert "structure" in failed(report), f"byte {at}"


def test_a_flip_in_a_member_names_it(workshop: Workshop) -> None:
    data = bytearray(workshop.path.read_bytes())
    data[data.index(b"the small host is running")] ^= 1
    workshop.path.write_bytes(data)
    report = workshop.verify()
    expect(report, "members", "clavitor_host/__main__.py: sha256")
    expect(report, "records", "clavitor_host/__main__.py: not what clavitor_host-1.0.0.dist-info/RECORD says")
    assert {"checksum", "provenance"} <= failed(report).keys()


def test_bytes_before_after_and_missing_are_found(workshop: Workshop) -> None:
    whole = workshop.path.read_bytes()
    workshop.path.write_bytes(whole.replace(b"python3", b"python9", 1))
    with pytest.raises(BundleError, match="not a bundle"):
        workshop.verify()
    workshop.path.write_bytes(whole + b"\0")
    with pytest.raises(BundleError, match="end record"):
        workshop.verify()
    for end in (100, len(whole) // 2, len(whole) - 1):
        workshop.path.write_bytes(whole[:end])
        with pytest.raises(BundleError, match=workshop.path.name):
            workshop.verify()


def test_a_crc_that_is_not_the_members_is_found(workshop: Workshop) -> None:
    raw_write(workshop.path, workshop, workshop.members, **{"clavitor_good/plugin.py": 7})
    assert failed(workshop.verify()).keys() == {"members"}
    expect(workshop.verify(), "members", "clavitor_good/plugin.py: CRC", "00000007 was frozen")


@pytest.mark.parametrize("name", ["/etc/passwd", "../up.py", "clavitor_good/../x.py", "a//b", "a\\b"])
def test_a_name_that_leads_elsewhere_is_found(workshop: Workshop, name: str) -> None:
    record = "clavitor_good-1.0.0.dist-info/RECORD"
    row = record_row(name, b"x").encode()
    raw_write(workshop.path, workshop, {**workshop.members, name: b"x", record: workshop.members[record] + row})
    expect(workshop.verify(), "structure", "no name for a member: plain ASCII, relative, without . and .. is needed")


def test_a_rewritten_launcher_is_named(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = archive.launcher_members

    def forged(frozen: Any) -> dict[str, bytes]:
        made = real(frozen)
        old = hashlib.sha256(made[stage2.LAUNCHER]).hexdigest().encode()
        made[stage2.LAUNCHER] += b"\nrun = print\n"
        made[archive.MAIN] = made[archive.MAIN].replace(old, hashlib.sha256(made[stage2.LAUNCHER]).hexdigest().encode())
        return made

    monkeypatch.setattr(archive, "launcher_members", forged)
    workshop.build()
    monkeypatch.undo()
    report = workshop.verify()
    assert failed(report).keys() == {"structure"}
    expect(report, "structure", "clavitor_launcher.py: not what this host's builder writes")
    expect(report, "structure", "__main__.py: not what this host's builder writes")


def test_compiled_launcher_parts_are_those_of_their_sources(workshop: Workshop) -> None:
    other = compile_source("clavitor_frozen.py", b"PLUGINS = (('x', 'y', False),)\n")
    assert other
    workshop.build({"clavitor_frozen.pyc": other})
    assert failed(workshop.verify()) == {"recompiled": ["clavitor_frozen.pyc: not what its source compiles to"]}


def test_members_and_records_fit_each_other(workshop: Workshop) -> None:
    record = "clavitor_good-1.0.0.dist-info/RECORD"
    rows = workshop.members[record].decode()
    host = workshop.members["clavitor_host-1.0.0.dist-info/RECORD"].decode()
    cases = [
        ({"stray.py": b""}, "stray.py: belongs to no distribution"),
        ({"clavitor_good/a.pyc": compile_source("a", b"") or b""}, "clavitor_good/a.pyc: belongs to no distribution"),
        ({record: (rows + record_row("gone.py", b"")).encode()}, f"gone.py: {record} lists it, and it is missing"),
        ({record: (rows + host).encode()}, "clavitor_host/__init__.py: belongs to two distributions"),
        ({"clavitor_good/plugin.py": b"pass\n"}, f"clavitor_good/plugin.py: not what {record} says"),
        ({record: rows.replace("sha256=", "md5=").encode()}, f"clavitor_good/plugin.py: not what {record} says"),
    ]
    for extra, expected in cases:
        workshop.build(extra)
        expect(workshop.verify(), "records", expected)
    del workshop.members[record]
    workshop.build()
    expect(workshop.verify(), "records", f"{record}: missing")


def test_recompiling_finds_bytecode_of_another_source(workshop: Workshop) -> None:
    other = compile_source("clavitor_good/plugin.py", b"GOOD = 1\n")
    assert other
    workshop.build({"clavitor_good/plugin.pyc": other})
    assert failed(workshop.verify()) == {
        "recompiled": ["clavitor_good/plugin.pyc: not what its source compiles to"],
    }
    workshop.build(builder_python="3.11.999")
    last = workshop.verify(recompile=True).checks[-1]
    assert (last.name, last.status) == ("recompiled", "skipped") and "built by Python 3.11.999" in last.what


def test_recompiling_others_must_be_asked_for_and_what_was_left_out_is_said(workshop: Workshop) -> None:
    other = compile_source("clavitor_good/plugin.py", b"GOOD = 1\n")
    assert other
    workshop.fetched("clavitor-good")
    workshop.build({"clavitor_good/plugin.pyc": other})
    report = workshop.verify()
    assert failed(report) == {}
    assert report.checks[-1].what == (
        "2 compiled modules against a fresh compilation; 2 not compiled again: that takes --recompile"
    )
    expect(workshop.verify(recompile=True), "recompiled", "clavitor_good/plugin.pyc: not what its source compiles to")


# --- code that was changed, with everything in the artifact made to fit


def test_changed_code_of_our_own_is_not_the_wheel_that_was_locked(workshop: Workshop) -> None:
    name, record = "clavitor_host/__main__.py", "clavitor_host-1.0.0.dist-info/RECORD"
    old, new = workshop.members[name], workshop.members[name] + b"print('and something else')\n"
    compiled = compile_source(name, new)
    assert compiled
    rows = workshop.members[record].replace(record_row(name, old).encode(), record_row(name, new).encode())
    workshop.build({name: new, f"{name}c": compiled, record: rows})
    assert failed(workshop.verify()).keys() == {"lock"}
    expect(workshop.verify(), "lock", f"{record}: what is inside of clavitor-host makes a wheel with sha256")
    left_out = rows + b"clavitor_host-1.0.0.data/scripts/x,sha256=AAAA,1\n"
    workshop.build({name: new, f"{name}c": compiled, record: left_out})
    expect(workshop.verify(), "lock", f"{record}: ", "has files that no artifact holds")


def test_changed_code_of_others_is_not_the_wheel_in_the_cache(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel = workshop.fetched("clavitor-good")
    name, record = "clavitor_good/plugin.py", "clavitor_good-1.0.0.dist-info/RECORD"
    new = workshop.members[name] + b"print('and something else')\n"
    compiled = compile_source(name, new)
    assert compiled
    rows = workshop.members[record].replace(
        record_row(name, workshop.members[name]).encode(), record_row(name, new).encode()
    )
    changed = {name: new, f"{name}c": compiled, record: rows}
    workshop.build(changed)
    report = workshop.verify()
    assert failed(report) == {}
    (lock,) = [check for check in report.checks if check.name == "lock"]
    assert lock.what.endswith("0 compared with the cache; 1 wheel not at hand to compare, so not proved")
    file = workshop.distributions[1].wheel
    wheels.keep(file, wheel)
    assert failed(workshop.verify()) == {"lock": [f"{record}: not that of {file}, whose sha256 the lock has"]}
    workshop.build()
    report = workshop.verify()
    assert failed(report) == {}
    (lock,) = [check for check in report.checks if check.name == "lock"]
    assert lock.what.endswith(": 1 made again from what is inside, 1 compared with the cache")


def test_a_distribution_that_says_it_is_not_ours_is_named(workshop: Workshop) -> None:
    host, good = workshop.distributions
    workshop.build(distributions=(good._replace(local=False), host))
    expect(workshop.verify(), "lock", "distribution clavitor-good is from the checkout by bundles/workshop.lock")


# --- modules


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"clavitor_good/plugin/__init__.py": b""}, "clavitor_good/plugin/__init__.py"),
        ({"clavitor_good/__init__.so": b"\x7fELF"}, "clavitor_good/__init__.so"),
        ({"clavitor_good/a.so": b"\x7fELF", "clavitor_good/a.abi3.so": b""}, "clavitor_good/a.so"),
    ],
)
def test_two_members_that_are_one_module_are_found(workshop: Workshop, extra: dict[str, bytes], expected: str) -> None:
    workshop.smuggled(extra)
    faults = failed(workshop.verify())["records"]
    assert [fault for fault in faults if expected in fault and ": the same module as clavitor_good/" in fault], faults


def test_a_wheel_may_bring_the_source_of_its_extension_modules_and_the_host_may_not(workshop: Workshop) -> None:
    """As SQLAlchemy does."""
    workshop.smuggled({"clavitor_good/fast.py": b"A = 1\n", "clavitor_good/fast.so": b"\x7fELF"})
    assert "records" not in failed(workshop.verify())
    workshop.smuggled({"clavitor_host/fast.py": b"", "clavitor_host/fast.so": b"\x7fELF"}, "clavitor-host")
    expect(workshop.verify(), "records", "clavitor_host/fast.so: the same module as clavitor_host/fast.py")


def test_bytecode_that_a_record_lists_needs_its_source_too(workshop: Workshop) -> None:
    data = compile_source("clavitor_good/a.py", b"")
    assert data
    record = "clavitor_good-1.0.0.dist-info/RECORD"
    rows = workshop.members[record] + record_row("clavitor_good/a.pyc", data).encode()
    workshop.build({"clavitor_good/a.pyc": data, record: rows})
    expect(workshop.verify(), "records", "clavitor_good/a.pyc: bytecode without its source")


def test_what_lies_in_anothers_package_is_found(workshop: Workshop) -> None:
    workshop.smuggled({"clavitor_host/extra.py": b"", "clavitor_host/extra.txt": b""})
    report = workshop.verify()
    for name in ("extra.py", "extra.pyc", "extra.txt"):
        expect(report, "records", f"clavitor_host/{name}: in the host's package, and not of clavitor-host")
    workshop.smuggled({"clavitor_good/deep/down/extra.py": b""}, "clavitor-host")
    expect(
        workshop.verify(),
        "records",
        "clavitor_good/deep/down/extra.py: of clavitor_host-1.0.0.dist-info, and inside the package clavitor_good of",
    )


def test_a_namespace_is_nobodys(workshop: Workshop) -> None:
    workshop.smuggled({"space/one.py": b""})
    workshop.members = {name: workshop.members.get(name, b"") for name in workshop.members} | {"space/one.py": b""}
    good, host = (f"clavitor_{name}-1.0.0.dist-info/RECORD" for name in ("good", "host"))
    rows = {
        good: workshop.members[good] + record_row("space/one.py", b"").encode(),
        host: workshop.members[host] + record_row("space/two/three.py", b"").encode(),
    }
    compiled = {f"space/{name}.pyc": compile_source(f"space/{name}.py", b"") or b"" for name in ("one", "two/three")}
    extra = {"space/one.py": b"", "space/two/three.py": b"", **compiled, **rows}
    workshop.lock_as_built(extra)
    workshop.build(extra)
    assert failed(workshop.verify()) == {}


def test_a_name_of_the_launcher_is_nobody_elses(workshop: Workshop) -> None:
    record = "clavitor_good-1.0.0.dist-info/RECORD"
    rows = workshop.members[record] + record_row("clavitor_frozen/more.py", b"").encode()
    raw_write(workshop.path, workshop, {**workshop.members, "clavitor_frozen/more.py": b"", record: rows})
    expect(workshop.verify(), "records", "clavitor_frozen/more.py: this name belongs to the launcher")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_content_is_found_in_wide_characters_without_a_mark(workshop: Workshop, encoding: str) -> None:
    workshop.smuggled({
        "clavitor_good/a.bin": b"\1\2\3\4" + SECRET_MODULE.encode(encoding),
        "clavitor_good/bom.bin": b"\xff\xfe" + SECRET_MODULE.encode(),
        "clavitor_good/both.bin": b"\xff\xfe" + SECRET_MODULE.encode(encoding),
        "clavitor_good/b.bin": "a hidden MECHANISM".encode(encoding),
        "clavitor_good/c.bin": "import clavitor_secret.plugin".encode(encoding),
    })  # fmt: skip
    report = workshop.verify()
    for name in ("a", "bom", "both"):
        expect(report, "content", f"clavitor_good/{name}.bin: it holds", "lines of plugins/secret/clavitor_secret/")
    expect(report, "forbidden", "clavitor_good/b.bin: ", "holds the forbidden text 'Hidden Mechanism'")
    expect(report, "forbidden", "clavitor_good/c.bin: ", "names clavitor_secret, which clavitor-secret* forbids")


def test_a_source_in_another_encoding_or_without_bytecode_is_found(workshop: Workshop) -> None:
    sources = {
        "a": b"# coding: unicode_escape\n\\x41 = 1\n",
        "b": b"#!/usr/bin/python\r# -*- coding: utf-7 -*-\r",
        "good": b"# vim: set fileencoding=Latin_1 :\nA = '\xe4'\n",
        "fine": b"\n# coding: utf-8-unix\n",
        "late": b"\n\n# coding: unicode_escape\n",
        "two": b"print 'two'\n",
    }
    workshop.smuggled({f"clavitor_good/{name}.py": data for name, data in sources.items()})
    assert failed(workshop.verify()) == {
        "sources": [
            f"clavitor_good/{name}.py: its encoding is {coding}: UTF-8, Latin-1 or ASCII are read as they are written"
            for name, coding in (("a", "unicode_escape"), ("b", "utf-7"))
        ]
    }
    del workshop.members["clavitor_good/plugin.pyc"]
    workshop.smuggled({})
    expect(workshop.verify(), "sources", "clavitor_good/plugin.py: without its bytecode clavitor_good/plugin.pyc")


# --- what is made to end the report


def test_a_report_always_comes(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    record = "clavitor_good-1.0.0.dist-info/RECORD"
    workshop.build({record: b"x" * 200_000 + b",,\n"})
    expect(workshop.verify(), "records", f"{record}: cannot be read: field larger than field limit")
    for deep in (b"A = " + b"(" * 5000 + b")" * 5000, b"A = " + b"-" * 200_000 + b"1", b"A = 1" + b"+1" * 100_000):
        workshop.build({"clavitor_host/__init__.py": deep})
        report = workshop.verify()
        expect(report, "plugins", "clavitor_host/__init__.py: does not say which version of the plugin contract")
        assert len(report.checks) == 15

    def broken(*arguments: object) -> Any:
        raise RuntimeError("not\nfit")

    for place in (
        *("structure.check", "members.read_records", "members.check_frozen", "members.check_records", "sources.check"),
        *("contents.check_inside", "contents.check_manifest", "contents.LockCheck", "companions.Materials"),
        *("companions.check_checksum", "signature.check"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"clavitor_host.bundle.checks.{place}", broken)
            faults = [str(fault) for fault in workshop.verify().faults]
        assert f"{workshop.path.name}: it cannot be checked: RuntimeError: not fit" in faults, place


def test_an_artifact_with_the_longest_of_names_is_verified(workshop: Workshop) -> None:
    path = workshop.path.rename(workshop.path.with_name("a" * 245 + ".pyz"))
    report = workshop.verify(path)
    assert failed(report) == {}
    skipped = [name for name, said in status(report).items() if said == "skipped"]
    assert skipped == ["checksum", "provenance", "materials", "signature"]


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["plugins"][0].update(hooks=[1]),
        lambda document: document["plugins"][0].update(hooks=["a\nb"]),
        lambda document: document.update(name="\ud800"),
        lambda document: document.update(edition="\x1b[2J"),
        lambda document: document["description"].update(routes=[["GET", "/", 3]]),
        lambda document: document["description"].update(hooks={"a": [1]}),
        lambda document: document["description"].update(commands="serve"),
        lambda document: document["description"].update(outbound_hosts=[]),
        lambda document: document["description"].update(more=[]),
        lambda document: document.update(description=[]),
    ],
)
def test_a_frozen_manifest_of_other_types_is_one_line_for_every_command(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    real = frozen_manifest.to_bytes

    def changed(manifest: Any) -> bytes:
        document = json.loads(real(manifest))
        change(document)
        lines = (f"{json.dumps(key)}:{frozen_manifest._by_line(document[key])}" for key in sorted(document))
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()

    monkeypatch.setattr(frozen_manifest, "to_bytes", changed)
    other = workshop.build(path=workshop.path.with_name("other.pyz"))
    monkeypatch.undo()
    for read in (lambda: workshop.verify(other), lambda: inspect(other), lambda: diff(workshop.path, other)):
        with pytest.raises(BundleError, match=r"^other\.pyz: clavitor_frozen\.json: cannot be read: ") as caught:
            read()
        assert str(caught.value).isprintable()


HUGE_TUPLES = [b"(" + size.to_bytes(4, "little") for size in (0x0FFFFFFF, 0x7FFFFFFF)]


def test_five_bytes_do_not_take_gigabytes(workshop: Workshop) -> None:
    header = b"\xa7\x0d\r\n" + b"\0" * 12
    workshop.smuggled({
        f"clavitor_good/a{index}.pyc": header + data for index, data in enumerate(HUGE_TUPLES)
    } | {f"clavitor_good/a{index}.py": b"" for index in range(len(HUGE_TUPLES))})  # fmt: skip
    script = "import resource, sys; from clavitor_host.bundle.verify import *;" + (
        "report = verify(Path(sys.argv[1]), Options(sys.argv[2]));"
        "print(*[fault for check in report.checks if check.name == 'bytecode' for fault in check.faults], sep='\\n');"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, "-c", script, str(workshop.path), str(workshop.manifest)]
    *faults, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(faults) == len(HUGE_TUPLES)
    assert int(kilobytes) < 1_300_000


def test_the_reader_of_bytecode_is_not_started_for_ever(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marshal, "loads", lambda data: os.kill(os.getpid(), signal.SIGKILL))
    faults = failed(workshop.verify())["bytecode"]
    assert len(faults) == 4
    assert all("cannot be read safely: the reader was killed by SIGKILL" in fault for fault in faults[:3])
    assert faults[3].endswith("not read, nor what follows: 3 ended the reader")


def test_work_is_limited_in_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clavitor_host.bundle.background.CPU_SECONDS", 1)
    assert Background(lambda: [len(bytes(2 << 30))]).finish() == ([], "MemoryError: ")
    assert Background(lambda: [len(bytes(256 << 20))]).finish() == ([256 << 20], "")

    def hanging() -> Any:
        while True:
            pass
        yield

    assert Background(hanging).finish()[1] in ("killed by SIGKILL", "killed by SIGXCPU")


def test_a_pipe_is_no_artifact(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pyz")
    with pytest.raises(BundleError, match=r"^pipe\.pyz: not a file$"):
        archive.open_artifact(tmp_path / "pipe.pyz")


# --- manifest and lock


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"edition": "commercial"}, "edition is commercial, bundles/workshop.toml says community"),
        ({"license": "MIT"}, "license is MIT"),
        ({"name": "clavitor-other"}, "name is clavitor-other"),
        ({"plugins": ()}, "plugin clavitor-good of bundles/workshop.toml is missing"),
    ],
)
def test_what_the_manifest_says_otherwise_is_named(workshop: Workshop, changes: dict[str, Any], expected: str) -> None:
    workshop.build(**changes)
    expect(workshop.verify(), "manifest", expected)


def test_plugins_are_compared_one_by_one(workshop: Workshop) -> None:
    (good,) = workshop.frozen().plugins
    workshop.build(plugins=(good._replace(optional=True),))
    expect(workshop.verify(), "manifest", "plugin clavitor-good: bundles/workshop.toml says another module or")
    workshop.build(plugins=(good, good._replace(distribution="clavitor-more")))
    expect(workshop.verify(), "manifest", "plugin clavitor-more is not in bundles/workshop.toml")
    workshop.build(plugins=(good._replace(clavitor_api=">=2.0"),))
    expect(workshop.verify(), "plugins", "plugin good needs API >=2.0, the host has 1.0")
    workshop.build(plugins=(good._replace(clavitor_api="new"),))
    expect(workshop.verify(), "plugins", "plugin good: clavitor_api 'new' is not a version range")
    workshop.build(plugins=(good._replace(module="clavitor_good.nowhere"),))
    expect(workshop.verify(), "plugins", "module clavitor_good.nowhere of plugin good is not inside")


def test_what_the_lock_says_otherwise_is_named(workshop: Workshop) -> None:
    host, good = workshop.distributions
    for changed, expected in (
        ([host], "distribution clavitor-good is not in bundles/workshop.lock"),
        ([host, good, good._replace(name="more")], "distribution more of bundles/workshop.lock is missing"),
        ([host, good._replace(version="2.0")], "version of distribution clavitor-good is 1.0.0, bundles/workshop.lock"),
        ([host, good._replace(sha256="0" * 64)], "sha256 of distribution clavitor-good is"),
    ):
        workshop.distributions = list(changed)
        workshop.write_lock()
        workshop.distributions = [host, good]
        expect(workshop.verify(), "lock", expected)
    workshop.manifest.with_suffix(".lock").unlink()
    expect(workshop.verify(), "lock", "bundles/workshop.lock: is missing")


def test_without_a_manifest_nothing_is_taken_for_granted(workshop: Workshop) -> None:
    report = workshop.verify(manifest=None)
    assert failed(report) == {
        "manifest": [
            f"{workshop.path.name}: no manifest of clavitor-workshop in bundles/ of this checkout: "
            "name it with --manifest, or pass --no-manifest"
        ]
    }
    report = workshop.verify(manifest=None, no_manifest=True)
    assert failed(report) == {}
    assert [name for name, said in status(report).items() if said == "skipped"] == [
        *("manifest", "lock", "forbidden", "content", "signature")
    ]


# --- beside it


def test_what_lies_beside_is_about_this_file(workshop: Workshop) -> None:
    name = workshop.path.name
    beside = {suffix: workshop.path.with_name(name + suffix) for suffix in (".sha256", ".intoto.json", ".cdx.json")}
    digest = hashlib.sha256(workshop.path.read_bytes()).hexdigest()
    sbom = beside[".cdx.json"].read_text()
    for suffix, text, check, expected in (
        (".sha256", f"{'0' * 64}  {name}\n", "checksum", "says 000000000000…"),
        (".intoto.json", "{}", "provenance", "not an in-toto statement"),
        (".cdx.json", "{", "materials", "not JSON"),
        (".cdx.json", sbom.replace('"version": 1,', '"version": 1, "surprise": 2,'), "materials", "surprise"),
        (".cdx.json", sbom.replace('"library"', '"libary"'), "materials", "components/0/type"),
        (".cdx.json", sbom.replace("clavitor-good", "clavitor-bad"), "materials", "clavitor-bad 1.0.0 is not inside"),
        (".cdx.json", sbom.replace('"content": "', '"content": "0123456789abcdef'), "materials", "content"),
        (".cdx.json", sbom.replace("1.6", "1.5"), "materials", "specVersion is 1.5"),
    ):
        whole = beside[suffix].read_text()
        assert whole != text
        beside[suffix].write_text(text)
        assert failed(workshop.verify()).keys() == {check}, expected
        expect(workshop.verify(), check, f"{name}{suffix}: ", expected)
        beside[suffix].unlink()
        assert status(workshop.verify())[check] == "skipped"
        beside[suffix].write_text(whole)
    assert digest in beside[".sha256"].read_text()


def test_a_hash_of_another_wheel_in_the_bill_of_materials_is_found(workshop: Workshop) -> None:
    file = workshop.path.with_name(f"{workshop.path.name}.cdx.json")
    good = workshop.distributions[1].sha256
    file.write_text(file.read_text().replace(good, "0" * 64))
    expect(workshop.verify(), "materials", "component clavitor-good 1.0.0 has another sha256")


# --- signatures


@pytest.fixture
def signer(workshop: Workshop, tmp_path: Path) -> tuple[Path, Path]:
    """A key, with which the workshop's artifact is signed."""
    private, public = make_key(tmp_path)
    sign(workshop.path, read_private(private, lambda: b""), private)
    return private, public


def test_a_signed_artifact_verifies_with_its_key_only(
    workshop: Workshop, signer: tuple[Path, Path], tmp_path: Path
) -> None:
    report = workshop.verify(key=signer[1])
    assert (failed(report), status(report)["signature"]) == ({}, "ok")
    expect(workshop.verify(), "signature", "signed, but no --key to check it with")
    other = workshop.verify(key=make_key(tmp_path, "other")[1])
    expect(other, "signature", ".sha256.sig: not made by this key")
    expect(other, "signature", ".intoto.dsse.json: not signed by this key")
    for key in (signer[0], make_key(tmp_path, "rsa", "RSA")[1], tmp_path / "none.pem"):
        assert failed(workshop.verify(key=key)).keys() == {"signature"}


def test_an_unsigned_artifact_does_not_pass_for_a_signed_one(workshop: Workshop, tmp_path: Path) -> None:
    report = workshop.verify(key=make_key(tmp_path)[1])
    expect(report, "signature", ".sha256.sig is missing: it is not signed")
    expect(report, "signature", ".intoto.dsse.json is missing: it is not signed")


def test_an_artifact_forged_with_all_that_lies_beside_it_fails_its_signature(
    workshop: Workshop, signer: tuple[Path, Path]
) -> None:
    """Launcher, frozen manifest, RECORD, checksum, bill of materials and provenance all fit each other."""
    workshop.smuggled({"clavitor_good/more.py": b"print('something else')\n"})
    assert failed(workshop.verify()).keys() == {"signature"}  # signed, but no key
    report = workshop.verify(key=signer[1])
    assert failed(report).keys() == {"signature"}
    expect(report, "signature", f"{workshop.path.name}.sha256.sig: not made by this key")
    expect(report, "signature", "its payload: its subject digest is not the file's sha256")
    expect(report, "signature", f"{workshop.path.name}.intoto.json: not the provenance that was signed")


def test_old_files_beside_a_new_artifact_fail(workshop: Workshop, signer: tuple[Path, Path]) -> None:
    kept = workshop.path.with_name(f"{workshop.path.name}.sha256").read_bytes()
    workshop.smuggled({"clavitor_good/more.py": b"print('something else')\n"})
    workshop.path.with_name(f"{workshop.path.name}.sha256").write_bytes(kept)
    expect(workshop.verify(key=signer[1]), "signature", "not the file that was signed")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("in-toto+json", "other+json"), "not signed by this key"),
        (lambda text: text.replace('"payload": "', '"payload": "AAAA'), "not signed by this key"),
        (lambda text: text.replace('"payload": "', '"payload": "*'), "payload is not base64"),
        (lambda text: "{}", "no signatures"),
        (lambda text: "[" * 100, "not JSON"),
    ],
)
def test_a_changed_envelope_fails(
    workshop: Workshop, signer: tuple[Path, Path], change: Callable[[str], str], expected: str
) -> None:
    file = workshop.path.with_name(f"{workshop.path.name}.intoto.dsse.json")
    file.write_text(change(file.read_text()))
    report = workshop.verify(key=signer[1])
    expect(report, "signature", f"{file.name}: ", expected)


# --- the command


CLAVITOR = [str(Path(sys.executable).parent / "clavitor"), "bundle"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", "LANG": "C.UTF-8"}
    return subprocess.run([*CLAVITOR, *map(str, arguments)], env=environ, capture_output=True, text=True, check=False)


def test_the_command_prints_a_line_for_every_check_and_names_the_member(workshop: Workshop) -> None:
    done = command("verify", workshop.path, "--manifest", workshop.manifest)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 13 + ["skipped", "ok"]
    workshop.smuggled({"clavitor_good/notes.txt": SECRET_MODULE.encode()})
    done = command("verify", workshop.path, "--manifest", workshop.manifest)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {workshop.path.name} failed content: clavitor_good/notes.txt: it is ")
    assert done.stderr.count("\n") == 1
    assert "FAIL     content" in done.stdout
    said = json.loads(command("verify", workshop.path, "--manifest", workshop.manifest, "--json").stdout)
    assert said["ok"] is False and said["sha256"] == hashlib.sha256(workshop.path.read_bytes()).hexdigest()
    (content,) = [check for check in said["checks"] if check["status"] == "FAIL"]
    assert content["faults"][0]["where"] == "clavitor_good/notes.txt"


def test_what_is_no_artifact_is_one_clear_line(workshop: Workshop, tmp_path: Path) -> None:
    whole = workshop.path.read_bytes()
    ordinary = tmp_path / "ordinary.zip"
    with zipfile.ZipFile(ordinary, "w") as made:
        made.writestr("a", "b")
    for name, data in (("empty", b""), ("text", b"hello\n"), ("cut", whole[:-300]), ("start", whole[:100])):
        (tmp_path / name).write_bytes(data)
    sparse = tmp_path / "sparse"
    sparse.write_bytes(whole[:100])
    os.truncate(sparse, 10 << 30)
    os.mkfifo(tmp_path / "pipe")
    names = ["none", "", "empty", "text", "cut", "start", "ordinary.zip", "sparse", "pipe"]
    for words in (["verify"], ["inspect"], ["diff", str(workshop.path)]):
        for name in names:
            done = command(*words, tmp_path / name)
            assert (done.returncode, done.stdout) == (1, ""), (words, name)
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (words, name, done.stderr)
            assert "unexpected" not in done.stderr


def test_a_huge_file_is_not_read_into_memory(workshop: Workshop) -> None:
    """10 GB of nothing between the first and the last bytes of an artifact, in 1 GB of address space."""
    whole = workshop.path.read_bytes()
    os.truncate(workshop.path, 10 << 30)
    with workshop.path.open("r+b") as file:
        file.seek(-400, 2)
        file.write(whole[-400:])
    limited = ["sh", "-c", 'ulimit -v 1048576; exec "$@"', "sh", *CLAVITOR, "inspect", str(workshop.path)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


# --- the real ones


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["community", "minimal", "commercial"])
def test_a_shipped_bundle_passes(built: Built, tree: Path, name: str) -> None:
    report = verify(built(name), against(tree, name))
    assert failed(report) == {}


@pytest.mark.timeout(300)
def test_control_the_community_rules_hit_the_commercial_bundle_in_every_way(built: Built, tree: Path) -> None:
    """The same search that finds nothing in a community bundle, where there is something to find."""
    report = verify(built("commercial"), against(tree, "community"))
    expect(report, "manifest", "plugin clavitor-commercial is not in bundles/community.toml")
    expect(report, "forbidden", "its name names clavitor_commercial")
    expect(report, "forbidden", "/plugin.py: it names clavitor_commercial")
    expect(report, "forbidden", "it holds the forbidden text")
    expect(report, "content", "/plugin.py: it is plugins/")
    expect(report, "content", "/plugin.py: it holds", "lines of plugins/")
    expect(report, "content", "/plugin.pyc: it holds", "constants of plugins/")
    expect(report, "content", "/plugin.pyc: it uses the names")
    expect(report, "content", ".pyc: it holds compiled functions of plugins/")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["name", "content", "pyc"])
def test_a_community_bundle_with_a_commercial_file_fails(built: Built, tree: Path, tmp_path: Path, way: str) -> None:
    source = Path(__file__).parents[2] / "plugins/commercial/clavitor_commercial/plugin.py"
    compiled = compile_source("h11/_extra.py", source.read_bytes())
    assert compiled
    extra = {
        "name": {"clavitor_commercial/plugin.py": source.read_bytes()},
        "content": {"h11/_extra.txt": b"\n".join(source.read_bytes().split(b"\n")[20:60])},
        "pyc": {"h11/_extra.py": b"", "h11/_extra.pyc": compiled},
    }[way]
    path = tmp_path / built("community").name
    with archive.open_artifact(built("community")) as whole:
        members = {name: whole.data(name) for name in whole.names() if name not in archive.GENERATED}
        record = next(name for name in members if name.startswith("h11-") and name.endswith("/RECORD"))
        rows = "".join(record_row(name, data) for name, data in extra.items() if not name.endswith(".pyc"))
        members |= {**extra, record: members[record] + rows.encode()}
        archive.write(path, whole.frozen._replace(members=()), members)
    report = verify(path, against(tree, "community"))
    assert failed(report).keys() <= {"forbidden", "content", "lock", "sources"}
    expect(report, "lock", "/RECORD: not that of h11-", "whose sha256 the lock has")
    for name in extra:
        if name != "h11/_extra.py":
            assert any(fault.where == name for fault in report.faults), failed(report)


def against(tree: Path, name: str) -> Options:
    """Return to check against a manifest of the tree that the bundles were built from: its locks fit them."""
    return Options(manifest=str(tree / "bundles" / f"{name}.toml"))


def test_the_wheel_members_of_the_workshop_are_whole() -> None:
    """The helper makes what a builder would: otherwise the tests above show nothing."""
    members = wheel_members("clavitor-x", {"x.py": "X = 1\n"})
    assert sorted(members) == [
        "clavitor_x-1.0.0.dist-info/METADATA",
        "clavitor_x-1.0.0.dist-info/RECORD",
        "x.py",
        "x.pyc",
    ]
