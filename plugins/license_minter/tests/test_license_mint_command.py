"""LicenseMinterCliTest of the seed's section 10: the command as a process, with keys that openssl made."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from clavitor_license_minter.cli import main
from clavitor_license_minter.times import parse_expires
from clavitor_licensing.domain.canonical import encode_token, split_token
from clavitor_licensing.domain.info import LicenseInfo
from clavitor_licensing.domain.keys import load_public_keys
from clavitor_licensing.domain.limits import LIMITS
from clavitor_licensing.domain.validator import LicenseValidator
from clavitor_licensing_testing.support import openssl, private_key, signed

YEAR = str(datetime.now(UTC).year + 1)
COMMAND = [sys.executable, "-m", "clavitor_license_minter"]


class Vendor:
    """A folder with the vendor's keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "vendor.key"
        self.pub = folder / "vendor.pub"
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.key)
        openssl("pkey", "-in", self.key, "-pubout", "-out", self.pub)
        self.other = folder / "other.key"
        self.other_pub = folder / "other.pub"
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.other)
        openssl("pkey", "-in", self.other, "-pubout", "-out", self.other_pub)

    def flags(self, *more: str) -> list[str]:
        return [f"--private-key={self.key}", "--tenant=acme-corp", f"--expires={YEAR}-04-25", *more]

    def read(self, token: str) -> LicenseInfo:
        return LicenseValidator(load_public_keys(str(self.pub)), "acme-corp").validate(token, int(time.time()))


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    return Vendor(tmp_path_factory.mktemp("vendor"))


