"""The wire format: what goes out is what comes in, and what breaks a rule is refused by name."""

from __future__ import annotations

import binascii
import json
from typing import Any

import pytest
from clavitor_commercial_replication import wire
from clavitor_commercial_replication.body import Doubtful, quick
from clavitor_commercial_replication.models import Answer, Batch, Failure, MirroredToken
from clavitor_commercial_replication_testing.backup import T0, batch, blob, item, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clavitor_host import strict_json
from clavitor_host.api import Problem, check_encrypted_data

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no reason to fail."""

TOKENS = (
    MirroredToken("ab" * 32, "user", "alice", "ADMIN", "write", None, None, None),
    MirroredToken("cd" * 32, "agent", "agent:billing", None, "read", "env-1", "agent-1", T0 * 1_000_000),
)


def body_of(sent: Batch) -> dict[str, Any]:
    """Return a request's JSON, to be spoilt."""
    found: dict[str, Any] = json.loads(wire.encode(sent))
    return found


def refused(body: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        wire.parse(body)
    return caught.value


def test_a_request_means_the_same_at_the_other_end() -> None:
    sent = batch(
        item("a", 7, environment_id="env-1"),
        item("b", 9, None),
        head_rev=9,
        depth=2,
        sent_at=T0 * 1_000_000,
        complete_rev=9,
        as_of=T0 * 1_000_000,
        audit_head="0" * 64,
        buckets=bytes(range(256)) * 32,
        tokens=list(TOKENS),
        tokens_digest="digest",
    )
    assert wire.parse(quick_or_strict(wire.encode(sent))) == sent


def test_the_plain_format_has_the_members_of_the_seed_alone() -> None:
    body = body_of(batch(plain("abc123"), plain("gone", None), epoch=None))
    assert body == {
        "source_pop": "calgary-01",
        "entries": [
            {"entry_id": "abc123", "operation": "create", "encrypted_data": blob(), "timestamp": T0},
            {"entry_id": "gone", "operation": "delete", "timestamp": T0},
        ],
    }
    assert wire.parse(body) == batch(plain("abc123"), plain("gone", None), epoch=None)


def test_the_sha256_of_what_has_none_is_added() -> None:
    body = body_of(batch(item("a", 1)._replace(sha256=None)))
    assert body["entries"][0]["sha256"] == item("a", 1).sha256


def test_members_that_are_not_known_are_passed_over() -> None:
    body = body_of(batch(item("a", 1)))
    body["colour"], body["entries"][0]["shape"] = "blue", {"round": True}
    assert wire.parse(body) == batch(item("a", 1))


def test_more_than_100_entries_are_too_many() -> None:
    assert len(wire.parse(body_of(batch(*(item(f"e{n}", n) for n in range(1, 101))))).items) == 100
    problem = refused(body_of(batch(*(item(f"e{n}", n) for n in range(1, 102)))))
    assert (problem.status, problem.code) == (413, "batch_too_large")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entry_id", "a b"),
        ("entry_id", ""),
        ("entry_id", "a" * 129),
        ("entry_id", 7),
        ("entry_id", None),
        ("operation", "upsert"),
        ("operation", None),
        ("operation", ["create"]),
        ("encrypted_data", None),
        ("encrypted_data", ""),
        ("encrypted_data", "YmxvYg"),
        ("encrypted_data", "YmxvYg=="[:-1]),
        ("encrypted_data", "YmxvYh=="),
        ("encrypted_data", "YmxvYg==\n"),
        ("encrypted_data", "Ym_vYg=="),
        ("encrypted_data", "é" * 4),
        ("timestamp", None),
        ("timestamp", -1),
        ("timestamp", "1743556800"),
        ("timestamp", 1743556800.5),
        ("timestamp", True),
        ("timestamp", 2**63),
        ("rev", None),
        ("rev", 0),
        ("rev", -1),
        ("rev", 2**63 - 1),
        ("rev", "7"),
        ("epoch", -1),
        ("epoch", 2),
        ("environment_id", "no environment"),
        ("environment_id", 7),
        ("created_at", -1),
        ("updated_at", "now"),
        ("updated_at", 2**62),
    ],
)
def test_a_bad_entry_is_refused_by_name(field: str, value: Any) -> None:
    body = body_of(batch(item("a", 1), item("b", 2)))
    body["entries"][1][field] = value
    problem = refused(body)
    assert (problem.status, problem.code, problem.extra["field"]) == (400, "invalid_field", f"entries.1.{field}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source_pop", None),
        ("source_pop", "two words"),
        ("source_pop", 7),
        ("entries", None),
        ("entries", {}),
        ("epoch", 0),
        ("epoch", "1"),
        ("epoch", None),
        ("stream_id", None),
        ("stream_id", 7),
        ("stream_id", "x" * 513),
        ("batch_id", 7),
        ("batch_id", "a\0b"),
        ("head_rev", -1),
        ("depth", 1.5),
        ("sent_at", "now"),
        ("complete_rev", -1),
        ("as_of", -1),
        ("audit_head", 1),
        ("hashes", "AAAA"),
        ("hashes", 7),
        ("hashes", "!" * 10924),
        ("tokens", {}),
        ("tokens_digest", 7),
    ],
)
def test_a_bad_request_is_refused_by_name(field: str, value: Any) -> None:
    body = body_of(batch(item("a", 1)))
    body[field] = value
    problem = refused(body)
    assert (problem.status, problem.code) == (400, "invalid_field")
    assert problem.extra["field"] in (field, "epoch", "stream_id")


