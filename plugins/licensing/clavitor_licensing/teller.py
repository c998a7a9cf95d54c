"""Telling what became of the license: log lines, over-cap warnings, and `caps_changed`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from clavitor_host.api import CapsChange, log
from clavitor_licensing.domain.limits import LIMITS, VALUE_LIMITS, LicenseLimits
from clavitor_licensing.domain.state import LicenseState
from clavitor_licensing.usage import read_usage, usage_rows
from clavitor_licensing.wording import deleted

if TYPE_CHECKING:
    from clavitor_host.api import Host
    from clavitor_licensing.models import View

PATIENCE = 3.0
"""Seconds that what runs behind the scenes may take at the end."""

NEW_CAPS = frozenset({"installed", "removed"})
"""Reasons for which what is above a cap is told of, in each process: a command that did it tells no log."""


class Teller:
    """Tells each thing once. `look`: how licensing stands in this process."""

    def __init__(self, host: Host, look: Callable[[], View]) -> None:
        self._host = host
        self._look = look
        self._told: tuple[LicenseState, LicenseLimits] | None = None
        self._telling = asyncio.Lock()
        self._behind: set[asyncio.Task[None]] = set()

    async def boot(self) -> None:
        """Tell how licensing stands after the start, and that once."""
        view = self._look()
        self._told = (view.state, view.limits)
        self._log(view, "boot", "")
        await self.warn_over_caps()
        await self._broadcast("boot")

    def changed(self, reason: str | None) -> None:
        """Tell what is new. reason: why the license was changed; None: it was not, but time goes on."""
        if self._told is None:
            return
        view = self._look()
        now = (view.state, view.limits)
        if reason is None and now == self._told:
            return
        was, self._told = self._told[0], now
        if was != view.state or reason == "installed":
            self._log(view, reason or "state", was.value)
        if reason in NEW_CAPS:
            self.behind(self.warn_over_caps())
        self.behind(self._broadcast(reason or "state"))

    async def warn_over_caps(self) -> None:
        """Say which limits are passed already (seed section 4.4), and of those on a value what that deletes."""
        try:
            async with self._host.db.snapshot() as tx:
                used, values = await read_usage(self._host, tx), await self._host.cap_values(tx)
        except Exception as error:  # noqa: BLE001 - whatever a plugin that counts raises
            log.exception("What is in use could not be counted", error)
            return
        view = self._look()
        for limit in usage_rows(used, view.limits):
            if limit.current <= limit.cap:
                continue
            fields: dict[str, Any] = {"limit": limit.key, "current": limit.current, "cap": limit.cap}
            message = "More is in use than the license allows: nothing is deleted, new ones are refused"
            if limit.key in VALUE_LIMITS:
                message = f"More is to be kept than the license allows: {deleted(limit.key, limit.cap)}"
                named = values.get(limit.key, {})
                fields["environments"] = sorted(name for name, value in named.items() if value > limit.cap)
            log.warning(message, **fields, state=view.state.value)

    def behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something behind the scenes, outside the transaction of the caller; `settled` waits for it."""
        task = asyncio.get_running_loop().create_task(_quietly(work), name="licensing", context=Context())
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task

    async def settled(self, within: float = PATIENCE) -> None:
        """Return when nothing runs behind the scenes any more; cancel what takes longer than `within` seconds."""
        deadline = self._host.clock.monotonic() + within
        while self._behind and (left := deadline - self._host.clock.monotonic()) > 0:
            await asyncio.wait(set(self._behind), timeout=left)
        for task in set(self._behind):
            task.cancel()

    async def _broadcast(self, reason: str) -> None:
        """Tell the plugins how caps stand now: one broadcast after the other, so that the last one is right."""
        async with self._telling:
            view = self._look()
            caps = {key: view.limits.cap(key) for key in LIMITS}
            change = CapsChange(reason, view.state.value, caps)
            await self._host.hooks.broadcast("caps_changed", host=self._host, change=change)

    @staticmethod
    def _log(view: View, reason: str, was: str) -> None:
        say = {"INFO": log.info, "WARNING": log.warning, "ERROR": log.error}[view.state.severity]
        fields = {"license_id": view.license.license_id} if view.license else {}
        say(view.message, state=view.state.value, was=was, reason=reason, **fields)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - nobody waits for it: the log is all there is
        log.exception("Licensing could not finish something", error)