def run(*arguments: str | Path, data: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=data, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


class Ran:
    """What the command did within this process."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def called(*arguments: str | Path) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        return Ran(code, *capsys.readouterr())

    return called


class TestAsAProcess:
    """The main paths, with nothing but arguments, files and exit codes."""

    def test_the_line_of_the_seed(self, vendor: Vendor, tmp_path: Path) -> None:
        output = tmp_path / "acme-license.tok"
        ran = run(
            *vendor.flags(f"--public-key={vendor.pub}", "--label=ACME prod 2026", "--grace-days=30", "--max-apps=50"),
            *("--max-agents=100", "--max-total-cpu-millis=32000", "--max-total-memory-mb=65536"),
            *("--max-execution-retention-days=90", f"--output={output}", "--verify"),
        )
        assert (ran.returncode, ran.stdout) == (0, "")
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        info = vendor.read(output.read_text())
        assert info.label == "ACME prod 2026"
        assert info.grace_period_days == 30
        assert dict(info.limits.explicit) == {
            "max_apps": 50,
            "max_agents": 100,
            "max_total_cpu_millis": 32000,
            "max_total_memory_mb": 65536,
            "max_execution_retention_days": 90,
        }
        assert info.exp == datetime(int(YEAR), 4, 26, tzinfo=UTC).timestamp()
        assert abs(info.iat - time.time()) < 60
        assert UUID(info.license_id).version == 4
        for understood in (
            "acme-corp",
            "ACME prod 2026",
            f"{YEAR}-04-26T00:00:00Z, the end of {YEAR}-04-25",
            "30 days",
            "max_apps=50",
            "verified",
        ):
            assert understood in ran.stderr
        assert os.listdir(tmp_path) == ["acme-license.tok"]  # noqa: PTH208

    def test_without_output_the_token_alone_is_on_standard_output(self, vendor: Vendor) -> None:
        ran = run(*vendor.flags("--verify", "--public-key", str(vendor.pub)))
        assert ran.returncode == 0
        assert ran.stdout.count("\n") == 1
        assert vendor.read(ran.stdout).limits.explicit == {}

    def test_verify_with_the_wrong_public_key(self, vendor: Vendor, tmp_path: Path) -> None:
        output = tmp_path / "bad.tok"
        ran = run(*vendor.flags("--verify", f"--public-key={vendor.other_pub}", f"--output={output}"))
        assert ran.returncode == 1
        assert ran.stdout == ""
        assert "License signature verification failed" in ran.stderr
        assert list(tmp_path.iterdir()) == []
        ran = run(*vendor.flags("--verify", f"--public-key={vendor.other_pub}"))
        assert (ran.returncode, ran.stdout) == (1, "")

    def test_inspect_and_renew_through_standard_input(self, vendor: Vendor) -> None:
        token = run(*vendor.flags("--label=ACME — prod", "--max-users=7")).stdout
        seen = run("inspect", "-", f"--public-key={vendor.pub}", data=token)
        assert seen.returncode == 0
        assert "ACME — prod" in seen.stdout
        assert "state now: ACTIVE. License active." in seen.stdout
        assert "signature: right" in seen.stdout
        ran = run(f"--private-key={vendor.key}", "--from=-", f"--expires={YEAR}-12-31", data=token)
        assert vendor.read(ran.stdout).limits.explicit == {"max_users": 7}

    def test_a_terminal_that_cannot_show_the_label(self, vendor: Vendor) -> None:
        ran = run(*vendor.flags("--label=ACME — prod"), LC_ALL="C.UTF-8", PYTHONIOENCODING="ascii:strict")
        assert ran.returncode == 0
        assert "ACME \\u2014 prod" in ran.stderr

    def test_an_unknown_flag(self, vendor: Vendor, tmp_path: Path) -> None:
        output = tmp_path / "new.tok"
        ran = run(*vendor.flags(f"--output={output}", "--max-unicorns=5"))
        assert ran.returncode == 2
        assert "unknown flag: --max-unicorns" in ran.stderr
        assert not output.exists()

    def test_it_needs_neither_host_nor_typer(self) -> None:
        code = (
            "import sys\n"
            "for name in ('clavitor_host', 'typer', 'pydantic', 'quart', 'loguru'): sys.modules[name] = None\n"
            "from clavitor_license_minter.cli import main; from clavitor_license_minter import inspecting, minting\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_openssl_verifies_what_is_minted(vendor: Vendor, tmp_path: Path) -> None:
    payload, signature = split_token(run(*vendor.flags()).stdout)
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "signature").write_bytes(signature)
    files: list[str | Path] = ["-in", tmp_path / "payload", "-sigfile", tmp_path / "signature"]
    said = openssl("pkeyutl", "-verify", "-pubin", "-inkey", vendor.pub, "-rawin", *files)
    assert b"Signature Verified Successfully" in said


def test_flag_and_value_with_and_without_equals(vendor: Vendor, call: Callable[..., Ran]) -> None:
    joined = vendor.flags("--label=A B", "--max-users=7")
    apart = [part for flag in joined for part in flag.split("=", 1)]
    for flags in (joined, apart):
        info = vendor.read(call(*flags).out)
        assert (info.label, dict(info.limits.explicit)) == ("A B", {"max_users": 7})


def test_there_is_a_flag_for_every_limit(vendor: Vendor, call: Callable[..., Ran]) -> None:
    flags = [f"--{limit.replace('_', '-')}={number}" for number, limit in enumerate(LIMITS)]
    info = vendor.read(call(*vendor.flags(*flags)).out)
    assert dict(info.limits.explicit) == {limit: number for number, limit in enumerate(LIMITS)}


def test_the_id_may_be_given(vendor: Vendor, call: Callable[..., Ran]) -> None:
    given = "550E8400-e29b-41d4-a716-446655440000"
    assert vendor.read(call(*vendor.flags(f"--license-id={given}")).out).license_id == given.lower()


@pytest.mark.parametrize(
    ("text", "understood"),
    [
        ("2027-04-25", "2027-04-26T00:00:00+00:00"),
        ("2028-02-29", "2028-03-01T00:00:00+00:00"),
        ("9999-12-31", "9999-12-31T23:59:59+00:00"),
        ("2027-04-25T12:30:00Z", "2027-04-25T12:30:00+00:00"),
        ("2027-04-25T12:30Z", "2027-04-25T12:30:00+00:00"),
        ("2027-04-25t12:30:00z", "2027-04-25T12:30:00+00:00"),
        ("2027-04-25 00:00:00+02:00", "2027-04-24T22:00:00+00:00"),
        ("2027-04-25T23:00:00-05:30", "2027-04-26T04:30:00+00:00"),
    ],
)
def test_expires(text: str, understood: str) -> None:
    assert datetime.fromtimestamp(parse_expires(text), UTC).isoformat() == understood


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "2027", "2027-4-25", "20270425", "2027-W16-7", "2027-02-29", "2027-13-01", "2027-04-25T12:00:00"),
        *("2027-04-25T24:00:00Z", "2027-04-25T12:00:00.5Z", "25.04.2027", "1808697599", " 2027-04-25", "2027-04-25\n"),
        *("2027-04-2\u0665", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-01:00", "2027-04-25Z"),
    ],
)
def test_expires_that_is_not_clear(text: str, vendor: Vendor, call: Callable[..., Ran]) -> None:
    ran = call(*vendor.flags()[:2], f"--expires={text}")
    assert ran.code != 0
    assert "--expires" in ran.err


@pytest.mark.parametrize("text", ["2020-01-01", "2020-01-01T00:00:00Z", "1960-01-01"])
def test_expires_that_is_over(text: str, vendor: Vendor, call: Callable[..., Ran]) -> None:
    ran = call(*vendor.flags()[:2], f"--expires={text}")
    assert (ran.code, ran.out) == (1, "")
    assert "--expires is over" in ran.err


def test_expires_and_grace_beyond_the_year_9999(vendor: Vendor, call: Callable[..., Ran]) -> None:
    ran = call(*vendor.flags()[:2], "--expires=9999-12-31", "--grace-days=1")
    assert ran.code == 1
    assert "9999" in ran.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tenant="], "--tenant"),
        (["--tenant=a b"], "--tenant"),
        (["--label=" + "a" * 201], "--label"),
        (["--label=a\nb"], "--label"),
        (["--grace-days=366"], "--grace-days"),
        (["--grace-days=-1"], "--grace-days"),
        (["--grace-days=1.5"], "--grace-days"),
        (["--max-apps=-1"], "--max-apps"),
        (["--max-apps", "-1"], "--max-apps"),
        (["--max-apps=2147483648"], "--max-apps"),
        (["--max-apps=1_0"], "--max-apps"),
        (["--max-apps= 1"], "--max-apps"),
        (["--max-apps=\u0661"], "--max-apps"),
        (["--max-apps="], "--max-apps"),
        (["--max-apps"], "--max-apps"),
        (["--max-app=5"], "unknown flag: --max-app (did you mean --max-apps?)"),
        (["--expire=x"], "unknown flag: --expire (did you mean --expires?)"),
        (["--gen-keypair"], "unknown flag: --gen-keypair"),
        (["-v"], "unknown flag: -v"),
        (["word"], "an argument too many"),
        (["--max-apps=1", "--max-apps=2"], "--max-apps is given twice"),
        (["--license-id=x"], "--license-id"),
        (["--verify"], "--verify needs --public-key"),
        (["--verify=yes"], "--verify"),
    ],
)
def test_arguments_that_are_wrong(flags: list[str], said: str, vendor: Vendor, call: Callable[..., Ran]) -> None:
    names = {flag.split("=")[0] for flag in flags}
    base = [flag for flag in vendor.flags() if flag.split("=")[0] not in names]
    ran = call(*base, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize("missing", ["--private-key", "--tenant", "--expires"])
def test_a_flag_that_is_required(missing: str, vendor: Vendor, call: Callable[..., Ran]) -> None:
    ran = call(*(flag for flag in vendor.flags() if not flag.startswith(missing)))
    assert ran.code == 2
    assert f"missing: {missing}" in ran.err


def test_the_public_key_is_ignored_without_verify(vendor: Vendor, call: Callable[..., Ran]) -> None:
    assert call(*vendor.flags("--public-key=/no/such/file")).code == 0
    ran = call(*vendor.flags("--public-key=/no/such/file", "--verify"))
    assert ran.code == 1
    assert "/no/such/file" in ran.err


def test_help_names_every_flag(call: Callable[..., Ran]) -> None:
    ran = call("--help")
    assert ran.code == 0
    for limit in LIMITS:
        assert f"--{limit.replace('_', '-')}" in ran.out
    assert "inspect" in ran.out
    assert call("inspect", "--help").code == 0


class TestOutput:
    """The file is new, whole, and for the vendor's eyes."""

    def test_mode_0600_whatever_the_umask(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        for umask in (0, 0o777):
            old = os.umask(umask)
            try:
                assert call(*vendor.flags(f"--output={tmp_path / oct(umask)}")).code == 0
            finally:
                os.umask(old)
            assert stat.S_IMODE((tmp_path / oct(umask)).stat().st_mode) == 0o600

    def test_what_is_there_is_not_overwritten(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        output = tmp_path / "license.tok"
        output.write_text("precious")
        dangling = tmp_path / "link"
        dangling.symlink_to("nothing")
        for path in (output, dangling, tmp_path):
            for more in ([], ["--verify", f"--public-key={vendor.other_pub}"]):
                ran = call(*vendor.flags(f"--output={path}", *more))
                assert ran.code == 1
                assert "is there already" in ran.err
        assert output.read_text() == "precious"
        assert dangling.is_symlink()
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_folder_that_is_not_there(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        ran = call(*vendor.flags(f"--output={tmp_path}/no/license.tok"))
        assert ran.code == 1
        assert "No such file or directory" in ran.err

    def test_a_write_that_fails_leaves_nothing(
        self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        ran = call(*vendor.flags(f"--output={tmp_path}/license.tok"))
        assert ran.code == 1
        assert "No space left" in ran.err
        assert list(tmp_path.iterdir()) == []

    def test_verify_reads_the_file_back(
        self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from clavitor_license_minter import minting

        def damaged(path: Path, text: str) -> None:
            path.write_text(text[:-9])

        monkeypatch.setattr(minting, "write_new", damaged)
        ran = call(*vendor.flags(f"--output={tmp_path}/license.tok", "--verify", f"--public-key={vendor.pub}"))
        assert ran.code == 1
        assert "License token is malformed" in ran.err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("output", [".", "/", "..", "./", ""])
    def test_what_names_no_file(self, vendor: Vendor, output: str) -> None:
        ran = run(*vendor.flags(f"--output={output}"))
        assert ran.returncode in (1, 2)
        assert ran.stdout == ""
        assert ran.stderr.startswith("error: ")
        assert "Traceback" not in ran.stderr

    @pytest.mark.parametrize("command", ["mint", "inspect"])
    def test_standard_output_that_cannot_be_written(self, vendor: Vendor, old: str, command: str) -> None:
        arguments = vendor.flags() if command == "mint" else ["inspect", old]
        for redirected, said in ((">/dev/full", "No space left on device"), (">&-", "standard output is closed")):
            shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", *COMMAND, *arguments]
            ran = subprocess.run(shell, capture_output=True, text=True, check=False)
            assert ran.returncode == 1, redirected
            (line,) = ran.stderr.splitlines()
            assert line.startswith("error: ") and said in line

    def test_nothing_is_called_done_before_it_is(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        ran = call(*vendor.flags("--verify", f"--public-key={vendor.other_pub}"))
        assert len(ran.err.splitlines()) == 1

    def test_a_license_that_lifts_nothing_is_warned_about(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        assert "warning: no --max-… is given" in call(*vendor.flags()).err
        assert "warning" not in call(*vendor.flags("--max-users=0")).err

    def test_a_dash_is_standard_output(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        assert vendor.read(call(*vendor.flags("--output=-")).out)


class TestPrivateKey:
    """PEM of one Ed25519 key, or nothing; whatever is given is never printed."""

    def refused(self, call: Callable[..., Ran], key: str | Path, *more: str, secret: str = "") -> str:
        ran = call(f"--private-key={key}", "--tenant=a", f"--expires={YEAR}-01-01", *more)
        assert (ran.code, ran.out) == (1, "")
        for line in secret.split("\n"):
            assert len(line) < 20 or line.startswith("---") or line not in ran.err
        return ran.err

    def test_encrypted(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        locked, passphrase = tmp_path / "locked.key", tmp_path / "passphrase"
        openssl("pkey", "-in", vendor.key, "-aes256", "-passout", "pass:correct horse", "-out", locked)
        flags = [f"--private-key={locked}", *vendor.flags()[1:]]
        for line in ("correct horse", "correct horse\n", "correct horse\r\nmore"):
            passphrase.write_text(line, newline="")
            assert vendor.read(call(*flags, f"--passphrase-file={passphrase}").out)
        passphrase.write_text("wrong")
        assert "does not open it" in self.refused(call, locked, f"--passphrase-file={passphrase}")
        passphrase.write_text("\n")
        assert "empty" in self.refused(call, locked, f"--passphrase-file={passphrase}")
        assert "give --passphrase-file" in self.refused(call, locked)
        assert "not encrypted" in self.refused(call, vendor.key, f"--passphrase-file={passphrase}")
        assert "hunter2" not in self.refused(call, locked, "--passphrase-file=hunter2")

    @pytest.mark.parametrize("algorithm", ["RSA", "X25519", "ED448"])
    def test_another_kind(self, algorithm: str, call: Callable[..., Ran], tmp_path: Path) -> None:
        openssl("genpkey", "-algorithm", algorithm, "-out", tmp_path / "key")
        secret = (tmp_path / "key").read_text()
        assert "another kind of key" in self.refused(call, tmp_path / "key", secret=secret)

    def test_an_ec_key_with_its_parameters(self, call: Callable[..., Ran], tmp_path: Path) -> None:
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-out", tmp_path / "key")
        assert "expected PEM of one Ed25519" in self.refused(call, tmp_path / "key")

    def test_what_is_no_private_key(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        pem = vendor.key.read_text()
        der = openssl("pkey", "-in", vendor.key, "-outform", "DER")
        contents = [b"", b"x", vendor.pub.read_bytes(), pem.encode() * 2, der, pem[:60].encode(), pem.encode()[:-40]]
        contents.append(pem.replace("MC4", "MC5").encode())
        for content in contents:
            (tmp_path / "key").write_bytes(content)
            assert "expected PEM of one Ed25519" in self.refused(call, tmp_path / "key", secret=pem)

    def test_the_key_itself_in_the_place_of_its_path(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        pem = vendor.key.read_text()
        for text in (pem, pem.split("\n")[1]):
            assert "cannot read --private-key" in self.refused(call, text, secret=pem)

    def test_no_file(self, call: Callable[..., Ran], tmp_path: Path) -> None:
        assert f"--private-key {tmp_path}/no: No such file" in self.refused(call, tmp_path / "no")
        assert "--private-key wendor.key: No such file" in self.refused(call, "wendor.key")
        assert "directory" in self.refused(call, tmp_path)
        assert "cannot read" in self.refused(call, "\0")
        with (tmp_path / "huge").open("wb") as file:
            file.truncate(2**30)
        assert "longer than" in self.refused(call, tmp_path / "huge")

    def test_standard_input_is_read_once(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        assert vendor.read(run("--private-key=-", *vendor.flags()[1:], data=vendor.key.read_text()).stdout)
        assert call("--private-key=-", "--from=-", f"--expires={YEAR}-01-01").code == 2

    def test_it_is_never_printed(self, vendor: Vendor, tmp_path: Path) -> None:
        body = vendor.key.read_text().split("\n")[1]
        for more in ([], ["--verify", f"--public-key={vendor.other_pub}"], [f"--output={tmp_path}"], ["--bad"]):
            ran = run(*vendor.flags(*more))
            assert body not in ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def old(vendor: Vendor) -> str:
    flags = vendor.flags("--label=ACME", "--grace-days=14", "--max-apps=50", "--max-users=7")
    return run(*flags).stdout.strip()


class TestRenewal:
    """`--from`: the same license with another id and other dates."""

    def renew(self, vendor: Vendor, call: Callable[..., Ran], old: str, *more: str) -> Ran:
        return call(f"--private-key={vendor.key}", f"--from={old}", f"--expires={YEAR}-12-31", *more)

    def test_the_same_but_id_and_dates(self, vendor: Vendor, call: Callable[..., Ran], old: str) -> None:
        before, ran = vendor.read(old), self.renew(vendor, call, old, "--verify", f"--public-key={vendor.pub}")
        after = vendor.read(ran.out)
        assert after == before._replace(license_id=after.license_id, iat=after.iat, exp=after.exp)
        assert after.license_id != before.license_id
        assert after.iat >= before.iat
        assert after.exp == parse_expires(f"{YEAR}-12-31")
        assert before.license_id in ran.err

    def test_from_a_file(self, vendor: Vendor, call: Callable[..., Ran], old: str, tmp_path: Path) -> None:
        (tmp_path / "old.tok").write_text(f"{old[:70]}\n{old[70:]}\n")
        assert vendor.read(self.renew(vendor, call, str(tmp_path / "old.tok")).out).label == "ACME"

    def test_single_values_may_be_others(self, vendor: Vendor, call: Callable[..., Ran], old: str) -> None:
        ran = self.renew(vendor, call, old, "--max-users=9", "--max-agents=1", "--grace-days=0", "--label=New")
        info = vendor.read(ran.out)
        assert dict(info.limits.explicit) == {"max_apps": 50, "max_users": 9, "max_agents": 1}
        assert (info.grace_period_days, info.label) == (0, "New")

    def test_the_tenant_and_the_id(self, vendor: Vendor, call: Callable[..., Ran], old: str) -> None:
        assert self.renew(vendor, call, old, "--tenant=acme-corp").code == 0
        assert "for the tenant acme-corp" in self.renew(vendor, call, old, "--tenant=beta").err
        assert "another id" in self.renew(vendor, call, old, f"--license-id={vendor.read(old).license_id}").err

    def test_only_what_the_vendor_signed_is_renewed(self, vendor: Vendor, call: Callable[..., Ran], old: str) -> None:
        payload, signature = split_token(old)
        raised = encode_token(payload.replace(b'"max_users":7', b'"max_users":70000'), signature)
        assert raised != old
        for token in (raised, signed(payload, private_key(3))):
            ran = self.renew(vendor, call, token)
            assert (ran.code, ran.out) == (1, "")
            assert "--from: License signature verification failed" in ran.err

    def test_after_a_rotation_the_old_public_key_is_named(
        self, vendor: Vendor, call: Callable[..., Ran], old: str
    ) -> None:
        flags = [f"--private-key={vendor.other}", f"--from={old}", f"--expires={YEAR}-12-31"]
        assert call(*flags).code == 1
        ran = call(*flags, f"--public-key={vendor.other_pub},{vendor.pub}", "--verify")
        assert ran.code == 0
        assert LicenseValidator(load_public_keys(str(vendor.other_pub)), "acme-corp").validate(
            ran.out, int(time.time())
        )

    def test_an_expired_license_and_fields_nobody_knows(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        key = load_pem_private_key(vendor.key.read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        fields = {"licenseId": "550e8400-e29b-41d4-a716-446655440000", "tenantId": "acme-corp", "iat": 1, "exp": 2}
        ran = self.renew(vendor, call, signed({**fields, "features": [], "limits": {"max_x": 1}}, key))
        assert "left out, as no server reads it: features, limits.max_x" in ran.err
        assert vendor.read(ran.out).payload().keys() == {*fields, "gracePeriodDays"}

    @pytest.mark.parametrize("old_token", ["", "x", "/no/such", "\0", "a" * 5000])
    def test_what_is_no_license(self, old_token: str, vendor: Vendor, call: Callable[..., Ran]) -> None:
        ran = self.renew(vendor, call, old_token)
        assert ("/no/such" in ran.err) == (old_token == "/no/such")
        assert (ran.code, ran.out) == (1, "")
        assert len(ran.err) < 300


class TestInspect:
    """What a license says, what it is worth, and whether its signature is right."""

    def test_a_token_a_file_and_without_a_key(self, vendor: Vendor, call: Callable[..., Ran], tmp_path: Path) -> None:
        token = call(*vendor.flags("--grace-days=1", "--max-users=7")).out.strip()
        (tmp_path / "license.tok").write_text(token)
        outputs = {call("inspect", given).out for given in (token, tmp_path / "license.tok")}
        (out,) = outputs
        shown, _, rest = out.partition("\n}\n")
        assert json.loads(shown + "}") == vendor.read(token).payload()
        assert "signature: not checked" in rest
        assert "state now: ACTIVE" in rest

    def test_a_signature_that_is_wrong(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        token = call(*vendor.flags()).out.strip()
        ran = call("inspect", token, f"--public-key={vendor.other_pub}")
        assert ran.code == 1
        assert "signature: WRONG" in ran.out
        assert "state now: INVALID. License rejected: License signature verification failed." in ran.out
        assert call("inspect", token, f"--public-key={vendor.other_pub},{vendor.pub}").code == 0

    @pytest.mark.parametrize(("ago", "state"), [(2 * 86_400, "EXPIRED"), (5, "GRACE")])
    def test_the_state_now(self, ago: int, state: str, call: Callable[..., Ran]) -> None:
        exp = int(time.time()) - ago
        fields = {"licenseId": "550e8400-e29b-41d4-a716-446655440000", "tenantId": "a", "iat": 1, "exp": exp}
        assert f"state now: {state}." in call("inspect", signed({**fields, "gracePeriodDays": 1})).out

    def test_what_it_shows_cannot_write_over_the_terminal(self, call: Callable[..., Ran]) -> None:
        fields = {"licenseId": "550e8400-e29b-41d4-a716-446655440000", "tenantId": "a", "iat": 1, "exp": 2}
        out = call("inspect", signed({**fields, "x\x1b[2J\u202e": "\x9b2J\u2028"})).out
        assert all(line.isprintable() and line.isascii() for line in out.split("\n"))
        assert "ignored:" in out

    def test_a_key_is_called_a_key(self, vendor: Vendor, call: Callable[..., Ran]) -> None:
        for key in (vendor.key, vendor.pub):
            ran = call("inspect", key)
            assert (ran.code, ran.out, ran.err) == (1, "", "error: that is a key (PEM), not a license\n")

    @pytest.mark.parametrize("token", ["", "x", "a.b", "\ud800", "/no/such"])
    def test_what_is_no_license(self, token: str, call: Callable[..., Ran]) -> None:
        ran = call("inspect", token)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("error: ")

    def test_a_payload_that_is_not_valid(self, call: Callable[..., Ran]) -> None:
        ran = call("inspect", signed({"exp": 1}))
        assert ran.code == 1
        assert "licenseId is missing" in ran.err

    def test_arguments(self, call: Callable[..., Ran]) -> None:
        assert call("inspect").code == 2
        assert call("inspect", "a", "b").code == 2
        assert call("inspect", "a", "--verify").code == 2
