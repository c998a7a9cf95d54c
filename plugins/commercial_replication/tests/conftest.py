"""Fixtures of the replication tests."""

from clavitor_commercial_replication_testing.fixtures import database_url, lone_primary, pops, quick_pops

__all__ = ["database_url", "lone_primary", "pops", "quick_pops"]
