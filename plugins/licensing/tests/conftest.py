"""Fixtures of the licensing tests."""

from clavitor_licensing_testing.fixtures import clock, database_url, logged, quick_start, server, start

__all__ = ["clock", "database_url", "logged", "quick_start", "server", "start"]
