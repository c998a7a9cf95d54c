"""Fixtures of the replication tests."""

from clavitor_commercial_replication_testing.backup import backup, quick_backup
from clavitor_commercial_replication_testing.fixtures import clock, database_url, lone_primary, pops, quick_pops

__all__ = ["backup", "clock", "database_url", "lone_primary", "pops", "quick_backup", "quick_pops"]
