"""The decisions that keep two vaults equal, and the hashes that prove it."""

from __future__ import annotations

from clavitor_commercial_replication import digests, rules
from clavitor_commercial_replication.rules import Stamp
from hypothesis import given
from hypothesis import strategies as st

A, B = b"a" * 32, b"b" * 32
stamps = st.builds(Stamp, st.integers(0, 3), st.integers(1, 9), st.integers(0, 3_000_000))


@given(stamps, stamps)
def test_of_two_writes_each_side_keeps_the_same_one(one: Stamp, other: Stamp) -> None:
    if one[:2] == other[:2]:
        return
    first, second = rules.verdict(one, A, other, B), rules.verdict(other, B, one, A)
    assert {first, second} == {"apply", "exists"}


def test_the_clock_does_not_decide() -> None:
    assert rules.verdict(Stamp(1, 8, 0), A, Stamp(1, 7, 9_000_000), B) == "apply"
    assert rules.verdict(Stamp(2, 1, 0), A, Stamp(1, 9, 9_000_000), B) == "apply"
    assert rules.verdict(Stamp(1, 9, 9_000_000), A, Stamp(2, 1, 0), B) == "exists"


def test_the_same_number_is_the_same_write_or_a_conflict() -> None:
    assert rules.verdict(Stamp(1, 7, 5), A, Stamp(1, 7, 5), A) == "exists"
    assert rules.verdict(Stamp(1, 7, 5), A, Stamp(1, 7, 5), B) == "conflict"


def test_in_the_plain_format_the_later_second_wins() -> None:
    stored = Stamp(1, 7, 5_600_000)
    assert rules.verdict(Stamp(None, None, 6_000_000), None, stored, B) == "apply"
    assert rules.verdict(Stamp(None, None, 5_000_000), None, stored, B) == "exists"
    assert rules.verdict(Stamp(None, None, 4_000_000), None, stored, B) == "exists"


def test_a_lower_epoch_is_stale() -> None:
    assert rules.is_stale(1, 2)
    assert not rules.is_stale(2, 2)
    assert not rules.is_stale(3, 2)


def test_a_digest_covers_every_part() -> None:
    parts = [
        ("a", 1, 2, "x"),
        ("b", 1, 2, "x"),
        ("a", 2, 2, "x"),
        ("a", 1, 3, "x"),
        ("a", 1, 2, "y"),
        ("a", 1, 2, None),
    ]
    assert len({digests.digest_of(*each) for each in parts}) == len(parts)


entries = st.dictionaries(st.text("abc-._", min_size=1, max_size=8), st.binary(min_size=32, max_size=32), max_size=8)


@given(entries)
def test_what_is_taken_out_again_leaves_nothing(found: dict[str, bytes]) -> None:
    changes = list(found.items())
    whole = digests.combined(digests.NOTHING, changes)
    assert digests.combined(whole, changes) == digests.NOTHING
    assert digests.combined(digests.NOTHING, reversed(changes)) == whole


@given(entries, st.text("abc", min_size=9, max_size=9), st.binary(min_size=32, max_size=32).filter(any))
def test_one_entry_more_shows_in_its_bucket_alone(found: dict[str, bytes], entry_id: str, digest: bytes) -> None:
    ours = digests.combined(digests.NOTHING, found.items())
    theirs = digests.combined(ours, [(entry_id, digest)])
    assert digests.differing(ours, theirs) == [digests.bucket_of(entry_id)]
    assert digests.differing(ours, ours) == []
