"""The primary's sender: what waits goes to the backup, as soon as it is committed, and waits until it is confirmed.

One stretch lasts while all goes well: a heartbeat first, then batches as there are any, heartbeats when there are none.
Whatever goes wrong ends the stretch; after a pause the next one begins. Nothing is forgotten but by an answer that says
so, and what was sent twice the backup knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from clavitor_commercial_replication import behind, fencing, queue, state
from clavitor_commercial_replication.backoff import FIRST, Backoff, Resting
from clavitor_commercial_replication.batches import Batches
from clavitor_commercial_replication.confirming import PATIENCE, Confirming, has_lost
from clavitor_commercial_replication.enlist import enlist, enlist_again
from clavitor_commercial_replication.link import Link, LinkError, Rejected, Unauthorised
from clavitor_commercial_replication.models import Answer, Batch, Failure, State, Task
from clavitor_commercial_replication.trouble import Trouble
from clavitor_commercial_replication.window import Window
from clavitor_commercial_replication.words import entries
from clavitor_host.api import StorageUnavailable

if TYPE_CHECKING:
    from clavitor_commercial_replication.service import Replication

MIN_BYTES = 64 * 1024
"""Base64 text below which batches are not made smaller, however small a body the other side takes."""


REFUSED_IN_A_ROW = 10
"""Entries that are quarantined one after another before there is a pause, and no more alerts."""

TOKENS_INTERVAL = 1.0
"""Seconds between two looks at the tokens, at least: every login may have changed them."""

TOKENS_REFUSED = 60.0
"""The same once the backup has refused them."""


class Superseded(Exception):
    """This POP is no longer the primary, and sends no more."""


class Replaced(Exception):
    """The backup has lost something of what it had confirmed. `answer`: where it is now."""

    def __init__(self, batch: Batch, answer: Answer) -> None:
        super().__init__("the backup has lost writes that it had confirmed")
        self.batch = batch
        self.answer = answer


class Sender:
    """The worker of a deployment's one sending process."""

    def __init__(self, service: Replication) -> None:
        self._service = service
        self._host = service.host
        self._batches = Batches(service)
        self._confirming = Confirming(service)
        self._trouble = Trouble(service)
        self._resting = Resting(service.host.clock)
        self._max_bytes = queue.MAX_BYTES
        self._next_heartbeat = 0.0
        self._next_tokens = 0.0
        self._failed: list[Task] = []
        self._refused = 0
        self._refusals = Backoff()
        self._answered = False
        self._link: Link | None = None

    async def run(self) -> None:
        """Send for ever; ends by being cancelled."""
        try:
            while True:
                try:
                    await self._stretch()
                except Superseded:
                    await self._host.clock.sleep(FIRST)
                except Replaced as found:
                    await self._send_again(found)
                except LinkError as error:
                    await self._pause(error)
                except StorageUnavailable as error:
                    await self._pause(LinkError("storage", error.detail))
        finally:
            await self._close()

    # --- one stretch ---------------------------------------------------------------------------------------------

    async def _stretch(self) -> None:
        self._service.wake.clear()
        known = await state.required(self._host.db)
        if not known.enlisted:
            await enlist(self._service)
        if known.role != "primary" or self._service.config.backup_url is None:
            await self._wait(self._service.config.heartbeat_interval)
            return
        await self._heartbeat()
        window = Window(self._service.wake)
        try:
            while await self._round(window):
                pass
        finally:
            await window.abandon()

    async def _round(self, window: Window) -> bool:
        """Send what there is to send, then wait for something to happen; False when this POP's state has changed."""
        self._service.wake.clear()
        window.collect()
        if not window.has_room:
            await self._service.wake.wait()
            return True
        if (due := self._resting.wake()) is not None:
            window.rewind(due)
        if (self._service.news or not window.seen) and not await self._fill(window):
            return False
        if await self._has_tokens():
            await self._heartbeat(alone=window.empty)
        elif not window.empty:
            await self._service.wake.wait()
        elif self._idle_for <= 0 or not (self._batches.complete or self._resting.ids):
            await self._heartbeat()
            window.rewind(1)  # a look now and then, should a signal ever be lost
        else:
            await self._wait(self._idle_for)
        return True

    async def _fill(self, window: Window) -> bool:
        """Send what there is to send, as far as there is room; False when this POP's state has changed."""
        if not window.cursor:
            self._service.news = False  # else it may be of what lies before the cursor
        known = await state.required(self._host.db)
        if known.role != "primary" or not known.enlisted:
            return False
        while window.has_room and await self._launch(window, known):
            pass
        return True

    async def _launch(self, window: Window, known: State) -> bool:
        """Send the next batch on its way; False when nothing waits."""
        found, batch = await self._batches.next(known, window, max_bytes=self._max_bytes, resting=self._resting.ids)
        window.looked(found)
        if not found.tasks:
            return False
        window.start(self._send(window, known, found.tasks, batch), found.tasks)
        return True

    async def _has_tokens(self) -> bool:
        """Tell whether the tokens have changed; they are looked at once a second at most."""
        now = self._host.clock.monotonic()
        if not self._service.tokens_changed.is_set() or now < self._next_tokens:
            return False
        self._next_tokens = now + TOKENS_INTERVAL
        return await self._batches.tokens_differ()

    @property
    def _idle_for(self) -> float:
        """Seconds until something is to be done although nothing happens."""
        now = self._host.clock.monotonic()
        waits = [self._next_heartbeat - now, self._batches.compare_in]
        if (due := self._resting.due) is not None:
            waits.append(due - now)
        if self._service.tokens_changed.is_set():
            waits.append(max(self._next_tokens - now, 0.001))  # only a look, not a heartbeat that is due
        return min(waits)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._service.wake.wait()

    # --- requests and their answers ------------------------------------------------------------------------------

    async def _heartbeat(self, *, alone: bool = True) -> None:
        batch = await self._batches.heartbeat(alone=alone)
        if batch is None:
            raise Superseded
        try:
            answer = await self._request(batch)
        except Rejected as error:
            if batch.tokens is None:
                raise
            bare = batch._replace(tokens=None)
            answer = await self._request(bare)
            await self._give_up_tokens(batch, error)
        await self._confirm((), batch, answer)

    async def _give_up_tokens(self, batch: Batch, error: Rejected) -> None:
        """Do without tokens that the backup does not take, until they have changed."""
        told, self._batches.refused_tokens = self._batches.refused_tokens is not None, batch.tokens_digest
        self._next_tokens = self._host.clock.monotonic() + TOKENS_REFUSED
        if not told:
            count = len(batch.tokens or ())
            await self._host.edition.alert_operator(
                "REPLICATION_TOKENS_REFUSED",
                f"The backup POP does not take the list of this POP's {count:,} tokens, so new ones do not read "
                f"there and revoked ones still do. {error.detail}",
                {"tokens": count, "status": error.status},
            )

    async def _send(self, window: Window, known: State, tasks: Sequence[Task], batch: Batch) -> None:
        """Send a batch. Once the backup has all of it, the next one may leave: that is written down beside it."""
        await self._deliver(known, tasks, batch, lambda: window.settle(tasks))

    async def _deliver(
        self, known: State, tasks: Sequence[Task], batch: Batch, settled: Callable[[], None] | None = None
    ) -> None:
        """Send a batch and take in what became of each entry. Raises `LinkError`: then nothing has."""
        try:
            answer = await self._request(batch)
        except Rejected as error:
            await self._bisect(known, tasks, error)
            return
        except LinkError:
            self._failed.extend(tasks)
            raise
        await self._confirm(tasks, batch, answer, settled)
        await self._look_after(known, tasks, answer)

    async def _request(self, batch: Batch) -> Answer:
        """Send a request; once more when it was not known who we are and there is a new secret."""
        if self._link is None:
            assert self._service.config.backup_url is not None
            self._link = Link(self._service, self._service.config.backup_url)
        try:
            return await self._link.apply(batch)
        except Unauthorised:
            if not self._service.secrets.reload():
                raise
            return await self._link.apply(batch)

    async def _confirm(
        self,
        tasks: Sequence[Task],
        batch: Batch,
        answer: Answer,
        settled: Callable[[], None] | None = None,
    ) -> None:
        """Forget what the backup has, and note how it is. settled: called before, when it has all of it."""
        await self._check_behind(batch, answer)
        if has_lost(batch, answer):
            raise Replaced(batch, answer)
        by_id = {task.entry_id: task for task in tasks}
        done = [by_id[entry_id] for entry_id in dict.fromkeys((*answer.acknowledged, *answer.already_exists))]
        at = self._host.clock.now_us()
        self._batches.answered(batch, answer)
        if done:
            self._refused = 0
            self._refusals.reset()
            self._max_bytes = min(self._max_bytes + MIN_BYTES, queue.MAX_BYTES)
        all_done = settled is not None and len(done) == len(tasks)
        if settled is not None and all_done:
            settled()
        await self._confirming.note(done, batch, answer, at, patience=PATIENCE if all_done else 0.0)
        self._service.metrics.acknowledged.observe_many([max(at - task.queued_at, 0) / 1_000_000 for task in done])
        self._trouble.over()
        self._next_heartbeat = self._host.clock.monotonic() + self._service.config.heartbeat_interval

    async def _check_behind(self, batch: Batch, answer: Answer) -> None:
        """Stop for good when the backup has more of this stream than this vault ever wrote: it was restored.

        Once it has written past the backup's head, only what the writes are can tell. That is asked when the first
        answer says more than there was here when the process began.
        """
        if answer.epoch != batch.epoch:
            return
        highest = answer.applied_max_rev
        if highest > (batch.head_rev or 0) and highest > await self._host.vault.head_rev():
            await self._stop_behind(answer.epoch)
        if not self._answered:
            epoch, began_at = self._service.began_at
            if answer.epoch == epoch and highest > began_at and await behind.is_forked(self._service, answer.epoch):
                await self._stop_behind(answer.epoch)
            self._answered = True

    async def _stop_behind(self, epoch: int) -> None:
        # without the rev that was seen: a write that comes before the fence may have reached it
        await fencing.fence(self._service, "behind", epoch)
        raise Superseded

    async def _send_again(self, found: Replaced) -> None:
        """Queue what the backup has lost. Only then is it forgotten that it had it: a crash repeats this."""
        complete_rev, highest = found.answer.complete_rev or 0, found.answer.applied_max_rev
        stream = (found.batch.epoch, found.batch.stream_id)
        count = await enlist_again(self._service, stream, above=complete_rev)
        async with self._host.db.transaction() as tx:
            await self._host.vault.lock(tx)
            known = await state.required(tx)
            if known.role != "primary" or (known.epoch, known.stream_id) != stream:
                return
            await state.update_peer(
                tx, complete_rev=complete_rev, applied_max_rev=highest, tokens_digest=found.answer.tokens_digest
            )
        self._batches.begin_anew()
        await self._host.edition.alert_operator(
            "REPLICATION_BACKUP_REPLACED",
            f"The backup POP has lost writes that it had confirmed: it is empty, or restored from an older copy. "
            f"{entries(count)} are sent to it again.",
            {"complete_rev": complete_rev, "confirmed_rev": found.batch.confirmed_rev, "entries": count},
        )

    # --- what was not taken --------------------------------------------------------------------------------------

    async def _look_after(self, known: State, tasks: Sequence[Task], answer: Answer) -> None:
        """Quarantine what the backup refuses for good; let the rest of what it did not take rest for a while.

        Another write under a number of this stream was made by this POP, and is lost here: it was restored.
        """
        settled = {*answer.acknowledged, *answer.already_exists}
        if len(settled) == len(tasks):
            return
        failures = {failure.entry_id: failure for failure in answer.failures}
        again: list[Task] = []
        for task in tasks:
            failure = failures.get(task.entry_id, _UNANSWERED)
            if task.entry_id in settled:
                continue
            if failure.retryable:
                again.append(task)
            elif failure.code == "conflict" and task.epoch == known.epoch:
                await self._stop_behind(known.epoch)
            else:
                await self._quarantine(task, f"{failure.code}: {failure.detail}")
        if again:
            await self._try_later(again, all_failed=len(again) == len(tasks))

    async def _try_later(self, tasks: Sequence[Task], *, all_failed: bool) -> None:
        await self._trouble.count(tasks)
        if all_failed or not self._resting.has_room:
            raise LinkError("failed", f"The other POP could not take {entries(len(tasks))}, {tasks[0].entry_id} first.")
        self._service.metrics.failures.labels("failed").inc()
        for task in tasks:
            self._resting.add(task)

    async def _bisect(self, known: State, tasks: Sequence[Task], error: Rejected) -> None:
        """Find the entry for which a batch was rejected: each half on its own, down to one."""
        if len(tasks) > 1:
            if error.status == 413:
                self._max_bytes = max(MIN_BYTES, sum(len(task.raw_payload or "") for task in tasks) // 2)
            middle = len(tasks) // 2
            for half in (tasks[:middle], tasks[middle:]):
                batch = self._batches.plain(known, half, self._host.clock.now_us())
                await self._deliver(known, half, batch)
            return
        await self._request(self._batches.plain(known, (), self._host.clock.now_us()))  # or it is not the entry's fault
        await self._quarantine(tasks[0], error.detail)

    async def _quarantine(self, task: Task, error: str) -> None:
        async with self._host.db.transaction() as tx:
            await self._host.vault.lock(tx)
            found = await queue.quarantine(tx, task.entry_id, task.rev, error, self._host.clock.now_us())
        if not found:
            return  # it has been written again meanwhile
        self._service.metrics.failures.labels("quarantined").inc()
        self._refused += 1
        if self._refused <= REFUSED_IN_A_ROW:
            more = " Further ones are not told one by one." if self._refused == REFUSED_IN_A_ROW else ""
            await self._host.edition.alert_operator(
                "REPLICATION_QUARANTINED",
                f"The backup POP refuses the entry {task.entry_id}: {error}{more}",
                {"entry_id": task.entry_id, "rev": task.rev, "error": error},
            )
        if self._refused % REFUSED_IN_A_ROW == 0:
            detail = f"The other POP has refused {entries(self._refused)}, and taken none in between. The last: {error}"
            raise LinkError("quarantined_many", detail, wait=self._refusals.next())

    async def _pause(self, error: LinkError) -> None:
        """Let a stretch end for what went wrong, and wait before the next one."""
        self._resting.clear()
        failed, self._failed = self._failed, []
        seconds = await self._trouble.take(error, failed)
        await self._close()
        await self._host.clock.sleep(seconds)

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


_UNANSWERED = Failure("", "unanswered", "The answer does not mention it.", retryable=True)
