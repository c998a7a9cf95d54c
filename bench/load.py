"""What the load generator is asked and what it answers: one JSON line each way."""

from __future__ import annotations

import base64
import hashlib
import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["hello", "get", "put"]

HELLO = b"hello, world"
"""What every floor answers to `GET /`."""

BLOB_BYTES = 1024
"""Size of an entry's blob before base64."""

BLOBS = tuple(base64.b64encode(random.Random(number).randbytes(BLOB_BYTES)).decode() for number in range(16))


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: closed loop over keep-alive connections, one request in flight on each.

    kind: "hello" reads `/`, "get" reads seeded entries at random, "put" creates entries under new random ids.
    warm, seconds: unmeasured and measured time. entries: how many are seeded. seed: makes the requests differ
    from round to round.
    """

    kind: Kind
    port: int
    connections: int
    warm: float
    seconds: float
    seed: int
    token: str = ""
    entries: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a dict for one line of JSON."""
        return asdict(self)


@dataclass(slots=True)
class Result:
    """What came of a `Job`. Latencies in seconds.

    completed, elapsed: of the measured time alone. acknowledged: every good answer, the warm-up's too. busy: share
    of one core that the client itself used. wrong: what was not as it must be, at most a few.
    """

    completed: int
    elapsed: float
    p50: float
    p99: float
    acknowledged: int
    busy: float
    wrong: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.completed / self.elapsed


def entry_id(number: int) -> str:
    """Return the id of the seeded entry `number`: random in order, the same in every run."""
    text = hashlib.md5(b"entry %d" % number, usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"


def blob(number: int) -> str:
    """Return the blob of the entry `number`, as base64 text."""
    return BLOBS[number % len(BLOBS)]


def percentile(ordered: list[float], share: float) -> float:
    """Return the value below which `share` of an ascending list lies; 0 when it is empty."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
