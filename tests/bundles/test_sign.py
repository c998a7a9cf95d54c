"""Signing: what openssl and an independent reading of DSSE accept, and every key and file that is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from clavitor_host.bundle.compile import compile_source
from clavitor_host.bundle.errors import BundleError
from clavitor_host.bundle.keys import read_private, read_public, refuse_weak
from clavitor_host.bundle.sign import Signed, sign
from tests.bundles.workshop import Workshop, make_key, openssl


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "checkout")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_key(tmp_path)


def signed(workshop: Workshop, key: Path, passphrase: bytes = b"") -> Signed:
    return sign(workshop.path, read_private(key, lambda: passphrase), key)


def beside(workshop: Workshop, suffix: str) -> Path:
    return workshop.path.with_name(workshop.path.name + suffix)


def openssl_verifies(public: Path, data: bytes, signature: bytes, folder: Path) -> bool:
    (folder / "data").write_bytes(data)
    (folder / "sig").write_bytes(signature)
    command: list[str | Path] = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    done = subprocess.run(
        [*command, "-in", folder / "data", "-sigfile", folder / "sig"], check=False, capture_output=True
    )
    return done.returncode == 0


# --- what is written


def test_openssl_alone_verifies_the_checksum(workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path) -> None:
    done = signed(workshop, keys[0])
    assert len(done.signature.read_bytes()) == 64
    checksum = beside(workshop, ".sha256")
    assert openssl_verifies(keys[1], checksum.read_bytes(), done.signature.read_bytes(), tmp_path)
    assert not openssl_verifies(keys[1], checksum.read_bytes() + b" ", done.signature.read_bytes(), tmp_path)
    sums = ["sha256sum", "--strict", "-c", checksum.name]
    listed = subprocess.run(sums, cwd=checksum.parent, check=False, capture_output=True)
    assert listed.returncode == 0, listed.stderr


def test_openssl_verifies_the_envelope_by_the_specification_of_dsse(
    workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    envelope = json.loads(signed(workshop, keys[0]).envelope.read_bytes())
    assert envelope.keys() == {"payload", "payloadType", "signatures"}
    payload = base64.b64decode(envelope["payload"], validate=True)
    assert payload == beside(workshop, ".intoto.json").read_bytes()
    kind = envelope["payloadType"]
    assert kind == "application/vnd.in-toto+json"
    # PAE(type, body) = "DSSEv1" + SP + LEN(type) + SP + type + SP + LEN(body) + SP + body, lengths in ASCII decimal
    encoded = " ".join(["DSSEv1", str(len(kind)), kind, str(len(payload)), ""]).encode("ascii") + payload
    (only,) = envelope["signatures"]
    der = base64.b64decode("".join(keys[1].read_text().splitlines()[1:-1]))
    assert only["keyid"] == hashlib.sha256(der).hexdigest()
    assert openssl_verifies(keys[1], encoded, base64.b64decode(only["sig"], validate=True), tmp_path)
    assert not openssl_verifies(keys[1], payload, base64.b64decode(only["sig"]), tmp_path)


def test_securesystemslib_reads_the_envelope(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse")
    signer = pytest.importorskip("securesystemslib.signer")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    done = signed(workshop, keys[0])
    envelope = dsse.Envelope.from_dict(json.loads(done.envelope.read_bytes()))
    key = signer.SSlibKey.from_crypto(load_pem_public_key(keys[1].read_bytes()), done.keyid)
    assert envelope.verify([key], 1)


def test_signing_again_gives_the_same_bytes(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    first = signed(workshop, keys[0])
    before = first.signature.read_bytes(), first.envelope.read_bytes()
    again = signed(workshop, keys[0])
    assert (again.signature.read_bytes(), again.envelope.read_bytes()) == before
    assert not [file for file in workshop.path.parent.iterdir() if file.name.startswith(".")]


def test_a_full_disk_leaves_nothing_behind(
    workshop: Workshop, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    before = sorted(workshop.path.parent.iterdir())
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(BundleError, match=r"cannot be written: No space left on device"):
        signed(workshop, keys[0])
    assert sorted(workshop.path.parent.iterdir()) == before


# --- keys


def test_an_encrypted_key_takes_its_passphrase(workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path) -> None:
    locked = encrypted(keys[0], tmp_path)
    signed(workshop, locked, b"open sesame")
    with pytest.raises(BundleError, match="the passphrase is wrong"):
        signed(workshop, locked, b"open barley")


def test_the_passphrase_comes_from_a_file_or_a_terminal_and_never_from_the_command_line(
    workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    locked = encrypted(keys[0], tmp_path)
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\nnot this line\n")
    done = command("sign", workshop.path, "--key", locked, "--passphrase-file", phrase)
    assert (done.returncode, done.stderr) == (0, "")
    phrase.write_text("\n")
    done = command("sign", workshop.path, "--key", locked, "--passphrase-file", phrase)
    assert (done.returncode, done.stderr) == (1, f"error: {phrase}: its first line, the passphrase, is empty\n")
    done = command("sign", workshop.path, "--key", locked)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {locked} is encrypted, and there is no terminal") and lines(done.stderr) == 1
    assert "sesame" not in command("sign", "--help").stdout


def test_the_passphrase_is_asked_for_at_a_terminal(workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path) -> None:
    locked = encrypted(keys[0], tmp_path)
    arguments = [*CLAVITOR, "sign", str(workshop.path), "--key", str(locked)]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(arguments[0], arguments)
    shown = b""
    while b"Passphrase of" not in shown:
        assert select.select([terminal], [], [], 60)[0]
        shown += os.read(terminal, 1000)
    os.write(terminal, b"open sesame\n")
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # the end, on Linux
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"sesame" not in shown


def test_a_key_open_to_others_is_used_with_a_warning(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    keys[0].chmod(0o644)
    done = command("sign", workshop.path, "--key", keys[0])
    assert done.returncode == 0
    assert done.stderr == f"warning: {keys[0]} is open to others (mode 0644); run: chmod 600 {keys[0]}\n"


@pytest.mark.parametrize(
    ("algorithm", "options", "kind"),
    [
        ("RSA", ["-pkeyopt", "rsa_keygen_bits:2048"], "an RSA key"),
        ("EC", ["-pkeyopt", "ec_paramgen_curve:P-256"], "an EC key"),
        ("ed448", [], "an Ed448 key"),
        ("x25519", [], "an X25519 key"),
    ],
)
def test_a_key_of_another_kind_is_refused(
    workshop: Workshop, tmp_path: Path, algorithm: str, options: list[str], kind: str
) -> None:
    private, public = make_key(tmp_path, "other", algorithm, *options)
    with pytest.raises(BundleError, match=f"{kind}, and signing takes an Ed25519 key; make one with: openssl"):
        signed(workshop, private)
    with pytest.raises(BundleError, match=f"{kind}, and bundles are signed with Ed25519"):
        read_public(public)


def test_what_is_no_single_private_key_is_refused(workshop: Workshop, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    file = tmp_path / "key"
    cases = [
        (public.read_bytes(), "this is a public key; signing takes the private key"),
        (private.read_bytes() * 2, "holds 2 PEM blocks"),
        (private.read_bytes() + public.read_bytes(), "holds 2 PEM blocks"),
        (os.urandom(32), "not a key in PEM form"),
        (b"", "not a key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (b"x" * 100_000, "not a key in PEM form"),
    ]
    for data, expected in cases:
        file.write_bytes(data)
        with pytest.raises(BundleError, match=expected):
            signed(workshop, file)
    for path, expected in ((tmp_path / "none", "No such file"), (tmp_path, "not a file"), (Path("/dev/zero"), "not a")):
        with pytest.raises(BundleError, match=expected):
            signed(workshop, path)
    assert not beside(workshop, ".sha256.sig").exists()


def test_a_file_of_public_keys_must_hold_exactly_one(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    other = make_key(tmp_path, "other")[1]
    file = tmp_path / "both.pem"
    file.write_bytes(public.read_bytes() + other.read_bytes())
    with pytest.raises(BundleError, match="holds 2 PEM blocks"):
        read_public(file)
    with pytest.raises(BundleError, match="this is a private key; checking takes the public one"):
        read_public(private)
    file.write_bytes(os.urandom(32))
    with pytest.raises(BundleError, match="not a key in PEM form"):
        read_public(file)


def test_public_keys_of_low_order_are_refused(tmp_path: Path) -> None:
    weak = low_order_points()
    assert len(weak) == 8
    encodings = {(y | sign << 255).to_bytes(32, "little") for y in weak_ys(weak) for sign in (0, 1)}
    file = tmp_path / "weak.pem"
    for raw in encodings:
        body = base64.b64encode(bytes.fromhex("302a300506032b6570032100") + raw).decode()
        file.write_text(f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        with pytest.raises(BundleError, match="of low order"):
            read_public(file)
    for _ in range(50):
        refuse_weak(file, read_public(make_key(tmp_path)[1]).public_bytes_raw())


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def low_order_points() -> set[tuple[int, int]]:
    """Return the points whose order divides 8: eight times any points of the curve, by the group order's large part."""
    points: set[tuple[int, int]] = set()
    y = 2
    while len(points) < 8:
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if (x * x - square) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        if (x * x - square) % P == 0:
            points.add(times((x, y), 2**252 + 27742317777372353535851937790883648493))
        y += 1
    return points


