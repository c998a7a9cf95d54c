"""Agents that the license has refused a seat: asking again with each heartbeat is cheap, and not written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_fleet.agents.liveness import count_live_agents
from clavitor_host.api import CapExceeded

if TYPE_CHECKING:
    from clavitor_host.api import Host

LIMIT = "max_agents"
_MOST = 10_000


class Refusals:
    """One per process. The first refusal of an agent is the license's own, with its audit row; it is repeated, by one
    indexed count and without a transaction, until there is a free seat."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._refused: dict[str, CapExceeded] = {}

    async def repeat(self, agent_id: str) -> None:
        """Raise the `CapExceeded` of an agent that was refused a seat, while none is free."""
        before = self._refused.get(agent_id)
        if before is not None and await self._is_full():
            raise CapExceeded(
                limit=before.limit,
                current=before.current,
                cap=before.cap,
                state=before.state,
                message=before.detail,
                status=before.status,
            )

    def note(self, agent_id: str, refusal: CapExceeded) -> None:
        """Remember that an agent was refused a seat."""
        self._refused.pop(agent_id, None)
        self._refused[agent_id] = refusal.with_traceback(None)
        if len(self._refused) > _MOST:
            del self._refused[next(iter(self._refused))]

    def forget(self, agent_id: str) -> None:
        """Forget about an agent that has a seat."""
        self._refused.pop(agent_id, None)

    async def _is_full(self) -> bool:
        cap = await self._host.effective_cap(LIMIT)
        return cap is not None and await count_live_agents(self._host, self._host.db) >= cap
