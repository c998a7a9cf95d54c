"""What identity keeps in memory for one app: nothing here is needed after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_host.identity.passwords import PasswordHasher

if TYPE_CHECKING:
    from clavitor_host.host import Host
    from clavitor_host.identity.oidc_provider import Provider

KEY = "identity"
"""Of `IdentityState` in `host.state`."""

NOTE_INTERVAL = 60.0
"""Seconds between two audit rows about the same thing being refused."""
MAX_NOTES = 1000
"""Different refusals that are remembered; beyond it the oldest counts as new again."""
NOTES_PER_INTERVAL = 300
"""Refusals of all kinds that are audited within one interval."""


class Notes:
    """Bounds the audit rows that refusals write, so that being refused is no way to fill the disk."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}
        self._window = float("-inf")
        self._written = 0

    def admit(self, key: str, now: float) -> int | None:
        """Return how many refusals `key` stands for by now, or None when it was audited a moment ago.

        now: monotonic seconds.
        """
        last, held_back = self._seen.pop(key, (float("-inf"), 0))
        if now - self._window >= NOTE_INTERVAL:
            self._window, self._written = now, 0
        if now - last < NOTE_INTERVAL or self._written >= NOTES_PER_INTERVAL:
            self._seen[key] = (last, held_back + 1)
            self._trim()
            return None
        self._written += 1
        self._seen[key] = (now, 0)
        self._trim()
        return held_back + 1

    def _trim(self) -> None:
        while len(self._seen) > MAX_NOTES:
            del self._seen[next(iter(self._seen))]


class IdentityState:
    """`tokens_used`, `sessions_seen`: id to time (µs) of the last use, until the next flush."""

    def __init__(self) -> None:
        self.passwords = PasswordHasher()
        self.notes = Notes()
        self.tokens_used: dict[str, int] = {}
        self.sessions_seen: dict[str, int] = {}
        self.provider: Provider | None = None


def state_of(host: Host) -> IdentityState:
    """Return the state of one app."""
    state = host.state.get(KEY)
    if state is None:
        state = host.state[KEY] = IdentityState()
    assert isinstance(state, IdentityState)
    return state
