"""An agent: it keeps the secrets of its environment at hand, does what it is told, and reports what it did.

python agent.py https://vault.example.com <registration token> <app id>
"""

import asyncio
import socket
import sys
from contextlib import suppress

from clavitor_host.client import AgentClient, Command, EntryChanged, NotFound, Resync


async def main(url: str, token: str, app_id: str) -> None:
    secrets: dict[str, str] = {}  # still encrypted: only you have the key
    async with AgentClient(url, token, app_id=app_id, instance_id=socket.gethostname(), version="1.0") as agent:
        print(f"registered as {agent.id}", flush=True)
        async for event in agent.events():
            match event:
                case EntryChanged(deleted=True):
                    secrets.pop(event.entry_id, None)
                case EntryChanged():
                    with suppress(NotFound):  # deleted since: the next event says so
                        secrets[event.entry_id] = (await agent.entry(event.entry_id)).encrypted_data
                case Resync():  # at the start, and when changes may have been missed
                    secrets = {entry.entry_id: entry.encrypted_data async for entry in agent.entries()}
                case Command(type="stop"):
                    await agent.acknowledge(event)
                    await agent.leave()
                    return
                case Command(type="count"):
                    agent.report("metrics", {"name": "secrets", "value": len(secrets)})
                    await agent.acknowledge(event, detail=f"{len(secrets)} secrets")
                case Command():
                    await agent.acknowledge(event, "FAILED", f"I do not know {event.type}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
