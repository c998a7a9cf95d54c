"""Which public keys a server starts with: each bad one is made by openssl, and each is named."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from clavitor_licensing.config import LicensingConfig
from clavitor_licensing.domain.curve import point_problem
from clavitor_licensing.domain.keys import PublicKeyError, load_public_keys, relative_to
from clavitor_licensing_testing.support import base64_of, openssl, private_key, public_pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clavitor_host.config.sources import load

P = 2**255 - 19
PREFIX = bytes.fromhex("302a300506032b6570032100")
LOW_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
"""All eight points whose order divides eight, canonically written."""
NOT_CANONICAL = [
    "0100000000000000000000000000000000000000000000000000000000000080",  # the identity, with the sign of no x
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # y = p, which is 0
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # y = p + 1
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


class Keys:
    """What openssl makes, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private = folder / "vendor.key"
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.private)
        self.pem = openssl("pkey", "-in", self.private, "-pubout").decode()
        self.der = openssl("pkey", "-in", self.private, "-pubout", "-outform", "DER")
        self.raw = self.der[-32:]

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def public(self, *arguments: str) -> str:
        """The public half of another kind of key, as PEM."""
        return openssl("pkey", "-pubout", data=openssl("genpkey", *arguments)).decode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def problem(text: str) -> str:
    with pytest.raises(PublicKeyError) as caught:
        load_public_keys(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spki(point: bytes) -> str:
    return base64_of(PREFIX + point)


def in_pem(der: bytes) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{base64_of(der)}\n-----END PUBLIC KEY-----\n"


def test_every_form_of_a_key(keys: Keys) -> None:
    one = base64_of(keys.der)
    forms = {
        "PEM": keys.pem,
        "PEM with other line ends": keys.pem.replace("\n", "\r\n"),
        "PEM on one line": keys.pem.replace("\n", " "),
        "base64": one,
        "wrapped base64": f" {one[:30]}\n{one[30:]}\n",
        "file of PEM": keys.file("vendor.pub", keys.pem),
        "file of base64": keys.file("vendor.b64", f"{one}\n"),
    }
    for name, text in forms.items():
        (key,) = load_public_keys(text)
        assert key.raw == keys.raw, name
        assert (str(keys.folder) in key.where) == name.startswith("file"), name


def test_a_relative_path(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(keys.folder)
    for name in ("my.pub", "mykey123", "k" * 44):  # the last two are base64 by their letters
        keys.file(name, keys.pem)
        assert load_public_keys(name)[0].raw == keys.raw


def test_several_keys_for_a_rotation_in_their_order_each_once(keys: Keys) -> None:
    other = openssl("pkey", "-pubout", data=openssl("genpkey", "-algorithm", "ed25519")).decode()
    path = keys.file("list.pub", keys.pem)
    loaded = load_public_keys(f"{other},\n{path}, {base64_of(keys.der)}")
    assert [key.raw == keys.raw for key in loaded] == [False, True]
    assert [key.where for key in loaded] == ["license public key 1", f"license public key 2 ({path})"]


def test_the_fingerprint_is_what_openssl_and_sha256sum_give(keys: Keys) -> None:
    digest = openssl("dgst", "-sha256", "-r", data=keys.der).decode().split()[0]
    assert load_public_keys(keys.pem)[0].fingerprint == digest


def test_a_signature_by_openssl_verifies(keys: Keys) -> None:
    message = keys.file("message", b"any bytes")
    signature = openssl("pkeyutl", "-sign", "-inkey", keys.private, "-rawin", "-in", message)
    (key,) = load_public_keys(keys.pem)
    assert key.verifies(signature, b"any bytes")
    assert not key.verifies(signature, b"other bytes")
    assert not key.verifies(signature[:-1], b"any bytes")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "an RSA key, not Ed25519"),
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "an EC key, not Ed25519"),
        (("-algorithm", "X25519"), "an X25519 key, not Ed25519"),
        (("-algorithm", "X448"), "an X448 key, not Ed25519"),
        (("-algorithm", "ED448"), "not the SubjectPublicKeyInfo of an Ed25519 key"),
    ],
)
def test_other_kinds_of_key_in_every_form(keys: Keys, arguments: tuple[str, ...], said: str) -> None:
    pem = keys.public(*arguments)
    der = base64.b64decode("".join(pem.split("\n")[1:-2]))
    for text in (pem, base64_of(der), keys.file("other.pub", pem), keys.file("other.b64", base64_of(der))):
        assert said in problem(text)


def test_an_rsa_key_in_its_own_pem(keys: Keys) -> None:
    private = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    assert "RSA PUBLIC KEY" in problem(openssl("rsa", "-RSAPublicKey_out", data=private).decode())


