"""Replication of the vault from a primary POP to a read-only backup POP."""
