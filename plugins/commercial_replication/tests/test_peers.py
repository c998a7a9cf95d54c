"""How POPs know each other: the bearer of the day, secrets that are replaced, certificates."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from clavitor_commercial_replication.config import ReplicationConfig
from clavitor_commercial_replication.peers import Secrets, by_credential, check_authorized, check_ca, pop_of
from clavitor_commercial_replication.service import Replication
from pydantic import SecretStr

from clavitor_host.api import ConfigError, Host, Identity, Problem, Request

DAY = 86_400 * 1_000_000
NOON = 20_000 * DAY + DAY // 2
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


def secrets(secret: str | None = ONE, *, previous: str | None = None, file: Path | None = None) -> Secrets:
    made = Secrets(
        ReplicationConfig(
            secret=None if secret is None else SecretStr(secret),
            previous_secret=None if previous is None else SecretStr(previous),
            secret_file=file,
        )
    )
    made.load()
    return made


def test_the_bearer_changes_with_the_utc_day_and_is_good_for_yesterday_and_tomorrow() -> None:
    known = secrets()
    token = known.bearer("calgary-01", NOON)
    assert token == secrets().bearer("calgary-01", NOON + DAY // 2 - 1)
    assert token != known.bearer("calgary-01", NOON + DAY // 2)
    for days, good in ((-2, False), (-1, True), (0, True), (1, True), (2, False)):
        assert known.verify(token, NOON + days * DAY) == ("calgary-01" if good else None)


def test_the_bearer_is_an_hmac_of_the_name_and_the_date() -> None:
    import hashlib
    import hmac

    expected = hmac.new(ONE.encode(), b"calgary-01\n2024-10-04", hashlib.sha256).hexdigest()
    assert secrets().bearer("calgary-01", 20_000 * DAY) == f"pop.calgary-01.{expected}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token.replace("calgary", "geneva"),
        lambda token: token[:-1],
        lambda token: token + "0",
        lambda token: token.upper(),
        lambda token: token[4:],
        lambda token: token.replace("pop.", "clv_"),
        lambda token: "pop.calgary-01." + "0" * 64,
        lambda token: "",
        lambda token: token[:-1] + "é",
    ],
)
def test_a_foreign_bearer_is_nobodys(spoil: Any) -> None:
    known = secrets()
    assert known.verify(spoil(known.bearer("calgary-01", NOON)), NOON) is None


def test_another_secret_makes_another_bearer() -> None:
    assert secrets(ONE).verify(secrets(TWO).bearer("calgary-01", NOON), NOON) is None


def test_two_secrets_are_good_while_one_is_replaced() -> None:
    both = secrets(TWO, previous=ONE)
    assert both.bearer("calgary-01", NOON) == secrets(TWO).bearer("calgary-01", NOON)
    for secret, good in ((ONE, True), (TWO, True), (THREE, False)):
        assert both.verify(secrets(secret).bearer("calgary-01", NOON), NOON) == ("calgary-01" if good else None)


def test_the_file_has_one_secret_or_two(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{TWO}\n{ONE}\n")
    known = secrets(None, file=file)
    assert known.bearer("a", NOON) == secrets(TWO).bearer("a", NOON)
    assert known.verify(secrets(ONE).bearer("a", NOON), NOON) == "a"


def test_a_changed_file_is_read_when_a_bearer_is_not_known(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(ONE)
    known = secrets(None, file=file)
    new = secrets(TWO).bearer("a", NOON)
    assert known.verify(new, NOON) is None
    (tmp_path / "new").write_text(f"{TWO}\n{ONE}")
    (tmp_path / "new").replace(file)
    assert known.verify(new, NOON) == "a"
    assert known.verify(secrets(ONE).bearer("a", NOON), NOON) == "a"


def test_reload_tells_whether_there_is_something_new(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(ONE)
    known = secrets(None, file=file)
    assert not known.reload()
    file.write_text(TWO)
    assert known.reload()
    file.unlink()
    assert not known.reload()
    assert known.bearer("a", NOON) == secrets(TWO).bearer("a", NOON)


@pytest.mark.parametrize("content", ["", "\n\n", "short", f"{ONE}\nshort", f"{ONE}\n{TWO}\n{THREE}", "x" * 5000])
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    with pytest.raises(ConfigError, match="secret_file") as caught:
        secrets(None, file=file)
    assert "\n" not in str(caught.value)
    assert not content or content not in str(caught.value)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        secrets(None, file=tmp_path / "none")


# --- who asks ------------------------------------------------------------------------------------------------


def service(*, mutual_tls: bool = False) -> Replication:
    config = SimpleNamespace(source_pop="zurich-01", authorized_primaries=["calgary-01"], mutual_tls=mutual_tls)
    host = SimpleNamespace(clock=SimpleNamespace(now_us=lambda: NOON))
    return cast("Replication", SimpleNamespace(config=config, host=host, secrets=secrets()))


def request(authorization: str | None = None, certificate: Any = None, path: str = "/api/replication/apply") -> Request:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]

    async def body() -> bytes:
        return b""

    return Request(
        host=cast("Any", None),
        method="POST",
        path=path,
        raw_query=b"",
        headers=headers,
        client="",
        scheme="https",
        id="",
        body=body,
        peer_certificate=certificate,
    )


def named(*dns: str, cn: str = "") -> dict[str, Any]:
    """Return a certificate as the server gives it."""
    made: dict[str, Any] = {"subject": ((("commonName", cn),),)}
    if dns:
        made["subjectAltName"] = tuple(("DNS", name) for name in dns)
    return made


def test_a_bearer_is_good_for_replication_alone() -> None:
    good = "Bearer " + secrets().bearer("calgary-01", NOON)
    found = by_credential(service(), request(good))
    assert found is not None
    assert (found.kind, found.actor, found.scope, found.via) == ("peer", "pop:calgary-01", "write", "plugin")
    assert pop_of(found) == "calgary-01"
    for path in ("/api/v1/entries", "/", "/api/replication", "/api/replicationx"):
        assert by_credential(service(), request(good, path=path)) is None
    for scheme in ("Basic", "", "bearerx"):
        assert by_credential(service(), request(good.replace("Bearer", scheme))) is None


@pytest.mark.parametrize(
    ("certificate", "pop"),
    [
        (named("calgary-01"), "calgary-01"),
        (named(cn="calgary-01"), "calgary-01"),
        (named("geneva-01", cn="calgary-01"), "geneva-01"),
        (named("pop.example.com", "calgary-01"), "calgary-01"),
        (named("geneva-01", "calgary-01"), "calgary-01"),
        (named("pop.example.com"), None),
        (named(cn="Some Person"), None),
        ({}, None),
        (None, None),
    ],
)
def test_a_certificate_names_the_pop(certificate: Any, pop: str | None) -> None:
    found = by_credential(service(mutual_tls=True), request(certificate=certificate))
    assert (None if found is None else pop_of(found)) == pop
    assert by_credential(service(), request(certificate=certificate)) is None


def test_a_certificate_does_not_help_a_wrong_bearer() -> None:
    assert by_credential(service(mutual_tls=True), request("Bearer wrong", named("calgary-01"))) is None


@pytest.mark.parametrize(
    ("pop", "status", "code"), [("zurich-01", 409, "same_pop"), ("geneva-01", 403, "pop_not_authorized")]
)
def test_a_known_pop_may_not_be_authorised(pop: str, status: int, code: str) -> None:
    check_authorized(service(), Identity("peer", "pop:calgary-01"))
    with pytest.raises(Problem) as caught:
        check_authorized(service(), Identity("peer", f"pop:{pop}"))
    assert (caught.value.status, caught.value.code) == (status, code)


def test_the_cas_of_pops_and_of_clients_are_one(tmp_path: Path) -> None:
    """Or a certificate that the clients' CA signed would make somebody a POP."""
    ours, theirs = tmp_path / "pops.pem", tmp_path / "clients.pem"
    ours.write_text("one")
    config = cast(ReplicationConfig, SimpleNamespace(mutual_tls=True, tls_ca=ours))

    def host(client_auth: str = "optional") -> Host:
        tls = SimpleNamespace(client_ca=theirs, client_auth=client_auth)
        return cast(Host, SimpleNamespace(config=SimpleNamespace(tls=tls)))

    with pytest.raises(ConfigError, match="pem cannot be read"):
        check_ca(host(), config)
    theirs.write_text("two")
    with pytest.raises(ConfigError, match="have to be the same CA"):
        check_ca(host(), config)
    check_ca(host("none"), config)
    theirs.write_text("one\n")
    check_ca(host(), config)
