"""Agents that are registered again and again: as a rule two processes with one `instance_id`, which take it from each
other. The log says so, once a minute an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clavitor_host.api import log

if TYPE_CHECKING:
    from clavitor_fleet.agents.models import Agent
    from clavitor_host.api import Clock

PAUSE = 60.0
"""Seconds between two lines about an agent."""
_MOST = 1000


class Twins:
    """One per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, agent: Agent) -> None:
        """Log that an agent was registered again at once."""
        now = self._clock.monotonic()
        if now - self._told.get(agent.id, -PAUSE) < PAUSE:
            return
        if len(self._told) >= _MOST:
            self._told = {id: at for id, at in self._told.items() if now - at < PAUSE}
        if len(self._told) < _MOST:
            self._told[agent.id] = now
            log.warning(
                "A LIVE agent was registered again just after it was registered: do two processes use its instance_id?",
                agent=agent.id,
                instance_id=agent.instance_id,
            )