@pytest.mark.parametrize("body", [None, [], "text", 7, {}])
def test_what_is_no_request_is_refused(body: Any) -> None:
    assert (refused(body).status, refused(body).code) == (400, "invalid_field")


@pytest.mark.parametrize("entry", [None, [], "text", 7])
def test_what_is_no_entry_is_refused(entry: Any) -> None:
    body = body_of(batch(item("a", 1)))
    body["entries"] = [entry]
    assert refused(body).extra["field"] == "entries.0"


@pytest.mark.parametrize("wrong", ["0" * 64, "", 7, "AB" * 32])
def test_a_wrong_sha256_has_a_code_of_its_own(wrong: Any) -> None:
    body = body_of(batch(item("a", 1), item("b", 2)))
    body["entries"][1]["sha256"] = wrong
    problem = refused(body)
    assert (problem.status, problem.code, problem.extra["field"]) == (400, "sha256_mismatch", "entries.1.sha256")


def test_a_blob_above_its_limit_is_too_large() -> None:
    body = body_of(batch(item("a", 1)))
    body["entries"][0] |= {"encrypted_data": "AAAA" * 400_000, "sha256": None}
    assert (refused(body).status, refused(body).code) == (413, "entry_too_large")


def test_entries_with_revs_need_the_epoch_of_the_request() -> None:
    body = body_of(batch(item("a", 1)))
    del body["epoch"], body["stream_id"]
    assert refused(body).extra["field"] == "epoch"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hash", "ab"),
        ("hash", "AB" * 32),
        ("hash", None),
        ("kind", "metrics"),
        ("scope", "admin"),
        ("role", "KING"),
        ("role", None),
        ("owner", ""),
        ("owner", None),
        ("environment_id", 7),
        ("expires_at", "never"),
    ],
)
def test_a_bad_token_is_refused_by_name(field: str, value: Any) -> None:
    body = body_of(batch(tokens=list(TOKENS)))
    body["tokens"][0][field] = value
    assert refused(body).extra["field"] == f"tokens.0.{field}"
    body["tokens"] = [None]
    assert refused(body).extra["field"] == "tokens.0"


# --- the answer ----------------------------------------------------------------------------------------------


def answered(sent: Batch, **changes: Any) -> bytes:
    answer = Answer(["a"], ["b"], [Failure("c", "conflict", "why", False)], 3, 9, "batch-1", [4], "digest")
    return json.dumps({**wire.encode_answer(answer), **changes}).encode()


THREE = batch(item("a", 1), item("b", 2), item("c", 3))


def test_an_answer_means_the_same_at_the_other_end() -> None:
    answer = wire.read_answer(answered(THREE), THREE)
    assert answer == Answer(["a"], ["b"], [Failure("c", "conflict", "why", False)], 3, 9, "batch-1", [4], "digest")
    assert json.loads(answered(THREE))["failed"] == ["c"]