@pytest.mark.parametrize("algorithm", ["ed25519", "RSA", "X25519"])
def test_a_private_key_is_refused_and_never_repeated(keys: Keys, algorithm: str) -> None:
    pem = openssl("genpkey", "-algorithm", algorithm).decode()
    encrypted = openssl("pkey", "-aes256", "-passout", "pass:secret", data=pem.encode()).decode()
    der = base64_of(openssl("pkey", "-outform", "DER", data=pem.encode()))
    encrypted_der = base64_of(base64.b64decode("".join(encrypted.split("\n")[1:-2])))
    assert "ENCRYPTED" in encrypted
    files = [keys.file("oops.key", pem), keys.file("oops.b64", der)]
    for text in (pem, encrypted, der, encrypted_der, *files, keys.pem + pem, f"{keys.pem},{pem}", in_pem_of(der)):
        said = problem(text)
        assert "private key" in said
        assert not any(line in said for line in (*pem.split("\n")[1:-2], der[:40]))


def in_pem_of(text: str) -> str:
    return in_pem(base64.b64decode(text))


@pytest.mark.parametrize("first", [0x00, 0x30, 0xFC, 0xFF])  # in base64: A, M, / and, for addresses, _
def test_bare_bytes_may_be_a_private_key_and_are_never_repeated(keys: Keys, first: int) -> None:
    seed = bytes([first]) + openssl("pkey", "-in", keys.private, "-outform", "DER")[-31:]
    for text in (base64_of(seed), seed.hex(), base64_of(seed).rstrip("="), base64.urlsafe_b64encode(seed).decode()):
        assert text not in problem(text)
    assert "32 bytes without the DER" in problem(base64_of(seed))


def test_private_keys_of_other_forms(keys: Keys) -> None:
    ec = openssl("ecparam", "-name", "prime256v1", "-genkey").decode()
    assert "private key" in problem(ec)
    rsa = openssl("genpkey", "-algorithm", "RSA")
    assert "private key" in problem(openssl("rsa", "-traditional", data=rsa).decode())
    old = openssl("rsa", "-traditional", "-aes128", "-passout", "pass:secret", data=rsa).decode()
    assert "DEK-Info" in old
    assert "private key" in problem(old)  # its header has commas


def test_32_bytes_without_der(keys: Keys) -> None:
    assert "32 bytes without the DER" in problem(base64_of(keys.raw))
    assert "32 bytes without the DER" in problem(in_pem(keys.raw))
    assert "32 bytes without the DER" in problem(keys.file("raw.b64", base64_of(keys.raw)))
    assert "binary" in problem(keys.file("raw.bin", b"\xff" + keys.raw[1:]))


def test_two_keys_in_one_file_or_block(keys: Keys) -> None:
    one, two = base64_of(keys.der), keys.pem + keys.pem
    assert "more than one PEM block" in problem(two)
    assert "more than one PEM block" in problem(keys.file("two.pub", two))
    assert "something follows the key" in problem(in_pem(keys.der + keys.der))
    assert "something follows the key" in problem(base64_of(keys.der + keys.der))
    assert "not base64 of one key" in problem(keys.pem.replace("-----END", f"{one}\n-----END"))
    assert "neither PEM nor base64" in problem(keys.file("two.b64", f"{one}\n{one}\n"))
    assert "neither PEM nor base64" in problem(keys.file("list.b64", f"{one},{one}\n"))
    assert "nothing around it" in problem(keys.file("mixed.pub", f"{one}\n{keys.pem}"))


def test_a_certificate(keys: Keys) -> None:
    certificate = openssl("req", "-x509", "-new", "-key", keys.private, "-subj", "/CN=vendor", "-days", "9").decode()
    assert "a certificate" in problem(certificate)
    assert "a certificate" in problem(keys.file("vendor.crt", certificate))
    der = openssl("x509", "-outform", "DER", data=certificate.encode())
    assert "not the SubjectPublicKeyInfo" in problem(base64_of(der))
    request = openssl("req", "-new", "-key", keys.private, "-subj", "/CN=vendor").decode()
    assert "CERTIFICATE" in request
    assert "a certificate" in problem(request)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order(keys: Keys, point: str) -> None:
    raw = bytes.fromhex(point)
    assert "low order" in problem(spki(raw))
    assert "low order" in problem(in_pem(PREFIX + raw))
    Ed25519PublicKey.from_public_bytes(raw)  # which the library takes


@pytest.mark.parametrize("point", NOT_CANONICAL)
def test_a_point_that_is_not_canonical(point: str) -> None:
    assert "not written canonically" in problem(spki(bytes.fromhex(point)))


def test_every_y_that_is_too_large() -> None:
    for y in range(P, 2**255):
        for sign in (0, 1 << 255):
            assert point_problem((y | sign).to_bytes(32, "little")) == "its point is not written canonically"


def test_a_point_that_is_not_on_the_curve() -> None:
    assert "not on the curve" in problem(spki((2).to_bytes(32, "little")))


