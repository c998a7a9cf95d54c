"""`Replication`: what the parts of one app share. The rules are in the modules named after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clavitor_commercial_replication import startup, state
from clavitor_commercial_replication.config import ReplicationConfig
from clavitor_commercial_replication.metrics import ReplicationMetrics
from clavitor_commercial_replication.peers import Secrets, check_ca
from clavitor_host.api import ClavitorError, Host, log

NAME = "commercial_replication"

QUEUED = "replication.queued"
"""The topic of `host.signals` that is sent when something waits to be sent."""

PATIENCE = 2.0
"""Seconds that the start of a primary waits for the other POP, at most."""

IDENTITY = "identity.changed"
"""The host's topic: users or tokens have changed."""


class Replication:
    """One per app: `host.state["commercial_replication"]`.

    `wake`: set when there may be something to send. `news`: the queue or this POP's state has changed; whoever looks at
    them resets it before. `tokens_changed`: set when the mirrored tokens may be out of date.
    `began_at`: the epoch and the vault's head when this process began.
    """

    def __init__(self, host: Host, config: ReplicationConfig, metrics: ReplicationMetrics) -> None:
        self.host = host
        self.config = config
        self.metrics = metrics
        self.secrets = Secrets(config)
        self.wake = asyncio.Event()
        self.news = True
        self.tokens_changed = asyncio.Event()
        self.began_at = (0, 0)
        self._subscriptions: list[Callable[[], None]] = []

    @property
    def on(self) -> bool:
        """Whether this POP takes part in replication at all."""
        return self.config.role is not None

    async def start(self) -> None:
        """Make or read the state, and listen for what concerns it."""
        if self.config.role is None:
            if not self.host.offline:
                startup.check_left(await state.read(self.host.db))
            return
        startup.check(self.host, self.config)
        check_ca(self.host, self.config)
        self.secrets.load()
        found = await state.begin(self.host, self.config.role)
        self.began_at = (found.epoch, found.head_rev)
        if found.role != self.config.role and not self.host.offline:
            log.warning(
                "This POP's role is not the configured one: it was promoted, fenced or re-seeded",
                role=found.role,
                configured=self.config.role,
            )
        if not self.host.offline:
            if found.role == "primary" and self.config.backup_url is not None:
                await self._look_for_a_successor(found.epoch)
            self._subscribe(QUEUED)
            self._subscribe(state.CHANGED)
            self._subscriptions.append(self.host.signals.subscribe(IDENTITY, self._note_tokens))

    async def _look_for_a_successor(self, epoch: int) -> None:
        """Before this primary takes writes: where the other POP has taken over meanwhile, turn read-only."""
        from clavitor_commercial_replication import asking, fencing

        try:
            async with asyncio.timeout(PATIENCE), asking.linked(self) as link:
                other = await asking.about_other(link)
        except (TimeoutError, ClavitorError):  # it is away, or does not say: the sender goes on asking
            return
        if other.epoch > epoch:
            await fencing.fence(self, "superseded", other.epoch)

    async def stop(self) -> None:
        """Listen no more."""
        for unsubscribe in self._subscriptions:
            unsubscribe()

    def _subscribe(self, topic: str) -> None:
        self._subscriptions.append(self.host.signals.subscribe(topic, self._note_news))

    def _note_news(self, _: str | None) -> None:
        self.news = True
        self.wake.set()

    def _note_tokens(self, _: str | None) -> None:
        self.tokens_changed.set()
        self.wake.set()


def service_of(host: Host) -> Replication:
    """Return the service of an app."""
    found = host.state[NAME]
    assert isinstance(found, Replication)
    return found