def test_an_answer_in_the_plain_format_is_one() -> None:
    content = b'{"acknowledged": ["a"], "failed": ["b"], "already_exists": ["c"]}'
    answer = wire.read_answer(content, THREE)
    assert (answer.acknowledged, answer.already_exists) == (["a"], ["c"])
    assert [(failure.entry_id, failure.retryable) for failure in answer.failures] == [("b", True)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"acknowledged": ["a"], "failed": []}',
        b'{"acknowledged": "a", "failed": [], "already_exists": []}',
        b'{"acknowledged": [1], "failed": [], "already_exists": []}',
    ],
)
def test_what_is_no_answer_acknowledges_nothing(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.read_answer(content, THREE)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_id": "batch-2"},
        {"batch_id": 7},
        {"acknowledged": ["z"]},
        {"acknowledged": ["a", "c"]},
        {"epoch": "3"},
        {"epoch": -1},
        {"applied_max_rev": None},
        {"differing": [256]},
        {"differing": {}},
        {"tokens_digest": 7},
    ],
)
def test_an_answer_to_something_else_acknowledges_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the answer"):
        wire.read_answer(answered(THREE, **changes), THREE)


# --- reading JSON quickly ------------------------------------------------------------------------------------


def quick_or_strict(data: bytes) -> Any:
    """Return what a request's body is read as."""
    try:
        return quick(data)
    except Doubtful:
        return strict_json.loads(data, whole_floats=False)


@pytest.mark.parametrize(
    "doubtful",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1}, "a": {"c": 1}}',
        b'[{"a": 1}, {"a": 1, "b": 2, "a": 3}]',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1.0}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"[" * 20 + b"]" * 20,
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"a": "\x01"}',
        b'{"a": 1} x',
        b'{"a"',
        b"",
    ],
)
def test_what_is_not_plainly_strict_json_is_left_to_the_strict_reader(doubtful: bytes) -> None:
    with pytest.raises(Doubtful):
        quick(doubtful)


_ATOMS = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    _ATOMS | st.text(':"\\{}a', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(':"a\\b', max_size=3), inner, max_size=4),
    max_leaves=15,
)


@UNHURRIED
@given(_VALUES, st.booleans())
def test_both_readers_agree(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert quick_or_strict(data) == strict_json.loads(data, whole_floats=False)


@UNHURRIED
@given(st.lists(st.tuples(st.sampled_from("ab:"), st.sampled_from(['"x"', '"a:b"', "{}", '{"c":1}', "1"])), max_size=4))
def test_no_name_that_is_there_twice_gets_through(members: list[tuple[str, str]]) -> None:
    data = "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"
    twice = len({name for name, _ in members}) < len(members)
    if twice:
        with pytest.raises((strict_json.StrictJSONError, Doubtful)):
            quick_or_strict(data.encode())
    else:
        assert quick_or_strict(data.encode()) == json.loads(data)


_BASE64ISH = st.binary(max_size=8).map(lambda raw: binascii.b2a_base64(raw, newline=False).decode())


@UNHURRIED
@given(_BASE64ISH | st.text("ABQgwxyz019+/=_-\n é", max_size=8), st.integers(0, 9), st.sampled_from("AB=/ "))
def test_blobs_are_those_of_the_vault(text: str, at: int, other: str) -> None:
    for candidate in (text, text[:at] + other + text[at + 1 :]):
        try:
            check_encrypted_data(candidate)
        except Problem as error:
            assert refused_blob(candidate).code == error.code
        else:
            assert wire.parse(with_blob(candidate)).items[0].encrypted_data == candidate


@pytest.mark.parametrize(("size", "taken"), [(2**20 - 1, True), (2**20, True), (2**20 + 1, False), (2**20 + 2, False)])
def test_the_largest_blob_is_that_of_the_vault(size: int, taken: bool) -> None:
    text = binascii.b2a_base64(bytes(size), newline=False).decode()
    if taken:
        assert wire.parse(with_blob(text)).items[0].encrypted_data == text
    else:
        assert refused_blob(text).code == "entry_too_large"


def with_blob(text: str) -> dict[str, Any]:
    return body_of(batch(item("a", 1)._replace(encrypted_data=text, sha256=None)))


def refused_blob(text: str) -> Problem:
    body = with_blob("AAAA")
    body["entries"][0] |= {"encrypted_data": text, "sha256": None}
    return refused(body)


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("environment_id", [None, "prod", 'quoted "\\ \n é'])
@pytest.mark.parametrize("known", [False, True])
def test_the_quick_way_to_a_request_gives_the_same_json(deleted: bool, environment_id: str | None, known: bool) -> None:
    one = item("a", 1, None if deleted else "x")._replace(environment_id=environment_id)
    sent = batch(one, one if known else plain("b"))
    assert json.loads(wire.encode(sent)) == wire.body(sent)
