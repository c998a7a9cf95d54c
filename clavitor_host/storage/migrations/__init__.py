"""Schema histories: `Migrations` describes one, `migrate` brings a database up to date.

The revision modules beside this file are the host's own history, named "host".
"""

from clavitor_host.storage.history import Migrations
from clavitor_host.storage.migrate import migrate

__all__ = ["Migrations", "migrate"]