def test_the_keys_of_openssl_are_good_points() -> None:
    for _ in range(5):
        pem = openssl("pkey", "-pubout", data=openssl("genpkey", "-algorithm", "ed25519")).decode()
        assert (
            load_public_keys(pem)[0].key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) == pem.encode()
        )


@pytest.mark.parametrize("text", ["", " ", "\n\t", ",", "a,"])
def test_empty(text: str) -> None:
    assert "license public key" in problem(text)


@pytest.mark.parametrize(
    "text",
    ["\0", "\ud800", "x", "../../..", "-----BEGIN PUBLIC KEY-----", "-----", "MCow", "é", "A" * 2_000_000, "M=M="],
)
def test_what_is_no_key_at_all(text: str) -> None:
    assert len(problem(text)) < 600


def test_der_written_another_way(keys: Keys) -> None:
    long_length = bytes.fromhex("30812a") + keys.der[2:]
    null_parameters = bytes.fromhex("302c300706032b65700500032100") + keys.raw
    unused_bits = keys.der[:11] + b"\x01" + keys.raw
    for der in (long_length, null_parameters, unused_bits, keys.der[:-1], keys.der[:12], keys.der[:1]):
        problem(base64_of(der))
        problem(in_pem(der))


def test_base64_that_is_not_canonical(keys: Keys) -> None:
    one = base64_of(keys.der)
    assert one.endswith("=")
    for text in (
        one.rstrip("="),
        one + "=",
        one[:-2] + chr(ord(one[-2]) + 1) + "=",
        f"-{one}",
        one.replace("M", "é", 1),
    ):
        problem(text)


def test_text_around_the_pem_block(keys: Keys) -> None:
    for text in (
        f"x{keys.pem}",
        f"# vendor\n{keys.pem}",
        f"{keys.pem}x",
        keys.pem.replace("END PUBLIC", "END PRIVATE"),
    ):
        problem(text)


class TestFiles:
    """A path that leads to no key says so, with the path."""

    def test_missing(self, tmp_path: Path) -> None:
        assert problem(f"{tmp_path}/no.pub") == (
            f"license public key 1 ({tmp_path}/no.pub): it is neither PEM nor base64 of DER, "
            "and as a file: No such file or directory"
        )

    def test_directory(self, tmp_path: Path) -> None:
        assert problem(str(tmp_path)) == f"license public key 1 ({tmp_path}): it is not a file"

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty.pub").write_text(" \n")
        assert "the file is empty" in problem(f"{tmp_path}/empty.pub")

    def test_huge(self, tmp_path: Path) -> None:
        with (tmp_path / "huge.pub").open("wb") as file:
            file.truncate(2**30)
        assert "longer than 65536 bytes" in problem(f"{tmp_path}/huge.pub")

    def test_binary(self, keys: Keys) -> None:
        assert "the file is binary" in problem(keys.file("vendor.der", keys.der))
        assert "the file is binary" in problem(keys.file("bom.pub", b"\xef\xbb\xbf" + keys.pem.encode()))

    def test_a_pipe_that_nobody_writes_to(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "it is not a file" in problem(f"{tmp_path}/pipe")

    def test_a_device(self) -> None:
        assert "it is not a file" in problem("/dev/zero")

    def test_a_link_to_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("gone")
        assert "No such file" in problem(f"{tmp_path}/link")

    def test_a_file_that_names_a_file(self, keys: Keys) -> None:
        problem(keys.file("again", keys.file("vendor.pub", keys.pem)))

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        problem(str(tmp_path))
        problem("/dev/zero")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("place", [1, 2, 3])
def test_one_bad_key_in_a_list_is_named(keys: Keys, place: int) -> None:
    entries = [keys.pem] * 2
    entries.insert(place - 1, spki(bytes.fromhex(LOW_ORDER[0])))
    assert problem(",".join(entries)).startswith(f"license public key {place}: ")
    entries[place - 1] = ""
    assert problem(",".join(entries)) == f"license public key {place}: it is empty"


def test_a_relative_path_counts_from_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    long = "vendor-" + "a" * 60  # as long as a key
    for name in ("vendor.pub", long):
        (folder / name).write_text(public_pem(private_key(0)))
    (folder / "clavitor.toml").write_text(
        f'tenant_id = "acme-corp"\n[plugins.licensing]\npublic_key = "vendor.pub, {long}"\n'
    )
    monkeypatch.chdir(elsewhere)
    read = load({"config": str(folder / "clavitor.toml")}, {"licensing": LicensingConfig}, {}, elsewhere)
    config = LicensingConfig.model_validate(read.plugin_tables["licensing"])
    assert config.public_key == f"{folder}/vendor.pub,{folder}/{long}"
    base64 = "".join(public_pem(private_key(0)).splitlines()[1:-1])
    for whole in (public_pem(private_key(0)), base64, f"/x/y.pub,{base64}", "", "\0", base64[:-3]):
        assert relative_to(whole, folder) == whole.strip()