def weak_ys(points: set[tuple[int, int]]) -> set[int]:
    canonical = {y for _, y in points}
    return canonical | {y + P for y in canonical if y + P < 2**255}


def times(point: tuple[int, int], factor: int) -> tuple[int, int]:
    result = (0, 1)
    while factor:
        if factor & 1:
            result = plus(result, point)
        point, factor = plus(point, point), factor >> 1
    return result


def plus(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    (a, b), (c, d) = one, two
    k = D * a * b * c * d % P
    return (a * d + b * c) * pow(1 + k, -1, P) % P, (b * d + a * c) * pow(1 - k, -1, P) % P


# --- what is not signed


def test_an_artifact_that_its_files_do_not_match_is_not_signed(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    name = workshop.path.name
    for suffix, change, expected in (
        (".sha256", lambda text: text.replace(text[0], "0" if text[0] != "0" else "1", 1), "says "),
        (".sha256", lambda text: text.replace(name, "other.pyz"), "is about other.pyz"),
        (".sha256", lambda text: text * 2, "not one line of sha256sum"),
        (".intoto.json", lambda text: text.replace('"sha256": "', '"sha256": "0'), "its subject digest is not"),
        (".intoto.json", lambda text: text.replace(name, "other.pyz"), "is about other.pyz"),
        (".intoto.json", lambda text: text.replace("Statement/v1", "Statement/v0.1"), "not an in-toto statement"),
        (".intoto.json", lambda text: "{", "not JSON"),
    ):
        file = beside(workshop, suffix)
        whole = file.read_text()
        file.write_text(change(whole))
        with pytest.raises(BundleError, match=f"nothing was signed: {name}{suffix}: {expected}"):
            signed(workshop, keys[0])
        file.unlink()
        with pytest.raises(BundleError, match=f"nothing was signed: there is no {name}{suffix}"):
            signed(workshop, keys[0])
        file.write_text(whole)
    assert not beside(workshop, ".sha256.sig").exists()
    assert not beside(workshop, ".intoto.dsse.json").exists()


def test_a_damaged_artifact_is_not_signed(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    data = bytearray(workshop.path.read_bytes())
    at = data.index(b"the small host is running")
    data[at] ^= 1
    workshop.path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    beside(workshop, ".sha256").write_text(f"{digest}  {workshop.path.name}\n")
    with pytest.raises(BundleError, match=r"nothing was signed: .*clavitor_host/__main__.py: not what was frozen"):
        signed(workshop, keys[0])


def test_bytecode_that_is_not_its_sources_is_not_signed(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    """As a poisoned cache of compiled modules would bring it into a build; of a distribution that is not ours too."""
    other = compile_source("clavitor_good/plugin.py", b"GOOD = 'poison'\n")
    assert other
    workshop.fetched("clavitor-good")
    workshop.build({"clavitor_good/plugin.pyc": other})
    with pytest.raises(BundleError, match=r"^nothing was signed: .*: clavitor_good/plugin\.pyc: not what its source"):
        signed(workshop, keys[0])
    workshop.build({"clavitor_good/more.pyc": other})
    with pytest.raises(BundleError, match=r"clavitor_good/more\.pyc: bytecode without its source"):
        signed(workshop, keys[0])
    assert not beside(workshop, ".sha256.sig").exists()
    workshop.build()
    seen: list[tuple[int, int]] = []
    sign(workshop.path, read_private(keys[0], lambda: b""), keys[0], progress=lambda *each: seen.append(each))
    assert seen[-1] == (4, 4)


def test_another_python_signs_only_when_told_to(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    workshop.build(builder_python="3.11.999")
    done = command("sign", workshop.path, "--key", keys[0])
    assert (done.returncode, done.stdout, lines(done.stderr)) == (1, "", 1)
    assert "was built by Python 3.11.999, and this is" in done.stderr and "--no-recompile" in done.stderr
    assert not beside(workshop, ".sha256.sig").exists()
    done = command("sign", workshop.path, "--key", keys[0], "--no-recompile")
    assert done.returncode == 0 and beside(workshop, ".sha256.sig").exists()
    assert done.stderr == "warning: its compiled modules were not compared with their sources (--no-recompile)\n"


def test_the_command_signs_and_names_the_files(workshop: Workshop, keys: tuple[Path, Path]) -> None:
    done = command("sign", workshop.path, "--key", keys[0], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["digest"] == hashlib.sha256(workshop.path.read_bytes()).hexdigest()
    assert said["signature"] == str(beside(workshop, ".sha256.sig"))
    done = command("sign", workshop.path.with_name("none.pyz"), "--key", keys[0])
    assert done.returncode == 1 and lines(done.stderr) == 1 and "No such file" in done.stderr


CLAVITOR = [str(Path(sys.executable).parent / "clavitor"), "bundle"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", "LANG": "C.UTF-8"}
    words = [*CLAVITOR, *map(str, arguments)]
    return subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def lines(text: str) -> int:
    return text.count("\n")


def encrypted(key: Path, folder: Path) -> Path:
    locked = folder / "locked.pem"
    openssl("pkey", "-in", str(key), "-aes256", "-passout", "pass:open sesame", "-out", str(locked))
    locked.chmod(0o600)
    return locked
