"""What a visitor may do, and so which entries of the navigation they see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clavitor_host.errors import Problem
from clavitor_host.host import Host
from clavitor_host.identity.authorization import refusal
from clavitor_host.identity.models import Identity, Resource


class Entry(NamedTuple):
    """One entry. `icon` is one character; an entry of the host has the name of its picture in `picture` instead."""

    title: str
    path: str
    action: str
    icon: str = ""
    picture: str = ""

    def is_current(self, path: str) -> bool:
        """Whether a page at `path` belongs to this entry."""
        return path == self.path or (self.path != "/admin" and path.startswith(f"{self.path}/"))


OWN = (
    Entry("Overview", "/admin", "me", picture="overview"),
    Entry("Users", "/admin/users", "users.read", picture="users"),
    Entry("Tokens", "/admin/tokens", "tokens.read", picture="tokens"),
    Entry("Audit", "/admin/audit", "audit.read", picture="audit"),
    Entry("Plugins", "/admin/plugins", "plugins.read", picture="plugins"),
)


class Access(NamedTuple):
    """What one visitor may do, as far as pages ask: the action of each entry, and the writing that belongs to it."""

    allowed: frozenset[str] = frozenset()
    entries: Sequence[Entry] = ()


async def access(host: Host, identity: Identity) -> Access:
    """Return what a visitor may do. Nothing is audited: they have not tried it yet."""
    added = [Entry(page.title, page.path, page.action, icon=page.icon) for page in host.admin_pages]
    entries = [*OWN, *added]
    actions = {f"{entry.action.partition('.')[0]}.write" for entry in entries} | {entry.action for entry in entries}
    allowed = frozenset([action for action in actions if await may(host, identity, action)])
    return Access(allowed, [entry for entry in entries if entry.action in allowed])


async def may(host: Host, identity: Identity, action: str, resource: Resource | None = None) -> bool:
    """Return what `host.authorize` would say, without its audit row for a refusal."""
    about = resource or Resource(action.partition(".")[0])
    if refusal(identity, action, about) is not None:
        return False
    try:
        await host.hooks.policy("authorize", host=host, identity=identity, action=action, resource=about)
    except Problem:
        return False
    return True
