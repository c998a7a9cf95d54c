"""Python clients of a server. Needs httpx, and nothing of the server itself."""

from clavitor_host.client.agent import AgentClient
from clavitor_host.client.errors import (
    CapReached,
    ClientError,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
    ServerUnavailable,
    Unauthorized,
)
from clavitor_host.client.values import Artifact, Command, Entry, EntryChanged, Event, Resync

__all__ = [
    "AgentClient",
    "Artifact",
    "CapReached",
    "ClientError",
    "Command",
    "Conflict",
    "Entry",
    "EntryChanged",
    "Event",
    "Forbidden",
    "NotFound",
    "Refused",
    "Resync",
    "ServerUnavailable",
    "Unauthorized",
]
