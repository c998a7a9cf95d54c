"""Fixtures of the fleet's tests."""

from clavitor_fleet_testing.fixtures import chdb_folder, clock, database_url, fleet, quick_start, start

__all__ = ["chdb_folder", "clock", "database_url", "fleet", "quick_start", "start"]
