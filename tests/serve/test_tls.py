"""TLS: handshakes, client certificates, reload, and the errors of bad files."""

from __future__ import annotations

import shutil
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clavitor_host.errors import StartError
from clavitor_host.serve.settings import TlsSettings
from clavitor_host.serve.tls import load_context
from tests.serve import certificates
from tests.serve.certificates import Pair
from tests.serve.running import Program

Start = Callable[..., Program]
Context = Callable[..., ssl.SSLContext]
Pki = dict[str, Pair]


def table(pair: Pair, **more: Any) -> dict[str, Any]:
    return {"certificate": str(pair.certificate), "key": str(pair.key), **{k: str(v) for k, v in more.items()}}


def test_tls_serves_over_http1(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"])})
    with program.connect(tls=tls_client()) as client:
        assert client.get("/scope").json() == {
            "client": ["127.0.0.1", client.sock.getsockname()[1]],
            "scheme": "https",
            "http_version": "1.1",
            "method": "GET",
            "peer_certificate": None,
        }
        assert client.get("/large").status == 200
        assert client.request("/echo", method="PUT", body=b"b" * 500_000).response().body == b"500000"


def test_head_and_body_leave_in_one_record(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"])})
    with program.connect(tls=tls_client()) as client:
        client.request()
        assert client.sock.recv(65536).endswith(b"hello world\n")  # a TLS read returns one record


def test_tls_below_12_is_refused(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"])})
    context = tls_client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        program.connect(tls=context)
    with program.connect(tls=tls_client()) as client:
        assert client.get().status == 200


def test_alpn_offers_both(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"])})
    for alpn in ("h2", "http/1.1"):
        with program.connect(tls=tls_client(alpn=(alpn,))) as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.selected_alpn_protocol() == alpn


def test_a_client_certificate_reaches_the_scope(start: Start, pki: Pki, tls_client: Context) -> None:
    tls = table(pki["server"], client_ca=pki["ca"].certificate, client_certificates="optional")
    program = start(settings={"tls": tls})
    with program.connect(tls=tls_client("client")) as client:
        certificate = client.get("/scope").json()["peer_certificate"]
        assert [["commonName", "client"]] in certificate["subject"]
    with program.connect(tls=tls_client()) as client:
        assert client.get("/scope").json()["peer_certificate"] is None


def test_a_required_client_certificate_must_come_from_the_ca(start: Start, pki: Pki, tls_client: Context) -> None:
    tls = table(pki["server"], client_ca=pki["ca"].certificate, client_certificates="required")
    program = start(settings={"tls": tls})
    with program.connect(tls=tls_client("client")) as client:
        assert client.get().status == 200
    for who in (None, "stranger"):
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)), program.connect(tls=tls_client(who)) as client:
            client.get()
    assert "ended" in program.names() or program.event("ended")
    assert program.stop() < 1.0
    assert program.errors == ""  # a failed handshake is the client's business


def test_a_handshake_that_never_comes_is_closed_and_counted(start: Start, pki: Pki) -> None:
    program = start(settings={"tls": table(pki["server"]), "tls_handshake_timeout": 0.4, "max_connections": 2})
    with program.connect() as one, program.connect() as two:
        began = time.monotonic()
        one.send(b"\x16\x03\x01")
        assert one.until_closed() in (b"", b"<RESET>")
        assert two.until_closed() in (b"", b"<RESET>")
        assert 0.3 < time.monotonic() - began < 1.5


def test_a_full_server_says_so_over_tls(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"]), "max_connections": 1})
    with program.connect(tls=tls_client()) as served:
        served.get()
        with program.connect(tls=tls_client()) as refused:
            assert refused.response().status == 503


def test_plain_text_on_a_tls_port_harms_nobody(start: Start, pki: Pki, tls_client: Context) -> None:
    program = start(settings={"tls": table(pki["server"])})
    with program.connect() as client:
        client.request()
        assert b"hello world" not in client.until_closed()
    with program.connect(tls=tls_client()) as client:
        assert client.get().status == 200
    program.stop()
    assert program.errors == ""


def test_sighup_takes_new_files_and_keeps_old_ones_when_the_new_are_bad(
    start: Start, pki: Pki, tls_client: Context, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"

    def install(pair: Pair, key_of: Pair) -> None:
        shutil.copy(pair.certificate, certificate)
        shutil.copy(key_of.key, key)

    def shown() -> str:
        with program.connect(tls=tls_client()) as client:
            client.get()
            assert isinstance(client.sock, ssl.SSLSocket)
            subject: Any = (client.sock.getpeercert() or {})["subject"]
            return str(subject[0][0][1])

    def reload_until(name: str) -> None:
        program.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 5
        while shown() != name and time.monotonic() < until:
            pass
        assert shown() == name

    install(pki["server"], pki["server"])
    program = start(settings={"tls": {"certificate": str(certificate), "key": str(key)}})
    with program.connect(tls=tls_client()) as before:
        assert shown() == "server"
        install(pki["other"], pki["server"])  # the key does not belong to it
        program.process.send_signal(signal.SIGHUP)
        assert shown() == "server"
        install(pki["other"], pki["other"])
        reload_until("other")
        assert before.get().status == 200
    program.stop()
    assert "TLS files were not reloaded" in program.errors
    assert "TLS files reloaded" in program.errors


# --- files


def load(certificate: Path, key: Path, **more: Any) -> ssl.SSLContext:
    return load_context(TlsSettings(certificate, key, **more))


@pytest.fixture
def server(pki: Pki) -> Pair:
    return pki["server"]


def test_a_missing_file_is_named(server: Pair, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"TLS certificate .*none\.pem cannot be read: No such file"):
        load(tmp_path / "none.pem", server.key)
    with pytest.raises(StartError, match=r"TLS key .*none\.key cannot be read: No such file"):
        load(server.certificate, tmp_path / "none.key")
    with pytest.raises(StartError, match=r"client CA .*none\.pem cannot be read"):
        load(server.certificate, server.key, client_ca=tmp_path / "none.pem", client_certificates="required")


def test_a_key_of_another_certificate_is_named(server: Pair, pki: Pki) -> None:
    with pytest.raises(StartError, match="does not belong to certificate"):
        load(server.certificate, pki["other"].key)


def test_an_encrypted_key_is_refused_without_asking(pki: Pki, tmp_path: Path) -> None:
    pair = certificates.make(tmp_path, "locked", pki["ca"], passphrase=b"secret")
    with pytest.raises(StartError, match="is encrypted; store it without a passphrase"):
        load(pair.certificate, pair.key)


def test_files_that_are_not_pem_are_named(server: Pair, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"\x30\x82 DER")
    with pytest.raises(StartError, match=r"junk\.pem holds no PEM certificate"):
        load(junk, server.key)
    with pytest.raises(StartError, match=r"junk\.pem holds no PEM private key"):
        load(server.certificate, junk)
    with pytest.raises(StartError, match=r"client CA .*junk\.pem holds no PEM certificate"):
        load(server.certificate, server.key, client_ca=junk, client_certificates="optional")


def test_client_certificates_need_a_ca(server: Pair) -> None:
    with pytest.raises(StartError, match="no client CA"):
        load(server.certificate, server.key, client_certificates="required")


def test_an_expired_certificate_serves_with_a_warning(start: Start, pki: Pki, tmp_path: Path) -> None:
    pair = certificates.make(tmp_path, "old", pki["ca"], days=-1)
    program = start(settings={"tls": table(pair)})
    program.stop()
    assert "The TLS certificate has expired" in program.errors


def test_bad_files_are_one_line_at_the_start(start: Start, pki: Pki) -> None:
    program = start(
        ready=False, settings={"tls": {"certificate": str(pki["server"].certificate), "key": "/nowhere/key.pem"}}
    )
    program.wait()
    assert program.errors == "error: StartError: TLS key /nowhere/key.pem cannot be read: No such file or directory.\n"
