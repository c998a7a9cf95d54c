"""Names that are acceptable, and passwords: argon2id, bounded, the same time for nobody."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from clavitor_host.errors import Problem
from clavitor_host.identity import passwords
from clavitor_host.identity.names import clean_name, clean_user_name, name_key, shown
from clavitor_host.identity.passwords import PasswordHasher, check_password, needs_rehash


@pytest.mark.parametrize(
    "name", ["a", "Ada Lovelace", "ada@example.org", "Łukasz", "李", "x" * 128, "a.b-c_d", "o'neil"]
)
def test_good_names_are_kept(name: str) -> None:
    assert clean_user_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "x" * 129,
        "a\nb",
        "a\x00b",
        "a\tb",
        "a\u202eb",
        "a\u200bb",
        "a\ud800",
        "\u00a0a",
        "a\u2028b",
        "\x7f",
    ],
)
def test_names_that_could_deceive_are_refused(name: str) -> None:
    with pytest.raises(Problem) as refused:
        clean_name(name)
    assert (refused.value.status, refused.value.extra["field"]) == (400, "name")


@pytest.mark.parametrize("name", ["system", "SYSTEM", "anonymous", "agent:7", "metrics:x", "\uff33ystem", "a\uff1ab"])
def test_a_user_cannot_be_named_like_another_actor(name: str) -> None:
    with pytest.raises(Problem):
        clean_user_name(name)


def test_names_are_the_same_whatever_their_case_or_form() -> None:
    assert name_key("Straße") == name_key("STRASSE")
    assert name_key("ﬁnn") == name_key("Finn")
    assert name_key("Amélie") == name_key("Ame\u0301lie")
    assert name_key("ada") != name_key("adah")


def test_decomposed_names_are_stored_composed() -> None:
    assert clean_name("Ame\u0301lie") == "Amélie"


def test_what_somebody_sent_is_escaped_and_cut_for_the_audit_log() -> None:
    assert shown("a\nb\x00\u202e") == "a\\nb\\x00\\u202e"
    assert shown("x" * 500) == "x" * 80 + "…"
    assert shown("\ud800").encode()


@pytest.mark.parametrize("password", ["x" * 11, "", "ü" * 513, "x" * 1025, "twelve chars\ud800"])
def test_bad_passwords_are_refused(password: str) -> None:
    with pytest.raises(Problem) as refused:
        check_password(password)
    assert refused.value.code == "invalid_field"
    assert not password or password not in str(refused.value.body())


@pytest.mark.parametrize("password", ["x" * 12, "x" * 1024, "nul\x00 in the middle", "пароль пароль"])
async def test_a_password_fits_its_hash_and_no_other(password: str) -> None:
    hasher = PasswordHasher()
    check_password(password)
    phc = await hasher.hash(password)
    assert phc.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await hasher.verify(password, phc)
    assert not await hasher.verify(password + "x", phc)
    assert not await hasher.verify(password[:-1], phc)


async def test_what_follows_a_nul_counts() -> None:
    hasher = PasswordHasher()
    assert not await hasher.verify("twelve chars\x00two", await hasher.hash("twelve chars\x00one"))


async def test_the_form_of_letters_does_not_count() -> None:
    hasher = PasswordHasher()
    assert await hasher.verify("mot de passe e\u0301te\u0301", await hasher.hash("mot de passe été"))


async def test_text_that_is_no_unicode_never_fits_and_does_not_fail() -> None:
    hasher = PasswordHasher()
    assert not await hasher.verify("\ud800" * 20, await hasher.hash("x" * 12))
    assert not await hasher.verify("y" * 10_000_000, await hasher.hash("x" * 12))


async def test_two_hashes_of_one_password_differ() -> None:
    hasher = PasswordHasher()
    assert await hasher.hash("x" * 12) != await hasher.hash("x" * 12)


async def test_nobodys_password_costs_what_somebodys_does() -> None:
    hasher = PasswordHasher()
    phc = await hasher.hash("x" * 12)

    async def fastest(stored: str | None) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            assert not await hasher.verify("y" * 12, stored)
            times.append(time.perf_counter() - start)
        return min(times)

    somebody, nobody = await fastest(phc), await fastest(None)
    assert 0.6 < nobody / somebody < 1.7


async def test_the_dummy_hash_fits_no_password() -> None:
    assert not await PasswordHasher().verify("", None)
    assert needs_rehash(passwords._NOBODY) is False


def test_a_hash_with_weaker_parameters_is_made_anew() -> None:
    salt_and_hash = "$" + "A" * 22 + "$" + "A" * 43
    assert needs_rehash(f"$argon2id$v=19$m=9728,t=2,p=1{salt_and_hash}")
    assert needs_rehash(f"$argon2id$v=19$m=19456,t=1,p=1{salt_and_hash}")
    assert needs_rehash("garbage")
    assert not needs_rehash(f"$argon2id$v=19$m=19456,t=2,p=1{salt_and_hash}")
    assert not needs_rehash(f"$argon2id$v=19$m=65536,t=3,p=4{salt_and_hash}")


async def test_hashing_is_bounded_even_when_callers_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(password: bytes, phc: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return False

    monkeypatch.setattr(passwords, "_verify", slow)
    hasher = PasswordHasher()
    tasks = [asyncio.create_task(hasher.verify("x", None)) for _ in range(20)]
    await asyncio.sleep(0.01)
    for task in tasks[:10]:
        task.cancel()
    tasks += [asyncio.create_task(hasher.verify("x", None)) for _ in range(10)]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == passwords.THREADS


async def test_beyond_a_bound_logins_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(passwords, "_verify", lambda *_: release.wait(10))
    monkeypatch.setattr(passwords, "MAX_WAITING", 4)
    hasher = PasswordHasher()
    tasks = [asyncio.create_task(hasher.verify("x", None)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await hasher.verify("x", None)
    assert refused.value.status == 503
    release.set()
    await asyncio.gather(*tasks)
    release.set()
    await hasher.verify("x", None)
