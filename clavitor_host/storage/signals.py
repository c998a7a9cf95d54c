"""Signals: hints between the processes of one deployment, that something was committed.

A signal is sent in a transaction and heard when that commits. It is a hint to look: the truth is in the database, and
whoever hears one reads it there. Signals are not kept, so nobody may depend on hearing each; when some may have been
missed, subscribers hear `None` and look at everything they care about.

This process hears its own signals right after the commit, each once, with or without a connection to listen on.

PostgreSQL: the others hear them by NOTIFY, within milliseconds of the commit. One connection listens while there is a
subscription. After it was lost, and once when listening begins, subscribers hear `None`.

SQLite: while there is a subscription, the file is looked at every half second, also with a single worker since a
command may write too. What other processes commit is heard as `None`, at most that often, whatever they wrote.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING
from uuid import uuid4

from clavitor_host import log
from clavitor_host.errors import StorageUnavailable

if TYPE_CHECKING:
    from clavitor_host.clock import Clock
    from clavitor_host.metrics import Metrics
    from clavitor_host.storage.database import Database
    from clavitor_host.storage.transaction import Transaction

Heard = Callable[[str | None], None]
"""Given the payload, or None: signals of the topic may have been missed."""

CHANNEL = "clavitor_signals"
"""PostgreSQL's channel. A message is `sender topic payload`, or `sender topic` when the payload is too long for it."""

LONGEST_MESSAGE = 7999
"""Bytes that NOTIFY can carry."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds before listening is tried again: the first time, and at most; give or take a half."""

_TOPIC = re.compile(r"[a-z][a-z0-9_.]{0,62}")
_NOTIFY = f"SELECT count(pg_notify('{CHANNEL}', message)) FROM unnest(CAST(:messages AS text[])) AS message"  # noqa: S608


class Signals:
    """Sends and hears the signals of one process. One per app: `host.signals`."""

    def __init__(self, db: Database, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._clock = clock
        self._sender = uuid4().hex[:16]
        self._subscriptions: dict[str, dict[object, Heard]] = {}
        self._started = False
        self._listening: asyncio.Task[None] | None = None
        self._received = metrics.counter(
            "clavitor_signals_received_total",
            "Signals heard: of this process, of another, or that some may have been missed.",
            ("origin",),
        )
        self._gauge = metrics.gauge("clavitor_signals_listening", "Processes that listen for the signals of others.")

    async def start(self) -> None:
        """Begin to listen for other processes as soon as there is a subscription."""
        self._started = True
        self._listen()

    async def stop(self) -> None:
        """Stop listening, within a second. This process still hears itself."""
        self._started = False
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def send(self, tx: Transaction, topic: str, payload: str = "") -> None:
        """Have every subscriber of `topic`, in every process, hear `payload` once `tx` is committed.

        Equal signals of a transaction, or of a group commit, are one. Costs one statement a transaction on PostgreSQL,
        where commits that send also wait for each other; nothing on SQLite. A payload of about 7,900 bytes or more is
        heard elsewhere as None.
        topic: starts with the sender's name, such as `licensing.installed`. Raises `ValueError` for a topic or a
        payload that PostgreSQL could not carry.
        """
        _check(topic)
        if "\0" in payload:
            raise ValueError("a signal's payload cannot contain NUL")
        payload.encode()  # a lone surrogate is a ValueError here, not a failed write
        tx.before_commit(self._pass_on, (topic, payload))

    def subscribe(self, topic: str, callback: Heard) -> Callable[[], None]:
        """Have `callback` called with the payload of every signal of `topic`, or with None: read your state again.

        Subscribe first, then read the state: nothing is lost in between. `callback` runs on the event loop and must be
        quick: a commit may wait for it; it starts a task or sets an event for anything long. Its errors are logged.
        Returns what ends the subscription, and does nothing when called again. The last one that ends closes the
        listening connection, after some seconds.
        """
        _check(topic)
        key = object()
        self._subscriptions.setdefault(topic, {})[key] = callback
        self._listen()

        def unsubscribe() -> None:
            callbacks = self._subscriptions.get(topic, {})
            callbacks.pop(key, None)
            if not callbacks:
                self._subscriptions.pop(topic, None)

        return unsubscribe

    async def _pass_on(self, tx: Transaction, sent: Sequence[tuple[str, str]]) -> None:
        """Notify the other processes and remember to tell this one."""
        signals = list(dict.fromkeys(sent))

        def committed() -> None:
            for topic, payload in signals:
                self._tell(topic, payload, "own")

        def in_doubt() -> None:
            for topic in dict(signals):
                self._tell(topic, None, "missed")

        tx.after_commit(committed)
        tx.in_doubt(in_doubt)
        if tx.dialect == "postgresql":
            messages = [self._message(topic, payload) for topic, payload in signals]
            await tx.fetch_val(_NOTIFY, {"messages": messages})

    def _message(self, topic: str, payload: str) -> str:
        message = f"{self._sender} {topic} {payload}"
        return message if len(message.encode()) <= LONGEST_MESSAGE else f"{self._sender} {topic}"

    def _hear(self, message: str | None) -> None:
        """Take what another connection notified, or None: something may have been missed."""
        if message is None:
            self._gauge.set(1)
            for topic in list(self._subscriptions):
                self._tell(topic, None, "missed")
            return
        sender, _, signal = message.partition(" ")
        if sender != self._sender:
            topic, complete, payload = signal.partition(" ")
            self._tell(topic, payload if complete else None, "other")

    def _tell(self, topic: str, payload: str | None, origin: str) -> None:
        callbacks = self._subscriptions.get(topic)
        if callbacks is None:
            return
        self._received.labels(origin).inc()
        for key, callback in list(callbacks.items()):
            if key not in callbacks:
                continue  # another callback has just ended this subscription
            try:
                callback(payload)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not the others' affair
                log.exception("A signal's subscriber failed", error, topic=topic)

    def _wanted(self) -> bool:
        return bool(self._subscriptions)

    def _listen(self) -> None:
        """Have a task listen while there are subscriptions; not in the context of the request that asked for it."""
        if self._started and self._wanted() and (self._listening is None or self._listening.done()):
            self._listening = asyncio.get_running_loop().create_task(self._run(), name="signals", context=Context())

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._wanted():
            began = self._clock.monotonic()
            try:
                await self._db.engine.listen(CHANNEL, self._hear, self._wanted)
                continue
            except Exception as error:  # noqa: BLE001 - listening must outlive whatever went wrong
                if self._clock.monotonic() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                if pause == FIRST_PAUSE:
                    _report(error)
            finally:
                self._gauge.set(0)
            await self._clock.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(pause * 2, LONGEST_PAUSE)


def _check(topic: str) -> None:
    if not _TOPIC.fullmatch(topic):
        raise ValueError(f"{topic!r} is no topic: write lower-case words joined by dots, at most 63 characters")


def _report(error: Exception) -> None:
    if isinstance(error, StorageUnavailable):
        log.warning("Signals of other processes are not heard for now", reason=error.detail)
    else:
        log.exception("Signals of other processes are not heard for now", error)
