"""Hashes that prove two vaults equal: one an entry, combined in 256 buckets (replication.md section 4).

A bucket is the XOR of its entries' digests, so a write changes it by what it takes away and what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from zlib import crc32

BUCKETS = 256
DIGEST = 32
"""Bytes of one digest, and of one bucket."""
NOTHING = bytes(BUCKETS * DIGEST)
"""The buckets of an empty vault."""


def digest_of(entry_id: str, epoch: int, rev: int, encrypted_data: str | None) -> bytes:
    """Return the digest of an entry, or of its tombstone (no data)."""
    kind = "deleted" if encrypted_data is None else "live"
    return sha256(f"{entry_id}\n{epoch}\n{rev}\n{kind}\n{encrypted_data or ''}".encode()).digest()


def bucket_of(entry_id: str) -> int:
    """Return the bucket that an entry belongs to."""
    return crc32(entry_id.encode()) % BUCKETS


def combined(buckets: bytes, changes: Iterable[tuple[str, bytes]]) -> bytes:
    """Return `buckets` with digests XORed in, which also takes out what was in. changes: `(entry id, digest)`."""
    sums: dict[int, int] = {}
    for entry_id, digest in changes:
        bucket, change = bucket_of(entry_id), int.from_bytes(digest, "little")
        sums[bucket] = sums[bucket] ^ change if bucket in sums else change
    result = bytearray(buckets)
    for bucket, change in sums.items():
        first = bucket * DIGEST
        last = first + DIGEST
        result[first:last] = (int.from_bytes(result[first:last], "little") ^ change).to_bytes(DIGEST, "little")
    return bytes(result)


def differing(ours: bytes, theirs: bytes) -> list[int]:
    """Return the numbers of the buckets that differ."""
    return [
        number
        for number in range(BUCKETS)
        if ours[number * DIGEST : (number + 1) * DIGEST] != theirs[number * DIGEST : (number + 1) * DIGEST]
    ]
